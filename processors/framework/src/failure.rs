//! How a processor fails: retry, reject, or be told to wait.

pub(crate) mod backoff;
pub(crate) mod breaker;
pub(crate) mod cut;
pub(crate) mod dead_letter;
pub(crate) mod failure_report;
pub(crate) mod ladder;

use std::{borrow::Cow, error::Error, fmt, time::Duration};

/// What a processor returns; the error is a [`Failure`] unless said otherwise.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a record was not processed.
///
/// Any `std::error::Error` becomes a [`Failure::Retry`] by `?`; [`OrReject::or_reject`] makes a [`Failure::Reject`]. A
/// stateful function is pure, and fails again the same way: there `?` rejects, unless [`OrRetry::or_retry`] asks for a
/// retry.
/// It is no `std::error::Error` itself, or `?` could not convert every other one.
#[derive(Debug)]
pub enum Failure {
    /// It may succeed later: try again with back-off.
    Retry(Cause),
    /// It can never succeed: set it aside at once.
    Reject(Cause),
    /// The other side asked to wait this long: pause, and do not count it as an attempt.
    Throttled(Duration),
}

impl Failure {
    /// A failure worth another try.
    pub fn retry(message: impl Into<String>) -> Self {
        Self::Retry(Cause { asked_for: true, ..Cause::new(message) })
    }

    /// A failure that no other try will change.
    pub fn reject(message: impl Into<String>) -> Self {
        Self::Reject(Cause::new(message))
    }

    /// Names the dependency whose fault it is, for a processor behind several circuit breakers: the others do not count it.
    #[must_use]
    pub fn of(mut self, dependency: impl Into<Cow<'static, str>>) -> Self {
        if let Self::Retry(cause) | Self::Reject(cause) = &mut self {
            cause.dependency = Some(dependency.into());
        }
        self
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let (message, type_name) = (error.to_string(), std::any::type_name::<E>());
        Self::Retry(Cause { message, source: Some(Box::new(error)), type_name, dependency: None, asked_for: false })
    }
}

/// A message for people and, where there is one, the error behind it.
#[derive(Debug)]
pub struct Cause {
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    /// The type of the error that it was made from.
    type_name: &'static str,
    dependency: Option<Cow<'static, str>>,
    /// Whether another attempt was asked for in so many words.
    asked_for: bool,
}

impl Cause {
    /// A cause that is only a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None, type_name: "", dependency: None, asked_for: false }
    }

    /// The message, without its sources.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another attempt was asked for in so many words, and not by a mere `?`.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.asked_for
    }

    /// The dependency that it is the fault of, where the processor named one.
    pub(crate) fn dependency(&self) -> Option<&str> {
        self.dependency.as_deref()
    }

    /// The names of the error types, outermost first. Of an error behind another one only what its `Debug` begins with is
    /// known: the name of its struct or variant.
    pub(crate) fn types(&self) -> Vec<String> {
        let mut types = vec![self.type_name.to_owned()];
        let mut next = self.source.as_deref().and_then(Error::source);
        while let Some(error) = next {
            let text = format!("{error:?}");
            let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
            types.push(text[..end].to_owned());
            next = error.source();
        }
        types
    }
}

impl fmt::Display for Cause {
    /// The message and every source behind it, each once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut last = self.message.clone();
        let mut next = self.source.as_deref().map(|e| e as &dyn Error);
        while let Some(error) = next {
            let text = error.to_string();
            if text != last {
                write!(f, ": {text}")?;
                last = text;
            }
            next = error.source();
        }
        Ok(())
    }
}

/// Turns an absent value or an error into a rejection.
pub trait OrReject<T> {
    /// The value, or a [`Failure::Reject`] that says `why`.
    fn or_reject(self, why: &str) -> Result<T>;
}

impl<T> OrReject<T> for Option<T> {
    fn or_reject(self, why: &str) -> Result<T> {
        self.ok_or_else(|| Failure::reject(why))
    }
}

impl<T, E: fmt::Display> OrReject<T> for std::result::Result<T, E> {
    fn or_reject(self, why: &str) -> Result<T> {
        self.map_err(|e| Failure::reject(format!("{why}: {e}")))
    }
}

/// Turns an absent value or an error into a retry, in a stateful function too.
pub trait OrRetry<T> {
    /// The value, or a [`Failure::Retry`] that says `why`.
    fn or_retry(self, why: &str) -> Result<T>;
}

impl<T> OrRetry<T> for Option<T> {
    fn or_retry(self, why: &str) -> Result<T> {
        self.ok_or_else(|| Failure::retry(why))
    }
}

impl<T, E: fmt::Display> OrRetry<T> for std::result::Result<T, E> {
    fn or_retry(self, why: &str) -> Result<T> {
        self.map_err(|e| Failure::retry(format!("{why}: {e}")))
    }
}

/// Why a record cannot be processed by anybody, as dead letters name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadLetterKind {
    /// The bytes are not what their schema says.
    Decode,
    /// The record breaks a rule of the wire contract.
    Contract,
    /// The processor rejected it.
    Rejected,
    /// The processor was past its time limit at the last attempt.
    Timeout,
    /// Every attempt failed.
    Exhausted,
    /// A sink row that the database refuses.
    Row,
}

impl DeadLetterKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Decode, Self::Contract, Self::Rejected, Self::Timeout, Self::Exhausted, Self::Row];

    /// The kind's name in headers, tables and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Contract => "contract",
            Self::Rejected => "rejected",
            Self::Timeout => "timeout",
            Self::Exhausted => "exhausted",
            Self::Row => "row",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write the receipt")]
    struct Unwritten(#[source] std::io::Error);

    /// Red when `Display` leaves the sources out, or says one twice that has the text of the last.
    #[test]
    fn a_cause_names_every_source_once() {
        let fire = || std::io::Error::other("disk on fire");
        let Failure::Retry(cause) = Failure::from(fire()) else { panic!("retry") };
        assert_eq!(cause.to_string(), "disk on fire");
        let Failure::Retry(cause) = Failure::from(Unwritten(fire())) else { panic!("retry") };
        assert_eq!(cause.message(), "cannot write the receipt");
        assert_eq!(cause.to_string(), "cannot write the receipt: disk on fire");
        let none: Option<u8> = None;
        let Err(Failure::Reject(cause)) = none.or_reject("no value") else { panic!("reject") };
        assert_eq!(cause.message(), "no value");
    }
}
