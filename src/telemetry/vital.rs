//! Tasks without which the process is of no use. A panic ends such a task quietly while sockets stay open and everything looks well; a process that
//! ends is noticed: its clients come back elsewhere within their grace, and whoever keeps processes running starts another.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;

/// Spawns a task; if it panics the process ends at once.
pub fn spawn(name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    spawn_or(name, task, || std::process::abort())
}

fn spawn_or(
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
    end: impl FnOnce() + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        // Nothing looks at what the task left half done: the process ends.
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!(task = name, "a task panicked without which this process is of no use; ending");
            end();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_process_and_an_orderly_end_does_not() {
        let (ended, end) = tokio::sync::oneshot::channel();
        spawn_or("quiet", async {}, || panic!("nothing panicked")).await.unwrap();
        let panics = async { panic!("as the test wants it") };
        spawn_or("loud", panics, move || ended.send(()).unwrap()).await.unwrap();
        end.await.unwrap();
    }
}
