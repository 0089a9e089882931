//! A program of four processors in a row, each of which passes on what the one before it said: `hop.begun` fans out to two
//! `hop.split`, each of those becomes a `hop.tried` at its second attempt, and each of those two `hop.passed` unless a file
//! `closed` lies in the working folder; each of those ends as a `hop.ended`.

use std::{path::Path, process::ExitCode};

use headwater::{Event, Failure, Payload, Pipeline, Result};
use headwater_runtime::Program;
use serde::{Deserialize, Serialize};

/// A hop's event: its record's name and its type.
macro_rules! hop {
    ($name:ident, $record:literal, $type:literal) => {
        #[derive(Serialize, Deserialize)]
        #[serde(rename = $record)]
        struct $name {
            id: String,
        }

        impl Payload for $name {
            const TYPE: &'static str = $type;
            const SCHEMA: &'static str = concat!(
                r#"{"type":"record","name":""#,
                $record,
                r#"","namespace":"headwater.hop","fields":[{"name":"id","type":"string"}]}"#
            );

            fn key(&self) -> &str {
                &self.id
            }
        }
    };
}

hop!(Begun, "HopBegun", "hop.begun");
hop!(Split, "HopSplit", "hop.split");
hop!(Tried, "HopTried", "hop.tried");
hop!(Passed, "HopPassed", "hop.passed");
hop!(Ended, "HopEnded", "hop.ended");

async fn split(Begun { id }: Begun) -> Result<Vec<Split>> {
    Ok(["a", "b"].map(|part| Split { id: format!("{id}-{part}") }).into())
}

async fn again(split: Event<Split>) -> Result<Tried> {
    if split.meta.attempt == 0 {
        return Err(Failure::retry("the first attempt fails"));
    }
    Ok(Tried { id: split.id.clone() })
}

async fn pass(Tried { id }: Tried) -> Result<Vec<Passed>> {
    if Path::new("closed").exists() {
        return Err(Failure::reject("the gate is closed"));
    }
    Ok(["1", "2"].map(|part| Passed { id: format!("{id}{part}") }).into())
}

async fn end(Passed { id }: Passed) -> Result<Ended> {
    Ok(Ended { id })
}

fn main() -> ExitCode {
    let pipeline = || Pipeline::default().on("split", split).on("again", again).on("pass", pass).on("end", end);
    Program::new(move |_| Ok(pipeline())).main()
}
