//! A client in the place of one whose socket is gone.

use serde_json::json;

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
            let (epoch, version) = view.version();
            let since = view.is_complete().then(|| json!({"epoch": epoch, "version": version}));
            self.watch_since(&channel, view.level(), since).await?;
        }
        Ok(())
    }
}
