//! Data goes to standard output through one writer, so that a reader that goes away (`| head -1`) is an end and no error.

use std::io::{self, BufWriter, Stdout, Write};

use anyhow::{Context, Result};

/// Standard output, gathered and written by [`Output::flush`].
pub(crate) struct Output(BufWriter<Stdout>);

/// Whether somebody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Reads,
    HasGone,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self(BufWriter::new(io::stdout()))
    }

    /// One line.
    ///
    /// # Errors
    /// When it cannot be written for another reason than a reader that has gone.
    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> Result<Reader> {
        outcome(writeln!(self.0, "{text}"))
    }

    /// Hands on what was gathered.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn flush(&mut self) -> Result<Reader> {
        outcome(self.0.flush())
    }
}

fn outcome(written: io::Result<()>) -> Result<Reader> {
    match written {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::HasGone),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}
