//! Faults beyond what each run of the tests does: every fault on every pairing, and random mixes of them for as long as wanted.

mod chaos;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    about = "Breaks real sites of flowforge servers under load, and checks that no line is lost, twice or out of order"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every fault on every pairing of broker and store, one after the other. Prints a table of times to recovery
    Matrix {
        /// Only faults whose name contains this
        #[arg(long, default_value = "")]
        fault: String,
        /// Only pairings whose name contains this, such as redis or memory+sqlite
        #[arg(long, default_value = "")]
        pair: String,
    },
    /// Random faults on random pairings, checked after every few
    Chaos {
        /// How long to go on
        #[arg(long, default_value_t = 30)]
        minutes: u64,
        /// Repeats the faults and pairings of an earlier run
        #[arg(long)]
        seed: Option<u64>,
        /// Only pairings whose name contains this
        #[arg(long, default_value = "")]
        pair: String,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let is_well = match Cli::parse().command {
        Command::Matrix { fault, pair } => table::run(&fault, &pair).await?,
        Command::Chaos { minutes, seed, pair } => chaos::run(minutes, seed, &pair).await?,
    };
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
