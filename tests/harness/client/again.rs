//! A client in the place of one whose socket is gone, when that may fail, as it does while things are broken.

use std::time::Duration;

use super::{Client, OpError};

impl Client {
    /// Takes over what an earlier client has seen: its welcome, its frames, and its views, which go on where they were. Its socket must have ended.
    pub fn inherit(&self, earlier: &Self) {
        let (welcome, views, received, violations, frames) = {
            let mut books = earlier.shared.books.lock().unwrap();
            assert!(books.closed.is_some(), "an open socket still hears");
            (
                books.welcome.clone(),
                std::mem::take(&mut books.views),
                std::mem::take(&mut books.received),
                std::mem::take(&mut books.violations),
                books.frames,
            )
        };
        let mut books = self.shared.books.lock().unwrap();
        let own = std::mem::replace(&mut books.received, received);
        books.received.extend(own);
        books.violations.extend(violations);
        books.frames += frames;
        (books.welcome, books.views) = (welcome, views);
    }

    /// Asks for each watch again, with the `since` of the last frame that was read.
    pub async fn watch_again(&self) -> Result<(), OpError> {
        for (channel, view) in self.views() {
            self.watch_since(&channel, view.level(), view.since()).await?;
        }
        Ok(())
    }

    /// Takes over the views of an earlier client, which go on where they were, and nothing else that it has seen.
    pub(super) fn take_views(&self, earlier: &Self) {
        let mut earlier = earlier.shared.books.lock().unwrap();
        let mut books = self.shared.books.lock().unwrap();
        books.violations.append(&mut earlier.violations);
        books.views = std::mem::take(&mut earlier.views);
    }

    /// As [`Client::resume_on`], with its `resume` token or without one, but within a time; where it fails the client is given back to try again.
    pub async fn try_again_on(
        self,
        base: &str,
        token: &str,
        resume: Option<&str>,
        within: Duration,
    ) -> Result<Self, Self> {
        let opening = async {
            let client = Self::try_connect(base, "rollcall.v1", &[]).await.ok()?;
            let hello = match resume {
                Some(resume) => client.hello_resume(token, resume).await,
                None => client.hello(token).await,
            };
            hello.ok().map(|_| client)
        };
        let Ok(Some(client)) = tokio::time::timeout(within, opening).await else { return Err(self) };
        self.drop_socket().await;
        client.take_views(&self);
        // Where it fails the socket is gone again, and whoever holds the client sees that.
        let _ = tokio::time::timeout(within, client.watch_again()).await;
        Ok(client)
    }
}
