//! The schema's versions, applied by sqlx's own migrator (it records them in `_sqlx_migrations`).
//!
//! The files are included by name instead of by `migrate!`, which would pull in sqlx's procedural macros.

use std::borrow::Cow;
use std::path::Path;

use sqlx::SqlStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnection;

use super::error::{misconfigured, opening};
use crate::error::StoreError;

/// Every version, oldest first. A released file never changes: its checksum is stored in every database.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "lines and tasks", include_str!("../../migrations/sqlite/0001_lines_and_tasks.sql")),
    (2, "system lines", include_str!("../../migrations/sqlite/0002_system_lines.sql")),
];

/// Brings the database at `path` to the newest version. Each step is one transaction.
pub(super) async fn migrate(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    migrator().run_direct(None, conn, false).await.map_err(|error| explain(error, path))
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
        Migration::new(*version, Cow::Borrowed(*name), MigrationType::Simple, SqlStr::from_static(sql), false)
    });
    Migrator::with_migrations(migrations.collect())
}

fn explain(error: MigrateError, path: &Path) -> StoreError {
    let file = path.display();
    match error {
        MigrateError::VersionMissing(found) => {
            let newest = MIGRATIONS.last().map_or(0, |(version, ..)| *version);
            let context = format!(
                "the database {file} has schema version {found}, written by a newer flowforge; this one knows versions up to {newest}. Run the newer flowforge, or set sqlite.path to another file"
            );
            misconfigured(context, error)
        }
        MigrateError::VersionMismatch(_) => {
            let context = format!(
                "the database {file} was written by a different build of flowforge whose schema is not this one's. Run that build, or set sqlite.path to another file"
            );
            misconfigured(context, error)
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => opening(path, error),
        other => misconfigured(format!("the database {file} cannot be brought to this version's schema"), other),
    }
}
