//! What `make test` runs of a fuzz target: its body over the target's corpus, and over seeded random changes of it. Included
//! by the tests of each crate that has targets.

use std::path::{Path, PathBuf};

/// No input is longer: libFuzzer's own default.
const MAX_BYTES: usize = 4096;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target)
}

/// Runs the body over every file, then over `rounds` inputs made of them. The same every time.
pub(crate) fn replay(target: &str, rounds: usize, body: impl Fn(&[u8])) {
    let mut files: Vec<_> = std::fs::read_dir(corpus(target)).expect("a corpus").flatten().collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    let seeds: Vec<_> = files.iter().map(|file| std::fs::read(file.path()).expect("a seed")).collect();
    assert!(!seeds.is_empty(), "no seeds for {target}");
    let mut random = fastrand::Rng::with_seed(1);
    let changed = (0..rounds).map(|_| {
        let seed = &seeds[random.usize(..seeds.len())];
        change(seed, &mut random)
    });
    for input in seeds.iter().cloned().chain(changed) {
        let told = Told(&input);
        body(&input);
        std::mem::forget(told);
    }
}

/// A seed with some bytes changed, or bytes that have nothing to do with it.
fn change(seed: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    if random.u8(..) < 64 || seed.is_empty() {
        return (0..random.usize(..600)).map(|_| random.u8(..)).collect();
    }
    let mut bytes = seed.to_vec();
    for _ in 0..random.usize(1..8) {
        let at = random.usize(..bytes.len());
        match random.u8(..5) {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes[at] = random.u8(..),
            2 => bytes.insert(at, random.u8(..)),
            3 if bytes.len() > 1 => bytes.truncate(at.max(1)),
            _ => {
                let again: Vec<u8> = bytes[at..].iter().copied().take(random.usize(..64)).collect();
                bytes.extend(again);
            }
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

/// Says what the input was, if the body panics.
struct Told<'a>(&'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        eprintln!("the input: b\"{}\"", self.0.escape_ascii());
    }
}

/// Writes seeds, for the test that makes a corpus.
pub(crate) fn write_seeds(target: &str, seeds: &[(&str, Vec<u8>)]) {
    std::fs::create_dir_all(corpus(target)).expect("a folder");
    for (name, bytes) in seeds {
        std::fs::write(corpus(target).join(name), bytes).expect("a seed is written");
    }
}
