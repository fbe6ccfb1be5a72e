//! The ways to insert lines into PostgreSQL, each with its own statements, so that the store's choice can be checked again on
//! another machine or version:
//!
//! ```text
//! cargo run --release -p flowforge-storage --example postgres_ways -- postgres://user@127.0.0.1:5432/scratch
//! ```
//!
//! It drops and makes the table `ways`. Every insert is one committed transaction of messages of 110 bytes, grouped by task
//! (ten tasks). Rows are new, as nearly all of a log are; `conflict` asks the database to check that, the others rely on a
//! check that was made before.

use std::time::Instant;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

const TASKS: i64 = 10;
const MESSAGE: &str =
    "the quick brown fox jumps over the lazy dog and goes on to do it again and again until it stops at 110 bytes.";
const PRODUCER: [u8; 16] = [7; 16];

/// Microseconds from PostgreSQL's epoch.
const CREATED_AT: i64 = 817_000_000_000_000;

const SCHEMA: &str = r#"
    DROP TABLE IF EXISTS ways;
    CREATE TABLE ways (
        task_key bigint NOT NULL, "offset" bigint NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL,
        time_ns bigint NOT NULL, created_at timestamptz NOT NULL, update_id bigint, stream smallint NOT NULL,
        level smallint NOT NULL, flags smallint NOT NULL, producer bytea NOT NULL, fields text, message text NOT NULL,
        raw bytea
    ) PARTITION BY RANGE (created_at);
    CREATE TABLE ways_1 PARTITION OF ways FOR VALUES FROM ('2025-11-01') TO ('2025-12-01');
    ALTER TABLE ways_1 ADD PRIMARY KEY (task_key, "offset");
    CREATE INDEX ON ways_1 (task_key, "offset") WHERE stream = 4;
    CREATE TEMP TABLE staging (LIKE ways) ON COMMIT DELETE ROWS"#;

#[derive(Clone, Copy, Debug)]
enum Way {
    CopyBinary,
    CopyText,
    CopyStagingConflict,
    Unnest,
    UnnestConflict,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("give the URL of a database to make a table in")?;
    let options: PgConnectOptions = url.parse()?;
    for rows in [100, 1000, 5000] {
        for way in [Way::CopyBinary, Way::CopyText, Way::CopyStagingConflict, Way::Unnest, Way::UnnestConflict] {
            measure(&options, way, rows).await?;
        }
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the figures are its output")]
async fn measure(options: &PgConnectOptions, way: Way, rows: i64) -> Result<(), Box<dyn std::error::Error>> {
    let mut conn = options.connect().await?;
    sqlx::raw_sql(SCHEMA).execute(&mut conn).await?;
    let total = if rows == 100 { 40_000 } else { 300_000 };
    let start = Instant::now();
    for first in (0..total).step_by(rows as usize) {
        let batch: Vec<_> =
            (0..rows).map(|n| (n * TASKS / rows, (first + n) / TASKS * 100 + n % 100 + first * 100)).collect();
        sqlx::raw_sql("BEGIN").execute(&mut conn).await?;
        insert(&mut conn, way, &batch).await?;
        sqlx::raw_sql("COMMIT").execute(&mut conn).await?;
    }
    let rate = total as f64 / start.elapsed().as_secs_f64();
    let way = format!("{way:?}");
    println!("{rows:>5} rows by {way:<20}: {rate:>7.0} rows/s");
    Ok(conn.close().await?)
}

type Keys = [(i64, i64)];

async fn insert(conn: &mut PgConnection, way: Way, keys: &Keys) -> Result<(), sqlx::Error> {
    match way {
        Way::CopyBinary => copy(conn, "COPY ways FROM STDIN (FORMAT binary)", binary(keys)).await,
        Way::CopyText => copy(conn, "COPY ways FROM STDIN", text(keys)).await,
        Way::CopyStagingConflict => {
            copy(conn, "COPY staging FROM STDIN (FORMAT binary)", binary(keys)).await?;
            sqlx::query("INSERT INTO ways_1 SELECT * FROM staging ON CONFLICT DO NOTHING").execute(conn).await?;
            Ok(())
        }
        Way::Unnest => unnest(conn, keys, "").await,
        Way::UnnestConflict => unnest(conn, keys, "ON CONFLICT DO NOTHING").await,
    }
}

async fn copy(conn: &mut PgConnection, sql: &str, data: Vec<u8>) -> Result<(), sqlx::Error> {
    let mut copy = conn.copy_in_raw(sql).await?;
    copy.send(data).await?;
    copy.finish().await.map(|_| ())
}

fn binary(keys: &Keys) -> Vec<u8> {
    let mut out = Vec::with_capacity(keys.len() * 260);
    out.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for (task, offset) in keys {
        out.extend_from_slice(&14_i16.to_be_bytes());
        for number in [*task, *offset, 1_790_000_000_000, *offset, 1_790_000_000_000_000_000, CREATED_AT] {
            field(&mut out, &number.to_be_bytes());
        }
        null(&mut out);
        for number in [1_i16, 0, 0] {
            field(&mut out, &number.to_be_bytes());
        }
        field(&mut out, &PRODUCER);
        null(&mut out);
        field(&mut out, MESSAGE.as_bytes());
        null(&mut out);
    }
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    out
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i32).to_be_bytes());
}

fn text(keys: &Keys) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(keys.len() * 260);
    for (task, offset) in keys {
        let _ = writeln!(
            out,
            "{task}\t{offset}\t1790000000000\t{offset}\t1790000000000000000\t2025-11-21 00:00:00+00\t\\N\t1\t0\t0\t\\\\x07070707070707070707070707070707\t\\N\t{MESSAGE}\t\\N"
        );
    }
    out.into_bytes()
}

async fn unnest(conn: &mut PgConnection, keys: &Keys, tail: &str) -> Result<(), sqlx::Error> {
    let sql = format!(
        "INSERT INTO ways SELECT k, o, e, s, t, 'epoch'::timestamptz + c * interval '1 microsecond', u, m, l, f, p, j, x, r
        FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int2[],
            $9::int2[], $10::int2[], $11::bytea[], $12::text[], $13::text[], $14::bytea[])
            AS v(k, o, e, s, t, c, u, m, l, f, p, j, x, r) {tail}"
    );
    let (tasks, offsets): (Vec<i64>, Vec<i64>) = keys.iter().copied().unzip();
    let count = keys.len();
    sqlx::query(AssertSqlSafe(sql))
        .bind(tasks)
        .bind(&offsets)
        .bind(vec![1_790_000_000_000_i64; count])
        .bind(&offsets)
        .bind(vec![1_790_000_000_000_000_000_i64; count])
        .bind(vec![CREATED_AT + 946_684_800_000_000; count])
        .bind(vec![None::<i64>; count])
        .bind(vec![1_i16; count])
        .bind(vec![0_i16; count])
        .bind(vec![0_i16; count])
        .bind(vec![&PRODUCER[..]; count])
        .bind(vec![None::<&str>; count])
        .bind(vec![MESSAGE; count])
        .bind(vec![None::<&[u8]>; count])
        .execute(conn)
        .await?;
    Ok(())
}
