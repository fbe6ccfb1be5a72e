use super::*;

fn messages(shared: &Shared) -> Vec<Bytes> {
    let limits = crate::queue::BatchLimits { lines: 10_000, bytes: 1 << 20, entry_bytes: 1 << 20 };
    let batch = shared.lock().queue.take_batch(limits).unwrap_or_default();
    batch.entries.into_iter().map(|entry| entry.message).collect()
}

fn shared() -> Shared {
    Shared::new(ClientConfig::new("http://h", "a"), [1; 16])
}

#[test]
fn lanes_do_not_tear_each_others_lines() {
    let shared = shared();
    let lanes: Vec<_> = (0..5).map(|_| Lane::new()).collect();
    for (lane, text) in [(1, "one "), (2, "two "), (3, "three\n"), (1, "1\n"), (4, "four\n"), (2, "2\n"), (1, "tail")] {
        shared.write(&lanes[lane], Stream::Stdout, text.as_bytes());
    }
    assert_eq!(messages(&shared), ["three", "one 1", "four", "two 2"]);
    let (streams, all) = shared.finish_streams();
    let last: Vec<_> =
        streams.into_iter().flat_map(|mut last| std::iter::from_fn(move || Some(last.next()?.0))).collect();
    assert!(all && last.len() == 1 && last[0].message == "tail" && last[0].no_newline);
}

#[test]
fn what_a_dead_lane_left_open_is_ended_and_its_place_is_free() {
    let shared = shared();
    for _ in 0..3 * MAX_LANES {
        shared.write(&Lane::new(), Stream::Stdout, b".");
    }
    let (one, two) = (Lane::new(), Lane::new());
    for text in ["a", "b", "c\n"] {
        shared.write(&one, Stream::Stdout, text.as_bytes());
        shared.write(&two, Stream::Stdout, text.as_bytes());
    }
    let found: Vec<_> = messages(&shared).into_iter().filter(|message| message != ".").collect();
    assert_eq!(found, ["abc", "abc"]);
    assert_eq!(shared.lock().queue.last_seq() as usize, 3 * MAX_LANES + 2);
}

#[test]
fn one_lane_too_many_ends_the_oldest_line_and_mixes_none() {
    let shared = shared();
    let lanes: Vec<_> = (0..MAX_LANES + 2).map(|_| Lane::new()).collect();
    for (number, lane) in lanes.iter().enumerate() {
        shared.write(lane, Stream::Stdout, format!("{number} ").as_bytes());
    }
    assert_eq!(messages(&shared), ["1 "]);
    shared.write(&lanes[0], Stream::Stdout, b"end\n");
    assert_eq!(messages(&shared), ["0 end"]);
}

#[test]
fn a_tick_ends_what_a_dead_lane_left_open() {
    let shared = shared();
    shared.write(&Lane::new(), Stream::Stdout, b"left behind");
    shared.tick();
    assert_eq!(messages(&shared), ["left behind"]);
}
