//! The daily partitions of `task_logs`: their names, and how they are made.
//!
//! A partition is made apart and attached, which lets reads and inserts of the table go on; `CREATE … PARTITION OF` would stop
//! them. One instance at a time makes partitions (an advisory lock of the transaction), so that two of them cannot collide.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::error::SqlResult;

/// Days after today whose partitions are there before anybody needs them.
const DAYS_AHEAD: i64 = 3;

pub(super) const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// 9999-12-31: the last day with a name of eight digits.
const LAST_DAY: i64 = 2_932_896;

/// One UTC day, counted from 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Day(pub(super) i64);

impl Day {
    /// The day of this moment; `None` outside of the years 1970 to 9999.
    pub(super) fn of_ms(ms: i64) -> Option<Self> {
        let day = ms.div_euclid(DAY_MS);
        (0..=LAST_DAY).contains(&day).then_some(Self(day))
    }

    /// Its first millisecond.
    pub(super) fn start_ms(self) -> i64 {
        self.0 * DAY_MS
    }

    /// The table of its lines.
    pub(super) fn table(self) -> String {
        let date = Date::constant(1970, 1, 1).saturating_add(SignedDuration::from_hours(24 * self.0));
        format!("task_logs_{:04}{:02}{:02}", date.year(), date.month(), date.day())
    }

    fn today() -> Self {
        Self(Timestamp::now().as_millisecond().div_euclid(DAY_MS))
    }
}

/// Today's partition and those of the next days.
pub(super) async fn make_ahead(conn: &mut PgConnection) -> SqlResult<()> {
    let today = Day::today().0;
    make(conn, (today..=today + DAYS_AHEAD).map(Day)).await
}

/// Makes those that are not there, in one transaction each.
pub(super) async fn make(conn: &mut PgConnection, days: impl Iterator<Item = Day>) -> SqlResult<()> {
    for day in days {
        let exists: bool =
            sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(day.table()).fetch_one(&mut *conn).await?;
        if !exists {
            sqlx::raw_sql(AssertSqlSafe(creation(day))).execute(&mut *conn).await?;
            tracing::info!(partition = day.table(), "partition made");
        }
    }
    Ok(())
}

/// Another instance may have been first: nothing is done then. `to_regclass` would not do inside of the lock, since it may
/// answer from a cache that does not know yet.
fn creation(day: Day) -> String {
    let (table, from, to) = (day.table(), day.0 * 86_400, (day.0 + 1) * 86_400);
    format!(
        r#"BEGIN;
        SELECT pg_advisory_xact_lock({LOCK_SPACE}, {MAKING});
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_class WHERE relname = '{table}' AND relnamespace = current_schema()::regnamespace) THEN
                CREATE TABLE {table} (LIKE task_logs INCLUDING ALL EXCLUDING INDEXES);
                ALTER TABLE {table} ADD PRIMARY KEY (task_key, "offset");
                CREATE INDEX {table}_system ON {table} (task_key, "offset") WHERE stream = 4;
                ALTER TABLE task_logs ATTACH PARTITION {table} FOR VALUES FROM (to_timestamp({from})) TO (to_timestamp({to}));
            END IF;
        END $$;
        COMMIT"#
    )
}

/// Our advisory locks have two numbers: this one, and what the lock is for. They belong to one database.
pub(super) const LOCK_SPACE: i32 = 0x0f10_f04e;
const MAKING: i32 = 1;
pub(super) const RETENTION: i32 = 2;

/// All of them, oldest first.
pub(super) async fn list(conn: &mut PgConnection) -> SqlResult<Vec<Day>> {
    const SQL: &str =
        "SELECT (to_date(substring(c.relname FROM '^task_logs_([0-9]{8})$'), 'YYYYMMDD') - date '1970-01-01')::int8
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'task_logs'::regclass AND c.relname ~ '^task_logs_[0-9]{8}$' ORDER BY 1";
    let rows = sqlx::query(SQL).fetch_all(conn).await?;
    rows.iter().map(|row| row.try_get(0).map(Day)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_the_names_of_their_dates() {
        let name = |ms| Day::of_ms(ms).map(Day::table);
        assert_eq!(name(0).as_deref(), Some("task_logs_19700101"));
        assert_eq!(name(4_102_444_800_000 - 1).as_deref(), Some("task_logs_20991231"));
        assert_eq!(name(4_102_444_800_000).as_deref(), Some("task_logs_21000101"));
        assert_eq!(Day(LAST_DAY).table(), "task_logs_99991231");
        assert_eq!((name(-1), name(i64::MAX), name((LAST_DAY + 1) * DAY_MS)), (None, None, None));
    }
}
