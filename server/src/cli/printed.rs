//! Which lines were printed: what is printed cannot be taken back when the server goes back.

use std::collections::HashMap;

use super::render::Line;

/// The last number printed of each producer. A server that lost lines asks their producers to send them again; they come
/// with the same producer and number, at the same offsets or at others.
#[derive(Debug, Default)]
pub(super) struct Printed {
    last_seq: HashMap<String, u64>,
    /// The server has gone back: lines may come again.
    again: bool,
}

impl Printed {
    /// From now on lines may come that were printed before.
    pub(super) fn expect_again(&mut self) {
        self.again = true;
    }

    /// Whether this line is still to be printed; it counts as printed then. Lines of the server's own always are.
    pub(super) fn is_new(&mut self, line: &Line<'_>) -> bool {
        if line.producer.is_empty() || line.seq == 0 {
            return true;
        }
        let Some(last) = self.last_seq.get_mut(line.producer.as_ref()) else {
            self.last_seq.insert(line.producer.to_string(), line.seq);
            return true;
        };
        if self.again && line.seq <= *last {
            return false;
        }
        *last = line.seq;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_come_again_are_known_by_producer_and_number() {
        let mut printed = Printed::default();
        let is_new = |printed: &mut Printed, producer: &str, seq: u64| {
            let json = format!(r#"{{"offset":1,"producer":"{producer}","seq":{seq}}}"#);
            printed.is_new(&serde_json::from_str(&json).expect("a line"))
        };
        assert!(is_new(&mut printed, "a", 1) && is_new(&mut printed, "b", 1) && is_new(&mut printed, "a", 2));
        printed.expect_again();
        assert!(!is_new(&mut printed, "a", 2) && is_new(&mut printed, "a", 3));
        assert!(!is_new(&mut printed, "b", 1) && is_new(&mut printed, "c", 1));
        assert!(is_new(&mut printed, "", 0));
    }
}
