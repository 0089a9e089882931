//! Data goes to standard output through one writer, so that a reader that goes away (`| head -1`) is an end and no error.

use std::io::{self, BufWriter, Stdout, Write};

use anyhow::{Context, Result};

/// Standard output, gathered and written by [`Output::flush`].
pub struct Output(BufWriter<Stdout>);

/// Whether somebody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputState {
    /// They do.
    Open,
    /// They have gone.
    Closed,
}

impl Default for Output {
    fn default() -> Self {
        Self::new()
    }
}

impl Output {
    /// Nothing gathered yet.
    pub fn new() -> Self {
        Self(BufWriter::new(io::stdout()))
    }

    /// One line.
    ///
    /// # Errors
    /// When it cannot be written for another reason than a reader that has gone.
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<OutputState> {
        outcome(writeln!(self.0, "{text}"))
    }

    /// Hands on what was gathered.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn flush(&mut self) -> Result<OutputState> {
        outcome(self.0.flush())
    }
}

fn outcome(written: io::Result<()>) -> Result<OutputState> {
    match written {
        Ok(()) => Ok(OutputState::Open),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(OutputState::Closed),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}
