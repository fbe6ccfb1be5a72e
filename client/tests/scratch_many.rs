use flowforge_client::*; use std::time::*;
#[tokio::test(flavor="multi_thread", worker_threads=2)]
async fn many() {
    let t=Instant::now();
    let clients: Vec<_> = (0..1000).map(|n| Client::start_on(ClientConfig::new("http://127.0.0.1:50051", format!("many-{}-{n}", std::process::id())), &tokio::runtime::Handle::current()).unwrap()).collect();
    for c in &clients { assert!(c.wait_welcome_async(Duration::from_secs(60)).await); }
    println!("welcomed {:?}", t.elapsed());
    for i in 0..50 { for c in &clients { c.push(Entry::new(Stream::Stdout, format!("line {i}"))); } }
    let mut set = tokio::task::JoinSet::new();
    for c in clients { set.spawn(async move { let o = c.close_async(Status::Succeeded, Some(0), Duration::from_secs(60)).await; assert!(o.is_complete(), "{o:?}"); }); }
    while let Some(r) = set.join_next().await { r.unwrap(); }
    println!("closed {:?}", t.elapsed());
    // caller cost
    let c = Client::start(ClientConfig::new("http://127.0.0.1:1", "x")).unwrap();
    let line = [b'x'; 101].map(|b| b); let mut line = line; line[100]=b'\n';
    let t=Instant::now(); for _ in 0..1_000_000 { c.write(Stream::Stdout, &line); } println!("write ns/line full buffer {:?}", t.elapsed()/1_000_000);
    let mut k=ClientConfig::new("http://127.0.0.1:1", "x"); k.max_buffer_bytes=1<<30; let c = Client::start(k).unwrap();
    let t=Instant::now(); for _ in 0..1_000_000 { c.write(Stream::Stdout, &line); } println!("write ns/line {:?}", t.elapsed()/1_000_000);
}
