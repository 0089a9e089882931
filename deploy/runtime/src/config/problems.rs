//! What is wrong, all of it at once.

/// What is wrong with configuration, arguments or pipeline, a sentence each: exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Problems(pub Vec<String>);

impl Problems {
    /// One problem.
    pub fn one(text: impl Into<String>) -> Self {
        Self(vec![text.into()])
    }

    /// An error where there is any.
    ///
    /// # Errors
    /// All of them.
    pub fn refuse(problems: Vec<String>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }
}
