//! The rules of one task, without any place to keep it: what Hello, lines, Close and an expired lease do to its record and its
//! numbers (`state`, `record`), and how it comes back from the store after a lost memory (`load`).
//!
//! Every broker applies exactly these rules; where the state lives and how a change is made atomic is the broker's.

pub(super) mod load;
pub(super) mod record;
pub(super) mod state;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod proof_tests;
