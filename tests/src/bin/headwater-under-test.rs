//! The program that the end-to-end tests start, stop, freeze and kill: `headwater` itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    headwater_cli::program().main()
}
