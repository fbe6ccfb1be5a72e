//! Statements over many rows at once.
//!
//! A statement with many rows in one VALUES list costs far less a row than many statements, but each number of rows is a
//! statement of its own to SQLite. So a list is cut into a few fixed sizes, which all stay in the statement cache.

use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Encode, Sqlite, Type};

/// Rows a statement, largest first; the last is 1, so that every list can be cut.
const SIZES: [usize; 4] = [128, 32, 8, 1];

/// How many statements one [`BatchSql`] keeps in the statement cache.
pub(super) const STATEMENTS_EACH: usize = SIZES.len();

/// What fails in binding, and in running.
pub(super) type SqlResult<T> = Result<T, sqlx::Error>;

/// One statement in each of the [`SIZES`].
pub(super) struct BatchSql {
    columns: usize,
    texts: [Arc<str>; SIZES.len()],
}

impl BatchSql {
    /// `head VALUES (?, …), … tail`, with so many columns a row.
    pub(super) fn new(head: &str, columns: usize, tail: &str) -> Self {
        let row = format!("({})", vec!["?"; columns].join(","));
        let texts = SIZES.map(|rows| format!("{head} VALUES {} {tail}", vec![row.as_str(); rows].join(",")).into());
        Self { columns, texts }
    }

    /// Runs it over the rows; `bind` gives the values of one row.
    pub(super) async fn run<T: Sync>(
        &self,
        conn: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(&mut Values, &T) -> SqlResult<()> + Send,
    ) -> SqlResult<()> {
        let mut rest = rows;
        while let Some((sql, chunk)) = self.cut(&mut rest) {
            let values = Values::of(chunk, self.columns, &bind)?;
            sqlx::query_with(AssertSqlSafe(sql), values.0).execute(&mut *conn).await?;
        }
        Ok(())
    }

    /// The same for a statement that returns rows, handed to `take` in no order that may be relied on.
    pub(super) async fn fetch<T: Sync>(
        &self,
        conn: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(&mut Values, &T) -> SqlResult<()> + Send,
        mut take: impl FnMut(&SqliteRow) -> SqlResult<()> + Send,
    ) -> SqlResult<()> {
        let mut rest = rows;
        while let Some((sql, chunk)) = self.cut(&mut rest) {
            let values = Values::of(chunk, self.columns, &bind)?;
            for row in sqlx::query_with(AssertSqlSafe(sql), values.0).fetch_all(&mut *conn).await? {
                take(&row)?;
            }
        }
        Ok(())
    }

    /// The largest piece that fits, and its statement.
    fn cut<'a, T>(&self, rest: &mut &'a [T]) -> Option<(Arc<str>, &'a [T])> {
        let at = SIZES.iter().position(|size| *size <= rest.len())?;
        let (chunk, left) = rest.split_at(SIZES[at]);
        *rest = left;
        Some((Arc::clone(&self.texts[at]), chunk))
    }
}

/// The bound values of one statement.
pub(super) struct Values(SqliteArguments);

impl Values {
    fn of<T>(rows: &[T], columns: usize, bind: impl Fn(&mut Self, &T) -> SqlResult<()>) -> SqlResult<Self> {
        let mut values = Self(SqliteArguments::default());
        values.0.reserve(rows.len() * columns, 0);
        for row in rows {
            bind(&mut values, row)?;
        }
        Ok(values)
    }

    /// Binds the next value.
    pub(super) fn add<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> SqlResult<()> {
        self.0.add(value).map_err(sqlx::Error::Encode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_is_cut_without_a_rest() {
        let sql = BatchSql::new("INSERT INTO t", 2, "");
        for length in [0, 1, 7, 8, 9, 131, 1000] {
            let rows = vec![(); length];
            let (mut rest, mut seen) = (rows.as_slice(), 0);
            while let Some((text, chunk)) = sql.cut(&mut rest) {
                assert_eq!(text.matches('(').count(), chunk.len());
                seen += chunk.len();
            }
            assert_eq!(seen, length);
        }
    }
}
