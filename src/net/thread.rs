//! Threads with a runtime, for tasks that the work of others must not delay.

use std::io;

use tokio::runtime::{Builder, Handle};

/// Starts a thread that runs the tasks spawned on its handle, until the process ends.
///
/// # Errors
/// If the kernel provides no thread, or no descriptors for the runtime.
pub fn start(name: &str) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_runs_while_the_thread_that_started_it_does_not_respond() {
        let (done, blocked) = std::sync::mpsc::channel();
        start("test").unwrap().spawn(async move { done.send(tokio::time::Instant::now()) });
        // Blocks this runtime; on it the task would never run.
        blocked.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    }
}
