use super::*;
use crate::replay;

#[test]
fn hostile_files_are_read_without_harm() {
    replay::replay("spool", 3000, spool);
}

/// `cargo test -p flowforge-client --lib writes_the_spool_seeds -- --ignored`
#[test]
#[ignore = "makes the corpus"]
fn writes_the_spool_seeds() {
    let file = [&[0][..], b"FFSPOOL\0", &[1, 0, 0, 0, 0, 16, 0, 0]].concat();
    // Capacity; header; one state; next number and first number; then records: a line, a run, a close.
    let forged = vec![
        1, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 5, b'h', b'e', b'l', b'l', b'o', 0, 0, 3, 2, 9, 0, 0, 4, 0, 0,
    ];
    // Two runs, each of all the bytes that a number can say.
    let huge = vec![1, 16, 0, 0, 0, 0, 0, 0, 0, 0, 5, 1, 0, 3, 2, 251, 0, 0, 0, 3, 2, 251, 0, 0];
    // Capacity; how many steps; sizes of lines; an ack of all but one; a run; closed; nothing harmed.
    let whole = vec![2, 0, 0, 12, 1, 2, 3, 40, 250, 5, 245, 3, 200, 200, 255, 6, 7, 0, 0, 0];
    // Past the ring's end, where it goes on at its beginning; the mark there becomes a line.
    let wrapped = [&[2, 0, 0, 30][..], &[70; 30], &[0, 0, 0]].concat();
    let changed = [&[2, 0, 0, 6][..], &[20; 6], &[1, 2, 100, 0, 90, 1, 10, 0, 200, 7, 0]].concat();
    let cut = [&[2, 0, 0, 6][..], &[20; 6], &[1, 0, 255, 16, 120]].concat();
    // Three open lines: one grows, one is captured, one is replaced.
    let open =
        vec![2, 0, 0, 8, 9, 242, 0, 0, 5, 242, 0, 0, 5, 243, 1, 1, 7, 244, 1, 1, 243, 1, 1, 3, 243, 2, 0, 4, 9, 1, 0];
    let forged_open = vec![
        1, 8, 0, 230, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 1, 0, 2, b'h', b'i', 0, 1, 3, 1, 1, 2, b'h', b'o', 250, 3, 1, 0,
        0,
    ];
    let harmed_open = [&open[..29], &[1, 1, 2, 100, 1, 0, 30, 4, 0]].concat();
    let seeds = [
        ("file", file),
        ("forged", forged),
        ("huge", huge),
        ("whole", whole),
        ("wrapped", wrapped),
        ("changed", changed),
        ("cut", cut),
        ("open", open),
        ("forged_open", forged_open),
        ("harmed_open", harmed_open),
    ];
    replay::write_seeds("spool", &seeds);
}
