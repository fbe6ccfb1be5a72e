//! The sender against a real gRPC server that follows a script.
#![allow(clippy::unwrap_used)]

mod script;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flowforge_client::{Client, ClientConfig, End, Entry, Overflow, Status, Stream};
use flowforge_proto::v1;
use tokio::net::TcpListener;
use tonic::Code;

use self::script::{DEADLINE, Script, Server, until};

fn config(address: SocketAddr) -> ClientConfig {
    ClientConfig::new(format!("http://{address}"), "t")
}

fn line(text: impl Into<String>) -> Entry {
    Entry::new(Stream::Stdout, text.into())
}

fn start(config: ClientConfig) -> Client {
    Client::start_on(config, &tokio::runtime::Handle::current()).unwrap()
}

fn numbered(from: u64, to: u64) -> Vec<String> {
    (from..=to).map(|n| format!("line {n}")).collect()
}

#[tokio::test]
async fn lines_arrive_in_order_and_the_close_is_stored() {
    let server = Server::default();
    let acked = Arc::new(Mutex::new(Vec::new()));
    let mut config = config(server.listen().await);
    let hook = Arc::clone(&acked);
    config.on_ack = Some(Arc::new(move |stored| hook.lock().unwrap().push(stored)));
    config.owner = true;
    let client = start(config);
    for text in numbered(1, 5000) {
        client.push(line(text));
    }
    client.write(Stream::Stderr, b"a\nlast without end");
    let outcome = client.close_async(Status::Failed, Some(3), DEADLINE).await;
    assert!(outcome.is_complete() && outcome.undelivered == 0 && outcome.dropped == 0, "{outcome:?}");
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.texts()[..5000], numbered(1, 5000));
    assert_eq!(seen.texts()[5000..], ["a", "last without end"]);
    assert!(seen.entries[5001].1.no_newline);
    assert!(seen.largest_batch <= 500);
    assert!(seen.hellos[0].owner);
    assert_eq!(seen.close.clone().unwrap().exit_code, Some(3));
    assert_eq!(acked.lock().unwrap().last(), Some(&5002));
    let stats = client.stats();
    assert_eq!((stats.captured, stats.stored_seq, stats.buffered_lines, stats.buffered_bytes), (5002, 5002, 0, 0));
    assert_eq!(client.viewer_url().as_deref(), Some("http://viewer/?task=t"));
    assert_eq!(stats.end, Some(End::Closed));
}

#[test]
fn the_blocking_face_works_from_plain_threads() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = Server::default();
    let address = runtime.block_on(server.listen());
    let client = Client::start(config(address)).unwrap();
    assert!(client.wait_welcome(DEADLINE));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let client = &client;
            scope.spawn(move || {
                (0..1000).for_each(|n| client.write(Stream::Stdout, format!("{thread} {n}\n").as_bytes()));
            });
        }
    });
    assert!(client.flush(DEADLINE));
    assert!(client.close(Status::Succeeded, Some(0), DEADLINE).is_complete());
    let texts = server.seen.lock().unwrap().texts();
    assert_eq!(texts.len(), 8000);
    for thread in 0..8 {
        let mine: Vec<_> = texts.iter().filter(|text| text.starts_with(&format!("{thread} "))).collect();
        assert!(mine.iter().enumerate().all(|(n, text)| **text == format!("{thread} {n}")));
    }
    client.push(line("after the end"));
    assert_eq!(client.stats().dropped_lines, 1);
}

#[tokio::test]
async fn a_lone_line_is_not_delayed() {
    let server = Server::default();
    let mut config = config(server.listen().await);
    config.linger = Duration::from_hours(1);
    let client = start(config);
    assert!(client.wait_welcome_async(DEADLINE).await);
    client.push(line("alone"));
    server.until("the line", |seen| seen.last() == 1).await;
    // The next ones wait for company: for a full batch here.
    for text in numbered(2, 501) {
        client.push(line(text));
    }
    server.until("a full batch", |seen| seen.last() == 501).await;
    assert_eq!(server.seen.lock().unwrap().messages, 2);
}

#[tokio::test]
async fn a_server_that_dies_again_and_again_loses_nothing() {
    let dying = Script { die_after: Some((3, Code::Unavailable)), ..Script::default() };
    let losing = Script { lose_queued: true, hold_acks: true, ..dying.clone() };
    let server = Server::new([dying.clone(), losing.clone(), losing.clone(), dying, losing, Script::default()]);
    let mut config = config(server.listen().await);
    config.batch_lines = 7;
    let client = start(config);
    for text in numbered(1, 200) {
        client.push(line(text));
    }
    assert!(client.close_async(Status::Unknown, None, DEADLINE).await.is_complete());
    assert_eq!(server.seen.lock().unwrap().texts(), numbered(1, 200));
    assert_eq!(client.stats().reconnects, 5);
}

#[tokio::test]
async fn the_welcome_may_go_back() {
    let first = Script { hold_acks: true, die_after: Some((1, Code::Unavailable)), ..Script::default() };
    let server = Server::new([first, Script { lose_queued: true, ..Script::default() }]);
    let client = start(config(server.listen().await));
    for text in numbered(1, 100) {
        client.push(line(text));
    }
    assert!(client.flush_async(DEADLINE).await);
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.texts(), numbered(1, 100));
    assert_eq!(seen.hellos[1].first_unacked_seq, 1);
    assert_eq!(seen.hellos[0].producer, seen.hellos[1].producer);
}

#[tokio::test]
async fn a_resync_is_followed() {
    // The server claims to have 40 lines, then asks for line 11 on, which it does not have.
    let server = Server::new([Script { queued_seq: Some(40), resync: Some(1), ..Script::default() }]);
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = start(config(address.local_addr().unwrap()));
    for text in numbered(1, 100) {
        client.push(line(text));
    }
    server.serve_on(address);
    assert!(client.flush_async(DEADLINE).await);
    assert_eq!(server.seen.lock().unwrap().texts(), numbered(1, 100));
    assert_eq!(client.stats().reconnects, 0);
}

#[tokio::test]
async fn a_fenced_client_stops_for_good() {
    let server = Server::new([Script { die_after: Some((1, Code::Aborted)), hold_acks: true, ..Script::default() }]);
    let client = start(config(server.listen().await));
    client.push(line("one"));
    until("the end", || client.stats().end.is_some()).await;
    assert!(matches!(client.stats().end, Some(End::Fenced(_))));
    assert!(!client.flush_async(DEADLINE).await);
    client.push(line("two"));
    let outcome = client.close_async(Status::Unknown, None, DEADLINE).await;
    assert_eq!((outcome.undelivered, outcome.dropped), (1, 1));
    assert_eq!(server.seen.lock().unwrap().hellos.len(), 1);
}

#[tokio::test]
async fn a_refused_hello_is_not_repeated() {
    for code in [Code::InvalidArgument, Code::FailedPrecondition, Code::OutOfRange] {
        let server = Server::new([Script { refuse_hello: Some(code), ..Script::default() }]);
        let (told, mut config) = (Arc::new(Mutex::new(Vec::new())), config(server.listen().await));
        let hook = Arc::clone(&told);
        config.on_refused = Some(Arc::new(move |reason| hook.lock().unwrap().push(reason.to_owned())));
        let client = start(config);
        assert!(!client.wait_welcome_async(DEADLINE).await);
        until("to be told", || told.lock().unwrap().len() == 1).await;
        let stats = client.stats();
        assert!(matches!(stats.end, Some(End::Refused(_))), "{stats:?}");
        assert!(stats.last_error.unwrap().contains("not you"));
        assert_eq!(server.seen.lock().unwrap().hellos.len(), 1);
    }
}

#[tokio::test]
async fn an_exhausted_server_is_asked_again() {
    let busy = Script { refuse_hello: Some(Code::ResourceExhausted), ..Script::default() };
    let server = Server::new([busy.clone(), busy, Script::default()]);
    let client = start(config(server.listen().await));
    client.push(line("patient"));
    assert!(client.flush_async(DEADLINE).await);
}

#[tokio::test]
async fn one_refused_line_does_not_stop_the_others() {
    let server = Server::new([Script { refuse_seq: Some(17), ..Script::default() }]);
    let client = start(config(server.listen().await));
    for text in numbered(1, 50) {
        client.push(line(text));
    }
    let outcome = client.close_async(Status::Unknown, None, DEADLINE).await;
    assert!(outcome.is_complete() && outcome.dropped == 1, "{outcome:?}");
    let seen = server.seen.lock().unwrap();
    let dropped = v1::Dropped { lines: 1, bytes: 7 };
    assert_eq!(seen.entries[16].1.dropped, Some(dropped));
    assert_eq!(seen.entries[16].1.stream, v1::Stream::System as i32);
    assert_eq!(seen.entries.len(), 50);
}

#[tokio::test]
async fn a_refusal_of_everything_ends_the_client() {
    let refusing = Script { die_after: Some((1, Code::InvalidArgument)), hold_acks: true, ..Script::default() };
    let server = Server::new([refusing]);
    let client = start(config(server.listen().await));
    client.push(line("one"));
    let outcome = client.close_async(Status::Unknown, None, DEADLINE).await;
    assert!(matches!(outcome.end, End::Refused(_)), "{outcome:?}");
    assert_eq!(outcome.undelivered, 1);
    assert!(server.seen.lock().unwrap().hellos.len() > 1);
}

#[tokio::test]
async fn long_lines_are_cut_to_the_servers_limit_also_those_from_before_the_welcome() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Arc::new(start(config(listener.local_addr().unwrap())));
    client.push(line("0123456789"));
    client.write(Stream::Stdout, b"short\n");
    let flushing = Arc::clone(&client);
    let flushed = tokio::spawn(async move { flushing.flush_async(DEADLINE).await });
    let server = Server::new([Script { max_line_bytes: Some(4), ..Script::default() }]);
    server.serve_on(listener);
    assert!(flushed.await.unwrap());
    let before = ["0123", "4567", "89", "shor", "t"];
    assert_eq!(server.seen.lock().unwrap().texts(), before);
    client.push(line("abcdefg"));
    assert!(client.close_async(Status::Unknown, None, DEADLINE).await.is_complete());
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.texts()[5..], ["abcd", "efg"]);
    let continued: Vec<_> = seen.entries.iter().map(|(_, entry)| entry.continued).collect();
    assert_eq!(continued, [true, true, false, true, false, true, false]);
    assert_eq!(client.stats().captured, 7);
}

#[tokio::test]
async fn a_close_from_before_the_welcome_counts_the_parts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Arc::new(start(config(listener.local_addr().unwrap())));
    client.push(line("0123456789"));
    let closing = Arc::clone(&client);
    let closed = tokio::spawn(async move { closing.close_async(Status::Unknown, None, DEADLINE).await });
    tokio::task::yield_now().await;
    let server = Server::new([Script { max_line_bytes: Some(4), ..Script::default() }]);
    server.serve_on(listener);
    assert!(closed.await.unwrap().is_complete());
    assert_eq!(server.seen.lock().unwrap().close.clone().unwrap().final_seq, 3);
}

#[tokio::test]
async fn an_absent_server_costs_bounded_memory_and_every_loss_is_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(listener.local_addr().unwrap());
    config.max_buffer_bytes = 100_000;
    let client = start(config);
    for text in numbered(1, 50_000) {
        client.push(line(text));
        assert!(client.stats().buffered_bytes <= 100_000);
    }
    let server = Server::default();
    server.serve_on(listener);
    let outcome = client.close_async(Status::Unknown, None, DEADLINE).await;
    assert!(outcome.is_complete(), "{outcome:?}");
    let seen = server.seen.lock().unwrap();
    let record = seen.entries[0].1.dropped.unwrap();
    assert_eq!(seen.last(), 50_000);
    assert_eq!(record.lines + seen.entries.len() as u64 - 1, 50_000);
    assert_eq!(outcome.dropped, record.lines);
    let lost: u64 = numbered(1, record.lines).iter().map(|text| text.len() as u64).sum();
    assert_eq!(record.bytes, lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_writers_lose_nothing() {
    let server = Server::default();
    let mut config = config(server.listen().await);
    config.max_buffer_bytes = 2000;
    config.overflow = Overflow::Wait;
    let client = Arc::new(start(config));
    let writer = Arc::clone(&client);
    let writing = tokio::task::spawn_blocking(move || {
        for text in numbered(1, 1000) {
            writer.write(Stream::Stdout, format!("{text}\n").as_bytes());
        }
    });
    writing.await.unwrap();
    for text in numbered(1001, 2000) {
        client.push_async(line(text)).await;
    }
    let outcome = client.close_async(Status::Unknown, None, DEADLINE).await;
    assert!(outcome.is_complete() && outcome.dropped == 0);
    assert_eq!(server.seen.lock().unwrap().texts(), numbered(1, 2000));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_progress_ends_when_there_is_none() {
    let server = Server::new([Script { hold_acks: true, ..Script::default() }]);
    let mut config = config(server.listen().await);
    config.max_buffer_bytes = 2000;
    config.overflow = Overflow::WaitForProgress(Duration::from_millis(200));
    let client = Arc::new(start(config));
    let (writer, start) = (Arc::clone(&client), Instant::now());
    let writing = tokio::task::spawn_blocking(move || (0..1000).for_each(|n| writer.push(line(n.to_string()))));
    writing.await.unwrap();
    // It waited once, not once a line.
    assert!((Duration::from_millis(200)..Duration::from_secs(5)).contains(&start.elapsed()));
    assert!(client.stats().dropped_lines > 900);
    let outcome = client.close_async(Status::Unknown, None, Duration::from_millis(50)).await;
    assert_eq!(outcome.end, End::Abandoned);
    assert_eq!(outcome.undelivered + outcome.dropped, 1000);
}

#[tokio::test]
async fn closing_gives_up_in_time() {
    let server = Server::new([Script { stop_reading: true, ..Script::default() }]);
    let client = start(config(server.listen().await));
    (0..1000).for_each(|n| client.push(line(n.to_string())));
    let start = Instant::now();
    let outcome = client.close_async(Status::Unknown, None, Duration::from_millis(300)).await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!((outcome.end, outcome.undelivered), (End::Abandoned, 1000));
}

#[tokio::test]
async fn a_close_without_ok_is_repeated() {
    // One message a stream: first the lines, then the Close without OK, then the Close again.
    let dying = Script { die_after: Some((1, Code::Unavailable)), ..Script::default() };
    let server = Server::new([dying.clone(), dying, Script::default()]);
    let client = start(config(server.listen().await));
    client.push(line("one"));
    assert!(client.close_async(Status::Unknown, None, DEADLINE).await.is_complete());
    assert_eq!(server.seen.lock().unwrap().hellos.len(), 3);
}

#[tokio::test]
async fn an_ok_without_the_ack_of_everything_is_no_end() {
    let draining = Script { hold_acks: true, ok_at_close: true, ..Script::default() };
    let server = Server::new([draining, Script { lose_queued: true, ..Script::default() }]);
    let client = start(config(server.listen().await));
    client.push(line("one"));
    assert!(client.close_async(Status::Unknown, None, DEADLINE).await.is_complete());
    let seen = server.seen.lock().unwrap();
    assert_eq!((seen.hellos.len(), seen.texts(), seen.stored), (2, vec!["one".to_owned()], 1));
}

#[tokio::test]
async fn a_wait_can_be_given_up() {
    let server = Server::new([Script { hold_acks: true, ..Script::default() }]);
    let client = Arc::new(start(config(server.listen().await)));
    client.push(line("one"));
    let waiting = Arc::clone(&client);
    let began = Instant::now();
    let outcome = tokio::task::spawn_blocking(move || {
        assert!(!waiting.flush_while(Duration::MAX, &mut || false));
        waiting.close_while(Status::Unknown, None, Duration::MAX, &mut || false)
    });
    assert_eq!(outcome.await.unwrap().undelivered, 1);
    assert!(began.elapsed() < DEADLINE);
}

#[tokio::test]
async fn unfinished_lines_are_previewed() {
    let server = Server::default();
    let client = start(config(server.listen().await));
    client.write(Stream::Stdout, b"name? ");
    server.until("a preview", |seen| !seen.frames.is_empty()).await;
    client.write(Stream::Stdout, b"x\n");
    assert!(client.flush_async(DEADLINE).await);
    let seen = server.seen.lock().unwrap();
    assert_eq!(&seen.frames[0].message[..], b"name? ");
    assert_eq!((seen.texts(), seen.entries[0].1.update_id), (vec!["name? x".to_owned()], seen.frames[0].update_id));
}

#[tokio::test]
async fn commands_are_answered() {
    let server = Server::new([Script { command: true, ..Script::default() }]);
    let _deaf = start(config(server.listen().await));
    server.until("an answer", |seen| seen.results.first().is_some_and(|result| !result.ok)).await;
    let server = Server::new([Script { command: true, ..Script::default() }]);
    let commands = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&commands);
    let mut config = config(server.listen().await);
    config.on_command = Some(Arc::new(move |command| hook.lock().unwrap().push(command)));
    let client = start(config);
    until("the command", || !commands.lock().unwrap().is_empty()).await;
    client.reply(commands.lock().unwrap()[0].id.clone(), true, "done");
    server.until("the reply", |seen| seen.results.first().is_some_and(|result| result.ok)).await;
}

#[tokio::test]
async fn a_runtime_that_is_shut_down_frees_those_who_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = Client::start_on(config(listener.local_addr().unwrap()), other.handle()).unwrap();
    client.push(line("one"));
    other.shutdown_background();
    let outcome = client.close_async(Status::Unknown, None, DEADLINE).await;
    assert_eq!((outcome.end, outcome.undelivered), (End::Crashed, 1));
}
