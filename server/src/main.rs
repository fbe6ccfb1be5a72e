//! The `flowforge` program. Everything is in [`flowforge_server::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    flowforge_server::cli::main()
}
