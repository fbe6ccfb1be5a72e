//! What a print costs that writes its text and its newline apart, as Python's does, with and without a spool:
//! `cargo run --release -p flowforge-client --example open_line_cost`.

#![allow(clippy::print_stdout, reason = "a measurement")]

use std::time::{Duration, Instant};

use flowforge_client::spool::SpoolConfig;
use flowforge_client::{Client, ClientConfig, Overflow, Stream};

const ROUNDS: usize = 9;
/// Few enough that neither the buffer nor the spool is ever full.
const LINES: u32 = 50_000;
const TEXTS: [usize; 3] = [8, 80, 800];

fn main() {
    let dir = std::env::temp_dir().join(format!("open-line-cost-{}", std::process::id()));
    for text in TEXTS {
        for spool in [None, Some(SpoolConfig::new(&dir))] {
            let name = if spool.is_some() { "with a spool" } else { "without     " };
            let rounds: Vec<_> = (0..ROUNDS).map(|_| round(text, spool.clone())).collect();
            let best = |of: fn(&(f64, f64)) -> f64| rounds.iter().map(of).fold(f64::MAX, f64::min);
            println!(
                "{text:3} bytes, {name}: {:5.0} ns text and newline apart, {:5.0} ns in one",
                best(|of| of.0),
                best(|of| of.1)
            );
        }
    }
    let _ = std::fs::remove_dir_all(dir);
}

/// Nanoseconds a line: text and newline apart, and in one write. The server is not there.
fn round(text: usize, spool: Option<SpoolConfig>) -> (f64, f64) {
    let mut config = ClientConfig::new("http://127.0.0.1:1", "cost");
    (config.spool, config.max_buffer_bytes, config.overflow) = (spool, 256 << 20, Overflow::DropOldest);
    let client = Client::start(config).expect("a client");
    let line = [&vec![b'x'; text][..], b"\n"].concat();
    let apart = time(|| {
        client.write(Stream::Stdout, &line[..text]);
        client.write(Stream::Stdout, &line[text..]);
    });
    let one = time(|| client.write(Stream::Stdout, &line));
    if let Some(path) = client.close(flowforge_client::Status::Unknown, None, Duration::ZERO).spool {
        let _ = std::fs::remove_file(path);
    }
    (apart, one)
}

fn time(mut body: impl FnMut()) -> f64 {
    let began = Instant::now();
    for _ in 0..LINES {
        body();
    }
    began.elapsed().as_nanos() as f64 / f64::from(LINES)
}
