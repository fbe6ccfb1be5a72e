//! The viewer: plain files, embedded in the binary. Nothing is fetched from elsewhere, and no build step makes them.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

use super::problem::Problem;

/// A file of `viewer/`, by its name.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../viewer/", $name)))),*]
    };
}

/// What `/viewer/{name}` answers.
const FILES: &[(&str, &str)] = files![
    "ansi.js",
    "api.js",
    "clock.js",
    "cursor.js",
    "filter.js",
    "found.js",
    "head.js",
    "height.js",
    "icon.svg",
    "key.js",
    "line.js",
    "list.js",
    "log.css",
    "log.js",
    "main.js",
    "match.js",
    "page.css",
    "page.js",
    "row.js",
    "scroll-bar.js",
    "setting.js",
    "sse.js",
    "status.js",
    "stream.js",
    "task-list.js",
    "task-page.js",
    "theme.js",
];

pub(super) async fn index() -> Response {
    answer("text/html; charset=utf-8", include_str!("../../viewer/index.html"))
}

pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    let Some((name, text)) = FILES.iter().find(|(known, _)| *known == name) else {
        return Err(Problem::not_found(format!("the viewer has no file {name:?}")));
    };
    Ok(answer(content_type(name), text))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

fn answer(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text).into_response()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_that_a_browser_needs_is_embedded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("viewer");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut wanted: Vec<String> = names
            .filter(|name| {
                Path::new(name).extension().is_some_and(|kind| ["js", "css", "svg"].iter().any(|k| kind == *k))
            })
            .collect();
        wanted.sort();
        assert_eq!(FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), wanted);
        assert!(wanted.iter().all(|name| content_type(name) != "application/octet-stream"));
    }
}
