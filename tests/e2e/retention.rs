//! A reader that has fallen behind what retention deletes is told, whichever store it was. (SQLite's is in `http`.)

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use flowforge_proto::v1::Close;
use flowforge_server::backend::open_store;
use flowforge_server::config::Config;
use flowforge_test_services::postgres::Database;
use flowforge_tests::producer::{Call, entry, hello, new_producer, prove};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::{self, PATIENCE};
use serde_json::json;

use crate::proof::completeness;

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// While the server runs, another instance deletes what is older than the seventh line.
async fn a_reader_behind_is_told(store: Overrides) -> Result<()> {
    let server = Server::start_with(store).await?;
    let (mut call, _) = Call::hello(&server.grpc_url(), hello("old", new_producer())).await?;
    let sent: Vec<_> = (1..=10).map(|number| entry(number.to_string())).collect();
    call.batch(1, sent[..6].to_vec()).await?;
    call.stored(6).await?;
    let mut viewer = Viewer::whole("v", &server.task_url("old"));
    viewer.open().await?;
    for _ in 0..3 {
        viewer.next_named("log").await?;
    }
    viewer.cut();
    let now = now_ms()?;
    let border =
        wait::until("another millisecond", PATIENCE, async || Ok(Some(now_ms()?).filter(|ms| *ms > now))).await?;
    call.batch(7, sent[6..].to_vec()).await?;
    call.close(Close { final_seq: 10, proof: Some(prove(1, sent)), ..Close::default() }).await??;
    let other = open_store(&Config::load(Some(&server.dir().join("config.yaml")))?).await?;
    let deleted = other.delete_before(border).await?;
    ensure!(deleted.lines == 6, "{deleted:?}");
    // Its last id was 3; 4, 5 and 6 are gone.
    let viewer = viewer.follow().await?;
    ensure!(viewer.controls("gap") == [json!({"from": 4, "to": 6, "reason": "retention"})], "{:?}", viewer.journal);
    let shown: Vec<u64> = viewer.rows().map(|row| row.offset).collect();
    ensure!(shown == [1, 2, 3, 7, 8, 9, 10, 11], "{shown:?}");
    ensure!(viewer.ended && viewer.controls("rollback").is_empty(), "{:?}", viewer.journal);
    // Nobody can say any more whether those six were what was sent.
    let found = completeness(&server, "old").await?;
    let reason = "lines up to offset 6 were deleted by retention";
    ensure!(found["state"] == "unproven" && found["reason"] == reason, "{found}");
    ensure!(found["lines"] == 4 && found["captured"] == 10 && found["missing"] == 0, "{found}");
    Ok(())
}

#[tokio::test]
async fn of_postgres() -> Result<()> {
    let database = Database::shared().await?;
    let url = format!("\"{}\"", database.url());
    a_reader_behind_is_told(Overrides::none().set("logging.storage_driver", "postgres").set("postgres.url", &url)).await
}

#[tokio::test]
async fn of_clickhouse() -> Result<()> {
    let (_engine, store) = crate::clickhouse::store("none").await?;
    a_reader_behind_is_told(store).await
}
