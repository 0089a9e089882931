//! The `headwater` binary.

use std::process::ExitCode;

/// A record's many small pieces are made on one thread and dropped on another, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    headwater_cli::program().main()
}
