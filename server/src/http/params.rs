//! Query parameters, checked. A parameter that is not known is an error: a misspelt filter must not show every line.

use std::collections::BTreeMap;

use axum::extract::{FromRequestParts, Path, Query};
use flowforge_storage::{LogFilter, Stream, StreamSet, TaskKey};
use http::request::Parts;

use super::problem::Problem;
use crate::line::parse_level;

/// The task id of the path, not checked yet beyond being text.
pub(super) struct TaskId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for TaskId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(task_id) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::bad_request(format!("the task id in the path: {}", rejection.body_text())))?;
        Ok(Self(task_id))
    }
}

/// The parameters of one request, each taken once.
#[derive(Debug)]
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    pub(super) fn new(Query(pairs): Query<Vec<(String, String)>>) -> Result<Self, Problem> {
        let mut params = BTreeMap::new();
        for (key, value) in pairs {
            if params.insert(key.clone(), value).is_some() {
                return Err(Problem::bad_request(format!("parameter {key:?} is given twice")));
            }
        }
        Ok(Self(params))
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|value| !value.is_empty())
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Problem::bad_request(format!("{name} must be a whole number, but is {text:?}"))),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.text(name).as_deref() {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(Problem::bad_request(format!("{name} must be true or false, but is {other:?}"))),
        }
    }

    /// The task of the path, with `tenant=`.
    pub(super) fn task(&mut self, task_id: &str) -> Result<TaskKey, Problem> {
        Ok(TaskKey::new(&self.text("tenant").unwrap_or_default(), task_id)?)
    }

    /// `level=`, `stream=` (one or several, separated by commas), `q=`.
    pub(super) fn filter(&mut self) -> Result<LogFilter, Problem> {
        let mut filter = LogFilter::default();
        if let Some(level) = self.text("level") {
            filter.min_level = Some(parse_level(&level).ok_or_else(|| {
                Problem::bad_request(format!(
                    "level must be trace, debug, info, warn, error, fatal or a number from 1 to 24, but is {level:?}"
                ))
            })?);
        }
        for name in self.text("stream").iter().flat_map(|names| names.split(',')) {
            let stream = Stream::from_name(name).ok_or_else(|| {
                Problem::bad_request(format!("stream must be stdout, stderr, log or system, but is {name:?}"))
            })?;
            filter.streams = StreamSet::with(filter.streams, stream);
        }
        Ok(filter.contains(&self.text("q").unwrap_or_default()))
    }

    /// Call last: whatever nobody asked for is a mistake.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(unknown) => Err(Problem::bad_request(format!("unknown parameter {unknown:?}"))),
        }
    }
}
