//! The program whose memory is measured: `headwater` itself.

use std::process::ExitCode;

/// As it is shipped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    headwater_cli::program().main()
}
