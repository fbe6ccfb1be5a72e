//! Hard limits, and what is said at them.

use anyhow::{Context as _, Result, ensure};
use flowforge_proto::v1::Close;
use flowforge_proto::v1::stream_logs_request::Message as Request;
use flowforge_tests::producer::{Call, hello, new_producer};
use flowforge_tests::server::{Overrides, Server};
use tonic::Code;

#[tokio::test]
async fn one_producer_too_many_is_told_the_limit_and_when_to_ask_again() -> Result<()> {
    let server = Server::start_with(Overrides::none().set("broker.max_producers", "1")).await?;
    let (first, _) = Call::hello(&server.grpc_url(), hello("crowded", new_producer())).await?;
    let mut second = Call::open(&server.grpc_url()).await?;
    second.send(Request::Hello(hello("crowded", new_producer()))).await?;
    let status = second.refused(Code::ResourceExhausted).await?;
    ensure!(status.message().contains("broker.max_producers"), "{}", status.message());
    let wait = status.metadata().get("grpc-retry-pushback-ms").context("no time to wait is told")?;
    ensure!(wait.to_str()?.parse::<u64>()? >= 1000, "{wait:?}");
    // Who is in goes on.
    first.lines(1, &["still here"]).await?;
    let mut first = first;
    first.stored(1).await?;
    first.close(Close { final_seq: 1, ..Close::default() }).await??;
    Ok(())
}
