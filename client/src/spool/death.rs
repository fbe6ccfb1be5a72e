//! Where the process may die. In tests somebody looks at the file there; else nothing happens.

#[cfg(not(test))]
pub(crate) fn may_come() {}

#[cfg(test)]
pub(crate) use watched::{may_come, watch};

#[cfg(test)]
mod watched {
    use std::cell::RefCell;

    thread_local! {
        static WATCH: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    }

    pub(crate) fn may_come() {
        WATCH.with_borrow_mut(|watch| {
            if let Some(watch) = watch {
                watch();
            }
        });
    }

    /// Calls `look` at each such place that `body` comes to on this thread.
    pub(crate) fn watch<T>(look: impl FnMut() + 'static, body: impl FnOnce() -> T) -> T {
        WATCH.set(Some(Box::new(look)));
        let done = body();
        WATCH.take();
        done
    }
}
