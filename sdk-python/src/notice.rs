//! What native code says to the person at the terminal: on descriptor 2, since `sys.stderr` may be captured, and is Python's.

use std::io::Write as _;

use flowforge_client::ClientConfig;

/// Says where the task can be read, or that its server is away; each once.
pub(crate) fn connection(config: &ClientConfig) -> impl Fn(Result<&str, &str>) + Send + Sync + 'static {
    let (server, task) = (config.server.clone(), config.task_id.clone());
    move |connected| match connected {
        Ok("") => {}
        Ok(viewer_url) => say(&format!("task {task}: {viewer_url}")),
        Err(reason) => say(&format!("{reason}; lines of task {task} wait in memory for {server}")),
    }
}

fn say(text: &str) {
    // One write, and nobody to read it is no error.
    let _ = std::io::stderr().write_all(format!("flowforge: {text}\n").as_bytes());
}
