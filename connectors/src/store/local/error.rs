//! Why the local store cannot do something, and what to do about it.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// Why the local store cannot do something. Nothing in it is needed to get state back: the changelog has it all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// A setting cannot be used.
    #[error("{0}")]
    Config(String),
    /// Someone else holds the folder.
    #[error(
        "the state under {} is in use by another process: stop that one, or give this one a folder of its own",
        .0.display()
    )]
    Locked(PathBuf),
    /// A newer version wrote the folder; nothing in it was changed.
    #[error(
        "the state under {} was written by a newer version of this program (format {found}, this one reads up to {known}): \
         go back to that version, or stop and delete the folder, it is restored from the changelog",
        .dir.display()
    )]
    Newer {
        /// The folder.
        dir: PathBuf,
        /// The format that was found.
        found: u32,
        /// The newest format that this version reads.
        known: u32,
    },
    /// Files are damaged; nothing was deleted.
    #[error(
        "the state under {} is damaged ({reason}): stop, delete the folder, it is restored from the changelog",
        .dir.display()
    )]
    Corrupt {
        /// The folder.
        dir: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The disk does not take or give what was asked; it may later.
    #[error("cannot {action} state under {}: {reason}", .dir.display())]
    Disk {
        /// `open`, `read` or `write`.
        action: &'static str,
        /// The folder.
        dir: PathBuf,
        /// What the operating system said, and what to do.
        reason: String,
    },
    /// No state of this partition is here, or not all of it yet.
    #[error("state `{store}` of partition {partition} is not open here: restore it first")]
    NotOpen {
        /// The store.
        store: String,
        /// The partition.
        partition: i32,
    },
    /// A key, a value or a name that cannot be stored.
    #[error("{0}")]
    TooLarge(String),
}

/// Whether files of a store turned out to be damaged since it was opened. It outlives the store.
#[derive(Clone, Debug, Default)]
pub struct Damage(Arc<OnceLock<LocalError>>);

impl Damage {
    /// What was found first, if anything.
    pub fn found(&self) -> Option<&LocalError> {
        self.0.get()
    }

    /// Notes it where an error says so.
    pub(crate) fn note(&self, error: &LocalError) {
        if matches!(error, LocalError::Corrupt { .. }) {
            let _ = self.0.set(error.clone());
        }
    }
}

impl LocalError {
    /// What the operating system said while `action` went on.
    pub(crate) fn io(action: &'static str, dir: &Path, error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::UnexpectedEof => Self::corrupt(dir, error),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::disk(
                action,
                dir,
                "no space left on device: free space there; nothing is lost, it goes on by itself".to_owned(),
            ),
            ErrorKind::PermissionDenied => {
                Self::disk(action, dir, format!("{error}: let this process read and write the folder"))
            }
            _ => Self::disk(action, dir, format!("{error}: check the disk; nothing is lost, it goes on by itself")),
        }
    }

    /// What fjall said while `action` went on.
    pub(crate) fn fjall(action: &'static str, dir: &Path, error: &fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => Self::io(action, dir, error),
            fjall::Error::Locked => Self::Locked(dir.to_owned()),
            fjall::Error::Poisoned => Self::disk(
                action,
                dir,
                "an earlier write failed: check the disk; nothing is lost, it goes on by itself".to_owned(),
            ),
            other => Self::corrupt(dir, other),
        }
    }

    pub(crate) fn corrupt(dir: &Path, reason: &dyn std::fmt::Display) -> Self {
        Self::Corrupt { dir: dir.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn disk(action: &'static str, dir: &Path, reason: String) -> Self {
        Self::Disk { action, dir: dir.to_owned(), reason }
    }
}

impl From<LocalError> for headwater::spi::StoreError {
    fn from(error: LocalError) -> Self {
        Self(error.to_string())
    }
}
