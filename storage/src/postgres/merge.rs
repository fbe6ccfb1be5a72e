//! Lines whose offsets may be taken: what is there already is left, what is there of an older epoch goes.
//!
//! The rows of one offset may lie in different partitions, since another epoch gave them at another time; no unique index
//! spans those. So the decision is made here, under the lock of the task's row, and the table holds one row an offset. It is
//! seldom needed: after an insert whose answer was lost, or after the broker lost its memory.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::error::SqlResult;
use super::moment::Moment;
use super::plan::Line;

const FIND: &str = r#"SELECT l.task_key, l."offset", l.epoch, l.created_at
    FROM unnest($1::int8[], $2::int8[]) AS v(k, o)
    JOIN LATERAL (SELECT * FROM task_logs WHERE task_key = v.k AND "offset" = v.o OFFSET 0) AS l ON true"#;

const REMOVE: &str = r#"DELETE FROM task_logs AS l USING unnest($1::int8[], $2::int8[], $3::timestamptz[]) AS v(k, o, c)
    WHERE l.task_key = v.k AND l."offset" = v.o AND l.created_at = v.c"#;

/// Removes the rows that lose against these lines, and gives the lines that are to be written.
pub(super) async fn settle<'a>(conn: &mut PgConnection, lines: &[Line<'a>]) -> SqlResult<Vec<Line<'a>>> {
    if lines.is_empty() {
        return Ok(Vec::new());
    }
    let (task_keys, offsets): (Vec<i64>, Vec<i64>) =
        lines.iter().map(|line| (line.task_key, line.record.offset as i64)).unzip();
    let mut stored = HashMap::new();
    for row in sqlx::query(FIND).bind(task_keys).bind(offsets).fetch_all(&mut *conn).await? {
        let place: (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        stored.insert(place, (row.try_get::<i64, _>(2)? as u64, row.try_get::<Moment, _>(3)?));
    }
    let (mut wanted, mut losers) = (Vec::new(), Losers::default());
    for line in lines {
        let place = (line.task_key, line.record.offset as i64);
        match stored.get(&place) {
            None => wanted.push(*line),
            Some((epoch, created_at)) if *epoch < line.record.epoch => {
                losers.push(place, *created_at);
                wanted.push(*line);
            }
            Some(_) => {}
        }
    }
    losers.remove(conn).await?;
    Ok(wanted)
}

#[derive(Default)]
struct Losers {
    task_keys: Vec<i64>,
    offsets: Vec<i64>,
    created: Vec<Moment>,
}

impl Losers {
    fn push(&mut self, (task_key, offset): (i64, i64), created_at: Moment) {
        self.task_keys.push(task_key);
        self.offsets.push(offset);
        self.created.push(created_at);
    }

    async fn remove(self, conn: &mut PgConnection) -> SqlResult<()> {
        if !self.task_keys.is_empty() {
            sqlx::query(REMOVE).bind(self.task_keys).bind(self.offsets).bind(self.created).execute(conn).await?;
        }
        Ok(())
    }
}
