//! What native code says to the person at the terminal: on the descriptor that Python keeps for it, since `sys.stderr` may
//! be captured, and descriptor 2 may be a file of the program by now.

use std::sync::atomic::{AtomicI32, Ordering};

use flowforge_client::ClientConfig;

use crate::os;

const NOWHERE: i32 = -1;
static DESCRIPTOR: AtomicI32 = AtomicI32::new(NOWHERE);

/// Where to say it; negative: nowhere.
pub(crate) fn speak_on(descriptor: i32) {
    DESCRIPTOR.store(descriptor, Ordering::Relaxed);
}

/// Says where the task can be read, or that its server is away; each once.
pub(crate) fn connection(config: &ClientConfig) -> impl Fn(Result<&str, &str>) + Send + Sync + 'static {
    let (server, task) = (config.server.clone(), config.task_id.clone());
    move |connected| match connected {
        Ok("") => {}
        Ok(viewer_url) => say(&format!("task {task}: {viewer_url}")),
        Err(reason) => say(&format!("{reason}; lines of task {task} wait in memory for {server}")),
    }
}

/// Says at once that nothing will be shipped any more.
pub(crate) fn refusal(config: &ClientConfig) -> impl Fn(&str) + Send + Sync + 'static {
    let (server, task) = (config.server.clone(), config.task_id.clone());
    move |reason| say(&format!("{server} refuses task {task}: {reason}; nothing of it is shipped any more"))
}

pub(crate) fn say(text: &str) {
    let descriptor = DESCRIPTOR.load(Ordering::Relaxed);
    if descriptor >= 0 {
        // One write, so that lines do not mix.
        os::write(descriptor, format!("flowforge: {text}\n").as_bytes());
    }
}
