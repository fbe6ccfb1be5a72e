//! A new epoch that begins below the stored end: what older epochs wrote above its base no longer counts.
//!
//! It is seldom: a worker that was left behind stored lines between the moment when the broker asked for the end and the
//! one when it put the new epoch. Forgetting such lines must also undo what they said of their producers; a sequence
//! number kept too high would make the broker take the re-sent lines for duplicates, and they would be lost.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::error::SqlResult;
use crate::task::EpochStart;

/// A task before its new epoch.
pub(super) struct Stored {
    pub(super) task_key: i64,
    pub(super) start: EpochStart,
    pub(super) floor: u64,
    pub(super) end: u64,
}

/// Deletes the rows above the base that are of older epochs, and corrects what the task and its producers say.
pub(super) async fn drop_older_epochs(conn: &mut PgConnection, stored: Stored, start: EpochStart) -> SqlResult<()> {
    let lost = lost_seqs(conn, stored.task_key, start).await?;
    sqlx::query(r#"DELETE FROM task_logs WHERE task_key = $1 AND "offset" > $2 AND epoch < $3"#)
        .bind(stored.task_key)
        .bind(start.base as i64)
        .bind(start.epoch as i64)
        .execute(&mut *conn)
        .await?;
    correct_task(conn, &stored, start).await?;
    correct_producers(conn, &stored, &lost).await
}

/// Of each producer that loses lines the lowest sequence number among them.
async fn lost_seqs(conn: &mut PgConnection, task_key: i64, start: EpochStart) -> SqlResult<Vec<(Vec<u8>, i64)>> {
    const SQL: &str = r#"SELECT producer, min(seq) FROM task_logs
        WHERE task_key = $1 AND "offset" > $2 AND epoch < $3 GROUP BY producer"#;
    let query = sqlx::query_as(SQL).bind(task_key).bind(start.base as i64).bind(start.epoch as i64);
    query.fetch_all(conn).await
}

/// Retention may have passed the base already: the offsets that the new epoch gives again must not lie below the floor.
/// Before a first record there was no other epoch, so what retention deleted then was of this one.
async fn correct_task(conn: &mut PgConnection, stored: &Stored, start: EpochStart) -> SqlResult<()> {
    const SQL: &str = r#"UPDATE tasks SET floor = $2,
            "end" = greatest($2 - 1, (SELECT max("offset") FROM task_logs WHERE task_key = $1))
        WHERE task_key = $1"#;
    let floor = if stored.start.epoch == 0 { stored.floor } else { stored.floor.min(start.base + 1) };
    sqlx::query(SQL).bind(stored.task_key).bind(floor as i64).execute(conn).await?;
    Ok(())
}

/// Each producer's highest number among the lines left. One that has none left keeps what retention must have deleted.
async fn correct_producers(conn: &mut PgConnection, stored: &Stored, lost: &[(Vec<u8>, i64)]) -> SqlResult<()> {
    const LEFT: &str = "SELECT p.producer, max(l.seq) FROM task_producers AS p
        LEFT JOIN (SELECT producer, max(seq) AS seq FROM task_logs WHERE task_key = $1 GROUP BY producer) AS l
            ON l.producer = p.producer
        WHERE p.task_key = $1 GROUP BY p.producer";
    for row in sqlx::query(LEFT).bind(stored.task_key).fetch_all(&mut *conn).await? {
        let producer: Vec<u8> = row.try_get(0)?;
        let left: Option<i64> = row.try_get(1)?;
        let before_lost = lost.iter().find(|(of, _)| *of == producer).map(|(_, seq)| seq - 1);
        let last_seq = match (left, before_lost) {
            (Some(left), _) => left,
            (None, _) if stored.floor <= 1 => 0,
            (None, Some(before)) => before,
            (None, None) => continue,
        };
        set_last_seq(conn, stored.task_key, &producer, last_seq).await?;
    }
    Ok(())
}

async fn set_last_seq(conn: &mut PgConnection, task_key: i64, producer: &[u8], last_seq: i64) -> SqlResult<()> {
    if last_seq > 0 {
        const SET: &str = "UPDATE task_producers SET last_seq = $3 WHERE task_key = $1 AND producer = $2";
        sqlx::query(SET).bind(task_key).bind(producer).bind(last_seq).execute(conn).await?;
    } else {
        const FORGET: &str = "DELETE FROM task_producers WHERE task_key = $1 AND producer = $2";
        sqlx::query(FORGET).bind(task_key).bind(producer).execute(conn).await?;
    }
    Ok(())
}
