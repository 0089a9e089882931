//! Keyed state: what a stateful step keeps of each key, and how it is written down.
//!
//! A saved state is two MessagePack values in a row, the version of its type and the state itself as a map: any reader of
//! MessagePack can show it, and a field with a serde default may be added without a new version.

mod json;

use serde::{Serialize, de::DeserializeOwned};

use self::json::StateJson;
use crate::failure::{Failure, Result};

/// What a stateful step keeps of one key.
///
/// ```
/// # use headwater::State;
/// #[derive(Default, serde::Serialize, serde::Deserialize)]
/// struct Spend {
///     total_cents: i64,
/// }
///
/// impl State for Spend {
///     const NAME: &'static str = "spend";
/// }
/// ```
pub trait State: Serialize + DeserializeOwned + Send + 'static {
    /// The store's name: steps of one group that name the same share it. 1 to 100 characters of `a-z`, `0-9`, `-`, `_`.
    const NAME: &'static str;

    /// The version of the type, to be raised when serde can no longer read what was saved before.
    const VERSION: u32 = 1;

    /// Makes a state of one that an older version has saved; `saved.read::<Old>()` reads it.
    ///
    /// # Errors
    /// Where it cannot: the key's partition then waits, and nothing is lost. That is what it does unless it is written.
    fn upgrade(version: u32, saved: SavedState<'_>) -> Result<Self> {
        let _ = saved;
        let (name, ours) = (Self::NAME, Self::VERSION);
        Err(Failure::reject(format!("it has version {version} and `{name}` has {ours}: write `State::upgrade`")))
    }
}

/// A state as it was saved.
#[derive(Clone, Copy, Debug)]
pub struct SavedState<'a>(&'a [u8]);

impl SavedState<'_> {
    /// Reads it as a `T`, the type that saved it.
    ///
    /// # Errors
    /// A [`Failure::Reject`] that says which field does not fit.
    pub fn read<T: DeserializeOwned>(self) -> Result<T> {
        rmp_serde::from_slice(self.0).map_err(|error| Failure::reject(error.to_string()))
    }
}

/// What the first argument of a stateful function may refer to: a state, which begins as its default, or an `Option` of
/// one, which begins as `None`, and forgets the key where it ends so.
pub trait Slot: Send + Sized + 'static {
    /// The state.
    type State: State;

    /// What the function sees of what was saved.
    fn open(saved: Option<Self::State>) -> Self;

    /// What is to be saved; `None` forgets the key.
    fn kept(&self) -> Option<&Self::State>;
}

#[diagnostic::do_not_recommend]
impl<S: State + Default> Slot for S {
    type State = S;

    fn open(saved: Option<S>) -> Self {
        saved.unwrap_or_default()
    }

    fn kept(&self) -> Option<&S> {
        Some(self)
    }
}

#[diagnostic::do_not_recommend]
impl<S: State> Slot for Option<S> {
    type State = S;

    fn open(saved: Option<S>) -> Self {
        saved
    }

    fn kept(&self) -> Option<&S> {
        self.as_ref()
    }
}

/// Reads a saved state.
///
/// # Errors
/// Why it cannot be read, for people: its version is unknown, or its bytes are not what its type says.
pub(crate) fn load<S: State>(bytes: &[u8]) -> Result<S, String> {
    let (version, saved) = split(bytes)?;
    if version > S::VERSION {
        let (name, ours) = (S::NAME, S::VERSION);
        return Err(format!("it has version {version} and this program's `{name}` has {ours}: run the newer program"));
    }
    let read = if version == S::VERSION { saved.read() } else { S::upgrade(version, saved) };
    read.map_err(|failure| match failure {
        Failure::Reject(cause) | Failure::Retry(cause) => cause.to_string(),
        Failure::Throttled(_) => "its upgrade asks to wait".to_owned(),
    })
}

/// Writes a state down.
///
/// # Errors
/// When serde cannot write it.
pub(crate) fn save<S: State>(state: &S) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(64);
    let version = rmp_serde::encode::write(&mut bytes, &S::VERSION);
    version.and_then(|()| rmp_serde::encode::write_named(&mut bytes, state)).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// A saved state's version and the state as JSON, for people; bytes are shown in hex.
///
/// # Errors
/// When the bytes are no saved state.
pub fn show(bytes: &[u8]) -> Result<(u32, serde_json::Value), String> {
    let (version, saved) = split(bytes)?;
    let shown: StateJson = saved.read().map_err(|_| "it is not what its version says".to_owned())?;
    Ok((version, shown.0))
}

fn split(bytes: &[u8]) -> Result<(u32, SavedState<'_>), String> {
    let mut rest = bytes;
    let version = rmp_serde::from_read(&mut rest).map_err(|_| "it does not begin with a version".to_owned())?;
    Ok((version, SavedState(rest)))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Old {
        cents: i64,
    }

    impl State for Old {
        const NAME: &'static str = "spend";
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Spend {
        euros: i64,
        #[serde(default)]
        payments: u64,
    }

    impl State for Spend {
        const NAME: &'static str = "spend";
        const VERSION: u32 = 2;

        fn upgrade(_: u32, saved: SavedState<'_>) -> Result<Self> {
            Ok(Self { euros: saved.read::<Old>()?.cents / 100, payments: 0 })
        }
    }

    /// Red when the version is not compared, or `upgrade` is not called for an older one.
    #[test]
    fn a_state_of_another_version_is_upgraded_or_named() {
        let old = save(&Old { cents: 250 }).expect("saved");
        assert_eq!(load::<Spend>(&old).expect("upgraded"), Spend { euros: 2, payments: 0 });
        let new = save(&Spend { euros: 2, payments: 1 }).expect("saved");
        assert_eq!(load::<Spend>(&new).expect("read"), Spend { euros: 2, payments: 1 });
        let why = load::<Old>(&new).expect_err("newer than the program");
        assert!(why.contains("version 2") && why.contains("newer program"), "{why}");
        let why = load::<Spend>(&[0xc1, 1, 2]).expect_err("no state");
        assert!(why.contains("version"), "{why}");
    }

    /// Red when states are written as arrays: what has no names cannot be shown, nor read with a field more.
    #[test]
    fn a_saved_state_can_be_shown_and_gain_a_field() {
        #[derive(Serialize, Deserialize)]
        struct Before {
            euros: i64,
        }
        impl State for Before {
            const NAME: &'static str = "spend";
            const VERSION: u32 = 2;
        }
        let bytes = save(&Before { euros: 7 }).expect("saved");
        assert_eq!(show(&bytes).expect("json"), (2, serde_json::json!({"euros": 7})));
        assert_eq!(load::<Spend>(&bytes).expect("read"), Spend { euros: 7, payments: 0 });
    }
}
