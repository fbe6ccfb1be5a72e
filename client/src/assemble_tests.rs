use proptest::prelude::*;

use super::*;

fn assembler(mode: Mode, strip_cr: bool, max: usize) -> Assembler {
    Assembler::new(mode, strip_cr, max, Arc::default())
}

fn run(mut assembler: Assembler, chunks: &[&[u8]]) -> Vec<Output> {
    let (now, mut out) = (Instant::now(), Vec::new());
    for chunk in chunks {
        assembler.feed(chunk, now, &mut out);
    }
    assembler.finish(now, &mut out);
    out
}

fn lines(out: &[Output]) -> Vec<(String, u64)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Line { message, update_id, .. } => {
                Some((String::from_utf8_lossy(message).into_owned(), *update_id))
            }
            Output::Frame { .. } => None,
        })
        .collect()
}

fn frames(out: &[Output]) -> Vec<(String, u64)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Frame { message, update_id } => Some((String::from_utf8_lossy(message).into_owned(), *update_id)),
            Output::Line { .. } => None,
        })
        .collect()
}

fn joined(out: &[Output]) -> Vec<u8> {
    let mut all = Vec::new();
    for output in out {
        let Output::Line { message, continued, no_newline, .. } = output else { continue };
        all.extend_from_slice(message);
        if !continued && !no_newline {
            all.push(b'\n');
        }
    }
    all
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n".to_vec()),
        Just("é".as_bytes().to_vec()),
        Just("漢字".as_bytes().to_vec()),
        Just("🦀".as_bytes().to_vec()),
        "[a-z ]{1,9}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn chunked<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn chunks_do_not_matter(
        bytes in text(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
        raw in any::<bool>(),
        strip_cr in any::<bool>(),
        max in 4_usize..40,
    ) {
        let mode = if raw { Mode::Raw } else { Mode::Collapse };
        let only_lines = |out: Vec<Output>| {
            out.into_iter().filter(|output| matches!(output, Output::Line { .. })).collect::<Vec<_>>()
        };
        let whole = only_lines(run(assembler(mode, strip_cr, max), &[&bytes]));
        let cut = only_lines(run(assembler(mode, strip_cr, max), &chunked(&bytes, &cuts)));
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn raw_lines_are_the_input(bytes in text(), max in 4_usize..40) {
        let out = run(assembler(Mode::Raw, false, max), &[&bytes]);
        prop_assert_eq!(joined(&out), bytes);
    }

    #[test]
    fn without_bars_collapsing_keeps_every_byte_too(bytes in text(), max in 4_usize..40) {
        // Every `\r` that is not before a newline goes; `\r\n` stays.
        let mut plain = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            if *byte != b'\r' || bytes.get(at + 1) == Some(&b'\n') {
                plain.push(*byte);
            }
        }
        let out = run(assembler(Mode::Collapse, false, max), &[&plain]);
        prop_assert_eq!(joined(&out), plain);
    }

    #[test]
    fn parts_fit_and_are_text(text in "[a-z漢é🦀\n]{0,200}", max in 4_usize..20) {
        for output in run(assembler(Mode::Raw, false, max), &[text.as_bytes()]) {
            let Output::Line { message, .. } = output else { continue };
            prop_assert!(message.len() <= max);
            prop_assert!(std::str::from_utf8(&message).is_ok());
        }
    }
}

#[test]
fn a_line_of_exactly_the_limit_is_not_split() {
    assert_eq!(run(assembler(Mode::Raw, false, 4), &[b"abcd\n"]).len(), 1);
    assert_eq!(lines(&run(assembler(Mode::Raw, false, 4), &[b"abcde\n"])), [("abcd".into(), 0), ("e".into(), 0)]);
}

#[test]
fn the_carriage_return_of_a_line_end_stays_unless_a_terminal_added_it() {
    assert_eq!(
        lines(&run(assembler(Mode::Collapse, false, 99), &[b"a\r", b"\nb\n"])),
        [("a\r".into(), 0), ("b".into(), 0)]
    );
    assert_eq!(
        lines(&run(assembler(Mode::Collapse, true, 99), &[b"a\r\r\nb\r\n"])),
        [("a".into(), 0), ("b".into(), 0)]
    );
    assert_eq!(lines(&run(assembler(Mode::Raw, true, 99), &[b"1\r2\r\n"])), [("1\r2".into(), 0)]);
}

#[test]
fn a_bar_leaves_its_last_state() {
    let out = run(assembler(Mode::Collapse, false, 99), &[b"start\n\r 1%\r50%\r99%\r100%\nend\n"]);
    assert_eq!(lines(&out), [("start".into(), 0), ("100%".into(), 1), ("end".into(), 0)]);
    let out = run(assembler(Mode::Collapse, false, 99), &[b"1%\r2%\r", b"", b"\na\rb"]);
    assert_eq!(lines(&out), [("2%\r".into(), 1), ("b".into(), 2)]);
    let out = run(assembler(Mode::Collapse, false, 99), &[b"7%\r"]);
    assert_eq!(lines(&out), [("7%".into(), 1)]);
    assert!(matches!(out.last(), Some(Output::Line { no_newline: true, .. })));
}

#[test]
fn a_bar_at_1000_hz_gives_four_frames_a_second_and_a_line_in_ten() {
    let mut assembler = assembler(Mode::Collapse, false, 99);
    let (start, mut out) = (Instant::now(), Vec::new());
    for ms in 0..25_000_u64 {
        assembler.feed(format!("\r{ms}").as_bytes(), start + Duration::from_millis(ms), &mut out);
    }
    let end = start + Duration::from_secs(25);
    assembler.feed(b"\n", end, &mut out);
    assert_eq!(frames(&out).len(), 100);
    assert_eq!(lines(&out).len(), 3, "{:?}", lines(&out));
    assert_eq!(lines(&out).last(), Some(&("24999".into(), 1)));
}

#[test]
fn a_bar_that_stands_still_is_shown_by_the_clock() {
    let mut assembler = assembler(Mode::Collapse, false, 99);
    let (now, mut out) = (Instant::now(), Vec::new());
    assembler.feed(b"\r1%\r2%", now, &mut out);
    assembler.tick(now + FRAME_INTERVAL, &mut out);
    assembler.tick(now + 2 * FRAME_INTERVAL, &mut out);
    assert_eq!(frames(&out), [("1%".into(), 1), ("2%".into(), 1)]);
}

#[test]
fn a_waiting_line_is_previewed_after_a_second_and_keeps_its_id() {
    let mut assembler = assembler(Mode::Collapse, false, 99);
    let (now, mut out) = (Instant::now(), Vec::new());
    assembler.feed(b"Password: ", now, &mut out);
    assert!(assembler.is_partial());
    assembler.tick(now + Duration::from_millis(999), &mut out);
    assert!(out.is_empty());
    assembler.tick(now + PREVIEW_AFTER, &mut out);
    assembler.tick(now + PREVIEW_AFTER + FRAME_INTERVAL, &mut out);
    assembler.feed(b"ok\nnext\n", now + 2 * PREVIEW_AFTER, &mut out);
    assert_eq!(frames(&out), [("Password: ".into(), 1)]);
    assert_eq!(lines(&out), [("Password: ok".into(), 1), ("next".into(), 0)]);
    assert!(!assembler.is_partial());
}

#[test]
fn a_huge_line_takes_linear_time() {
    let chunk = vec![b'x'; 64 << 10];
    let mut assembler = assembler(Mode::Collapse, false, 64 << 10);
    let (now, mut out, mut bytes) = (Instant::now(), Vec::new(), 0);
    for _ in 0..1600 {
        assembler.feed(&chunk, now, &mut out);
        bytes += joined(&out).len();
        out.clear();
    }
    assembler.finish(now, &mut out);
    assert_eq!(bytes + joined(&out).len(), 1600 * (64 << 10));
    assert!(now.elapsed() < Duration::from_secs(10), "took {:?}", now.elapsed());
}
