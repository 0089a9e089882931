//! What a processor's argument may be: the payload, the event, or any event under a pattern.

use std::sync::Arc;

use apache_avro::types::Value;

use crate::{
    codec::{CodecError, WriterSchema},
    event::{Event, Meta, event_type::EventType, payload::Payload},
};

/// What a processor takes: a payload `T`, an `Event<T>`, or an `Event<Any>` under a pattern.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "a processor takes an event by value",
    note = "take the payload `T`, `Event<T>` where the function needs the metadata, or `Event<Any>` under a pattern"
)]
pub trait Input: Sized + Send + 'static {
    /// The event type, as `#[on_event]` must name it; `None` takes any pattern.
    const LABEL: Option<&'static str>;

    /// The type's facts; `None` for [`Any`].
    fn event_type() -> Option<EventType>;

    /// Reads the argument from a record.
    fn read(delivery: &Delivery<'_>) -> Result<Self, CodecError>;
}

/// A record that is ready for its processor.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Its metadata.
    pub meta: &'a Arc<Meta>,
    /// The schema that its value was written with.
    pub schema: &'a WriterSchema,
    /// The value without the wire format's prefix.
    pub datum: &'a [u8],
}

/// The payload of an event whose type is not known at compile time.
#[derive(Clone, Debug, PartialEq)]
pub struct Any {
    /// The Avro record's full name, `headwater.payment.PaymentCompleted`; empty when the schema is no named type.
    pub name: String,
    /// The value as it was written.
    pub value: Value,
}

#[diagnostic::do_not_recommend]
impl<T: Payload> Input for T {
    const LABEL: Option<&'static str> = Some(T::TYPE);

    fn event_type() -> Option<EventType> {
        Some(EventType::of::<T>())
    }

    fn read(delivery: &Delivery<'_>) -> Result<Self, CodecError> {
        delivery.schema.decode(delivery.datum)
    }
}

impl<T: Payload> Input for Event<T> {
    const LABEL: Option<&'static str> = Some(T::TYPE);

    fn event_type() -> Option<EventType> {
        Some(EventType::of::<T>())
    }

    fn read(delivery: &Delivery<'_>) -> Result<Self, CodecError> {
        Ok(Self { meta: delivery.meta.clone(), data: delivery.schema.decode(delivery.datum)? })
    }
}

impl Input for Event<Any> {
    const LABEL: Option<&'static str> = None;

    fn event_type() -> Option<EventType> {
        None
    }

    fn read(delivery: &Delivery<'_>) -> Result<Self, CodecError> {
        let name = delivery.schema.full_name().unwrap_or_default().to_owned();
        Ok(Self { meta: delivery.meta.clone(), data: Any { name, value: delivery.schema.value(delivery.datum)? } })
    }
}
