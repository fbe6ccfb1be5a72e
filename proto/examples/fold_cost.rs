//! What the proof costs a sender: nanoseconds a line, for lines of some lengths.
//!
//! Run: cargo run --release -p flowforge-proto --example fold_cost

#![allow(clippy::print_stdout)]

use std::time::Instant;

use flowforge_proto::proof::{Fold, Line};

const LINES: u64 = 1_000_000;

fn main() {
    for bytes in [10, 110, 1000] {
        let message = vec![b'x'; bytes];
        let (mut fold, began) = (Fold::default(), Instant::now());
        for seq in 1..=LINES {
            fold.add(&Line {
                seq,
                time_unix_nano: 1_790_000_000_000_000_000,
                stream: 1,
                level: 9,
                continued: false,
                no_newline: false,
                update_id: 0,
                message: &message,
                fields_json: b"",
            });
        }
        let per_line = began.elapsed().as_nanos() / u128::from(LINES);
        println!("{bytes:>5} bytes: {per_line} ns a line (digest begins {:02x})", fold.digest[0]);
    }
}
