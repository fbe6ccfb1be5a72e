//! Opening: what the URL says, how connections are set up, and what is said when there is none.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Row};

use super::PostgresOptions;
use super::error::{misconfigured, opening};
use crate::error::{ErrorKind, StoreError};

/// Partitioned tables have been usable with all that is needed here since this version.
const OLDEST_VERSION: u32 = 130_000;

/// At start-up: a server that does not answer for so long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A transaction of ours that does nothing for so long is one of a process that is frozen or cut off; its locks must go.
const IDLE_IN_TRANSACTION: &str = "30s";

/// Everything that a URL may say; a misspelt one would be ignored without a word.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
];

/// Where to connect, and how to name the place to people.
pub(super) struct Target {
    pub(super) options: PgConnectOptions,
    pub(super) place: String,
}

impl Target {
    /// Reads the URL; what it leaves out comes from `PGHOST`, `PGUSER` and so on, and from `~/.pgpass`.
    pub(super) fn new(options: &PostgresOptions) -> Result<Self, StoreError> {
        const FORM: &str = "postgres.url must be like postgres://user@host:5432/database?sslmode=verify-full";
        let url = &options.url;
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(misconfigured(FORM, format!("it is {:?}", redacted(url))));
        }
        if let Some(unknown) = unknown_parameter(url) {
            return Err(misconfigured(FORM, format!("it has an unknown parameter {unknown:?}")));
        }
        // An error of the parser is about form alone; it does not quote the URL.
        let parsed: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| misconfigured(FORM, error))?;
        let place = describe(&parsed);
        let name = parsed.get_application_name().unwrap_or("flowforge").to_owned();
        let connect = parsed.application_name(&name).options([
            ("statement_timeout", options.statement_timeout.as_millis().to_string()),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION.to_owned()),
        ]);
        Ok(Self { options: connect.disable_statement_logging(), place })
    }

    /// A connection beside the pool, for what may take long or holds a lock of the session.
    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        let conn = tokio::time::timeout(CONNECT_TIMEOUT, self.options.connect()).await.map_err(|late| {
            StoreError::new(ErrorKind::Unavailable, format!("PostgreSQL at {} does not answer", self.place), late)
        })?;
        conn.map_err(|error| opening(&self.place, error))
    }

    /// Connects once, and refuses what cannot work. Says what acks are worth if the server is set to forget.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        const SQL: &str = "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
            current_setting('synchronous_commit'), current_setting('fsync'), current_setting('server_encoding'),
            current_schema()";
        let mut conn = self.connect().await?;
        let fail = |error| opening(&self.place, error);
        let row = sqlx::query(SQL).fetch_one(&mut conn).await.map_err(fail)?;
        let text = |column: usize| row.try_get::<String, _>(column).map_err(fail);
        if row.try_get::<i32, _>(0).map_err(fail)? < OLDEST_VERSION as i32 {
            let context = format!("PostgreSQL at {} is too old. Upgrade it to version 13 or newer", self.place);
            return Err(misconfigured(context, format!("it is version {}", text(1)?)));
        }
        if text(4)? != "UTF8" {
            let context =
                format!("the database at {} cannot hold every text. Create one with ENCODING 'UTF8'", self.place);
            return Err(misconfigured(context, format!("its encoding is {}", text(4)?)));
        }
        if row.try_get::<Option<String>, _>(5).map_err(fail)?.is_none() {
            let context = format!(
                "PostgreSQL at {} has no schema to make tables in. Create the one that search_path names",
                self.place
            );
            return Err(misconfigured(context, "current_schema() is null"));
        }
        if text(2)? == "off" || text(3)? == "off" {
            tracing::warn!(
                synchronous_commit = text(2)?,
                fsync = text(3)?,
                "the PostgreSQL server does not sync commits: a crash of its machine loses lines that were acked"
            );
        }
        Ok(())
    }
}

/// User, place and database: what a person needs to know which server is meant.
fn describe(options: &PgConnectOptions) -> String {
    let host = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => options.get_host().to_owned(),
    };
    let database = options.get_database().unwrap_or(options.get_username());
    format!("{}@{host}:{}/{database}", options.get_username(), options.get_port())
}

fn unknown_parameter(url: &str) -> Option<&str> {
    let (_, query) = url.split_once('?')?;
    let mut names = query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty());
    names.find(|name| !PARAMETERS.contains(name) && !name.starts_with("options["))
}

/// The URL without its password and parameters, for people to see.
pub fn redacted(url: &str) -> String {
    let (head, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    // Without its parameters, wherever they begin. The last @ of all: an unescaped one may stand in the password.
    let (rest, parameters) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?…"),
        None => (rest, ""),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((login, place)) => match login.split_once(':') {
            Some((user, _password)) => (format!("{user}:***@"), place),
            None => (format!("{login}@"), place),
        },
        // An unescaped ? in the password cut it in two.
        None if url.contains('@') => return format!("{head}***"),
        None => (String::new(), rest),
    };
    format!("{head}{user}{rest}{parameters}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("postgres://u:secret@host:5432/db", "postgres://u:***@host:5432/db"),
            ("postgres://u:se@cr/et@host/db?password=secret", "postgres://u:***@host/db?…"),
            ("postgres://host/db?password=secret&sslmode=require", "postgres://host/db?…"),
            ("postgres://u@host", "postgres://u@host"),
            ("u:secret@host", "u:***@host"),
            ("postgres://h/db?password=a@secret", "postgres://***"),
            ("postgres://u:secret?x@h/db", "postgres://***"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    #[test]
    fn urls_that_cannot_work_are_explained() {
        for (url, words) in [
            ("mysql://u:secret@h/db", "mysql://u:***@h/db"),
            ("postgres://u:secret@h:notaport/db", "port"),
            ("postgres://u:secret@h/db?sslmod=require", "sslmod"),
            ("postgres://u:secret@h/db?sslmode=perhaps", "perhaps"),
        ] {
            let error =
                Target::new(&PostgresOptions::new(url)).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("postgres.url") && error.contains(words), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
