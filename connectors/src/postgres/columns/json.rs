//! Nested values as JSON, for `jsonb`.
//!
//! Bytes are base64, dates and times ISO 8601, a duration an ISO 8601 period, a decimal a JSON number with all its
//! digits, a union the value of its branch. `NaN` and the infinities, which JSON does not have, are text.

use apache_avro::types::Value;
use chrono::{DateTime, Duration, NaiveDate, NaiveDateTime, NaiveTime};

use super::{
    layout::{Layout, Shape},
    number,
};
use crate::http::base64::base64;

/// Deeper nesting would exhaust the server's stack, which it reports as an outage.
const MAX_DEPTH: usize = 256;

const OUT_OF_RANGE: &str = "a date or time is out of range";

/// Appends `value` as JSON text.
///
/// # Errors
/// Why `jsonb` cannot hold it.
pub(crate) fn write(value: &Value, shape: &Shape, layout: &Layout, out: &mut Vec<u8>) -> Result<(), &'static str> {
    JsonWriter { layout, out }.value(value, shape, 0)
}

struct JsonWriter<'a> {
    layout: &'a Layout,
    out: &'a mut Vec<u8>,
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &Value, shape: &Shape, depth: usize) -> Result<(), &'static str> {
        if depth > MAX_DEPTH {
            return Err("a value is nested deeper than 256 levels");
        }
        let layout = self.layout;
        let shape = layout.resolve(shape);
        match value {
            Value::Union(branch, inner) => {
                let shapes = if let Shape::Branches(shapes) = shape { shapes.as_slice() } else { &[] };
                let branch = usize::try_from(*branch).unwrap_or(usize::MAX);
                self.value(inner, shapes.get(branch).unwrap_or(&Shape::Plain), depth)
            }
            Value::Array(items) => {
                self.list(b"[", b"]", items, |writer, item| writer.value(item, inner_shape(shape), depth + 1))
            }
            Value::Map(entries) => self.list(b"{", b"}", entries, |writer, (key, item)| {
                writer.key(key)?;
                writer.value(item, inner_shape(shape), depth + 1)
            }),
            Value::Record(fields) => {
                let shapes = if let Shape::Fields(shapes) = shape { shapes.as_slice() } else { &[] };
                self.list(b"{", b"}", fields.iter().enumerate(), |writer, (i, (key, item))| {
                    writer.key(key)?;
                    writer.value(item, shapes.get(i).unwrap_or(&Shape::Plain), depth + 1)
                })
            }
            Value::Decimal(decimal) => {
                let Shape::Decimal(scale) = shape else { return Err("a decimal has no scale in its schema") };
                let unscaled = Vec::<u8>::try_from(decimal).map_err(|_| "a decimal is longer than its own bytes")?;
                self.raw(&number::decimal(&unscaled, *scale)?)
            }
            leaf => self.leaf(leaf),
        }
    }

    fn leaf(&mut self, value: &Value) -> Result<(), &'static str> {
        match value {
            Value::Null => self.raw("null"),
            Value::Boolean(b) => self.raw(if *b { "true" } else { "false" }),
            Value::Int(n) => self.raw(&n.to_string()),
            Value::Long(n) => self.raw(&n.to_string()),
            Value::Float(n) if n.is_finite() => self.raw(&n.to_string()),
            Value::Float(n) => self.text(not_finite(f64::from(*n))),
            Value::Double(n) if n.is_finite() => self.raw(&n.to_string()),
            Value::Double(n) => self.text(not_finite(*n)),
            Value::Bytes(bytes) | Value::Fixed(_, bytes) => self.text(&base64(bytes)),
            Value::String(text) | Value::Enum(_, text) => self.text(text),
            Value::BigDecimal(n) => {
                let (digits, scale) = n.as_bigint_and_exponent();
                self.raw(&number::plain(&digits.to_string(), scale)?)
            }
            Value::Uuid(id) => self.text(&id.to_string()),
            Value::Date(days) => self.text(&date(*days).ok_or(OUT_OF_RANGE)?),
            Value::TimeMillis(n) => self.text(&time(i64::from(*n), 1_000_000).ok_or(OUT_OF_RANGE)?),
            Value::TimeMicros(n) => self.text(&time(*n, 1_000).ok_or(OUT_OF_RANGE)?),
            Value::TimestampMillis(n) => self.instant(DateTime::from_timestamp_millis(*n).map(|t| t.naive_utc()), "Z"),
            Value::TimestampMicros(n) => self.instant(DateTime::from_timestamp_micros(*n).map(|t| t.naive_utc()), "Z"),
            Value::TimestampNanos(n) => self.instant(Some(DateTime::from_timestamp_nanos(*n).naive_utc()), "Z"),
            Value::LocalTimestampMillis(n) => {
                self.instant(DateTime::from_timestamp_millis(*n).map(|t| t.naive_utc()), "")
            }
            Value::LocalTimestampMicros(n) => {
                self.instant(DateTime::from_timestamp_micros(*n).map(|t| t.naive_utc()), "")
            }
            Value::LocalTimestampNanos(n) => self.instant(Some(DateTime::from_timestamp_nanos(*n).naive_utc()), ""),
            Value::Duration(duration) => self.text(&period(*duration)),
            _ => Err("a nested value has a type that JSON cannot hold"),
        }
    }

    fn list<T>(
        &mut self,
        open: &[u8],
        close: &[u8],
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        self.out.extend_from_slice(open);
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            write(self, item)?;
        }
        self.out.extend_from_slice(close);
        Ok(())
    }

    fn key(&mut self, key: &str) -> Result<(), &'static str> {
        self.text(key)?;
        self.out.push(b':');
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), &'static str> {
        if text.contains('\0') {
            return Err("text holds a NUL character");
        }
        serde_json::to_writer(&mut *self.out, text).map_err(|_| "text cannot be written as JSON")
    }

    fn instant(&mut self, time: Option<NaiveDateTime>, zone: &str) -> Result<(), &'static str> {
        let time = time.ok_or(OUT_OF_RANGE)?;
        self.text(&format!("{}{zone}", time.format("%Y-%m-%dT%H:%M:%S%.f")))
    }

    #[expect(clippy::unnecessary_wraps, reason = "reads as its siblings do")]
    fn raw(&mut self, text: &str) -> Result<(), &'static str> {
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn inner_shape(shape: &Shape) -> &Shape {
    if let Shape::Items(inner) = shape { inner } else { &Shape::Plain }
}

fn not_finite(number: f64) -> &'static str {
    match number {
        n if n.is_nan() => "NaN",
        n if n > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

fn date(days: i32) -> Option<String> {
    let date = NaiveDate::from_ymd_opt(1970, 1, 1)?.checked_add_signed(Duration::days(i64::from(days)))?;
    Some(date.to_string())
}

fn time(units: i64, nanos_per_unit: i64) -> Option<String> {
    let nanos = units.checked_mul(nanos_per_unit)?;
    let seconds = u32::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
    let rest = u32::try_from(nanos.rem_euclid(1_000_000_000)).ok()?;
    Some(NaiveTime::from_num_seconds_from_midnight_opt(seconds, rest)?.format("%H:%M:%S%.f").to_string())
}

fn period(duration: apache_avro::Duration) -> String {
    let millis = u32::from(duration.millis());
    let (months, days) = (u32::from(duration.months()), u32::from(duration.days()));
    format!("P{months}M{days}DT{}.{:03}S", millis / 1_000, millis % 1_000)
}
