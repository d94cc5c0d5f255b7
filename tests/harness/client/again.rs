//! Coming back when it may fail, as it does while things are broken.

use std::time::Duration;

use serde_json::json;

use super::Client;

impl Client {
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
        let views = {
            let mut books = self.shared.books.lock().unwrap();
            client.shared.books.lock().unwrap().violations.append(&mut books.violations);
            std::mem::take(&mut books.views)
        };
        let again: Vec<_> = views
            .iter()
            .map(|(channel, view)| {
                let (epoch, version) = view.version();
                let since = view.is_complete().then(|| json!({"epoch": epoch, "version": version}));
                (channel.clone(), view.level(), since)
            })
            .collect();
        client.shared.books.lock().unwrap().views = views;
        for (channel, level, since) in again {
            // Where it fails the socket is gone again, and whoever holds the client sees that.
            let _ = tokio::time::timeout(within, client.watch_since(&channel, level, since)).await;
        }
        Ok(client)
    }
}
