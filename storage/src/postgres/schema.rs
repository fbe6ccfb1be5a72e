//! The schema's versions, applied by sqlx's own migrator: it records them in `_sqlx_migrations`, and takes an advisory lock, so
//! that instances that start together wait for each other.
//!
//! The files are included by name instead of by `migrate!`, which would pull in sqlx's procedural macros.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, SqlStr};

use super::error::{misconfigured, opening};
use super::open::Target;
use super::partition;
use crate::error::StoreError;

/// Every version, oldest first. A released file never changes: its checksum is stored in every database.
const MIGRATIONS: &[(i64, &str, &str)] =
    &[(1, "task logs", include_str!("../../migrations/postgres/0001_task_logs.sql"))];

/// Brings the database to the newest version, each step one transaction, and makes the partitions of the next days.
pub(super) async fn migrate(target: &Target) -> Result<(), StoreError> {
    let mut conn = target.connect().await?;
    let fail = |error| opening(&target.place, error);
    // A large table may take long to change, and so may another instance that does it.
    sqlx::raw_sql("SET statement_timeout = 0").execute(&mut conn).await.map_err(fail)?;
    run(&mut conn, &target.place).await?;
    partition::make_ahead(&mut conn).await.map_err(fail)?;
    conn.close().await.map_err(fail)
}

async fn run(conn: &mut PgConnection, place: &str) -> Result<(), StoreError> {
    let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
        Migration::new(*version, Cow::Borrowed(*name), MigrationType::Simple, SqlStr::from_static(sql), false)
    });
    let migrator = Migrator::with_migrations(migrations.collect());
    migrator.run_direct(None, conn, false).await.map_err(|error| explain(error, place))
}

fn explain(error: MigrateError, place: &str) -> StoreError {
    match error {
        MigrateError::VersionMissing(found) => {
            let newest = MIGRATIONS.last().map_or(0, |(version, ..)| *version);
            let context = format!(
                "the database {place} has schema version {found}, written by a newer flowforge; this one knows versions up to {newest}. Run the newer flowforge, or set postgres.url to another database"
            );
            misconfigured(context, error)
        }
        MigrateError::VersionMismatch(_) => {
            let context = format!(
                "the database {place} was written by a different build of flowforge whose schema is not this one's. Run that build, or set postgres.url to another database"
            );
            misconfigured(context, error)
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => opening(place, error),
        other => misconfigured(format!("the database {place} cannot be brought to this version's schema"), other),
    }
}
