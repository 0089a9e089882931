//! Values that every connector's configuration shares: durations as people write them, and secrets that do not print.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Durations as people write them: `200ms`, `20s`, `5min`. For `#[serde(with = "duration")]`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Reads a duration.
    ///
    /// # Errors
    /// When the text is no duration; the message shows how one looks.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|error| D::Error::custom(format!("`{text}` is no duration such as 200ms, 20s or 5min: {error}")))
    }

    /// Writes a duration as [`deserialize`] reads it.
    ///
    /// # Errors
    /// When the serializer fails.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }
}

/// A text that prints as `***`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the client that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret as it is configured: its text, or the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// The secret itself.
    Text(Secret),
    /// A file with the secret alone, whose last line may end.
    File(PathBuf),
}

/// Bytes of a secret at most; a larger file is another one.
const MAX_SECRET: u64 = 1 << 20;

impl SecretSource {
    /// Of a setting and the one of the same name with `_file` behind it; `None` where neither is set.
    ///
    /// # Errors
    /// When both are.
    pub fn of(name: &str, text: Option<&Secret>, file: Option<&Path>) -> Result<Option<Self>, String> {
        match (text, file) {
            (Some(_), Some(_)) => Err(format!("{name} and {name}_file are both set: keep one")),
            (Some(text), None) => Ok(Some(Self::Text(text.clone()))),
            (None, Some(file)) => Ok(Some(Self::File(file.to_owned()))),
            (None, None) => Ok(None),
        }
    }

    /// The secret; of a file what it holds now, without the line's end.
    ///
    /// # Errors
    /// When the file cannot be read, is no text, is empty or no secret by its size; in words that name it.
    pub fn read(&self) -> Result<Secret, String> {
        let file = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::File(file) => file,
        };
        let wrong = |why: &dyn fmt::Display| format!("cannot read the secret in {}: {why}", file.display());
        let size = std::fs::metadata(file).map_err(|error| wrong(&error))?.len();
        if size > MAX_SECRET {
            return Err(wrong(&format!("it has {size} bytes, which no secret has")));
        }
        let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() { Err(wrong(&"it is empty")) } else { Ok(Secret::new(text)) }
    }
}
