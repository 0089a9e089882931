//! Why a worker ends.

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The schema of something it emits is not registered.
    #[error("{group}: {why}")]
    Schemas {
        /// The group.
        group: String,
        /// What is missing, and how to mend it.
        why: String,
    },
    /// The source or the store cannot go on; the group started anew may.
    #[error("{group}: {why}")]
    Failed {
        /// The group.
        group: String,
        /// What happened.
        why: String,
    },
    /// The group must not go on until a person has acted.
    #[error("{group}: {why}")]
    Halted {
        /// The group.
        group: String,
        /// What happened, and how to mend it.
        why: String,
    },
}
