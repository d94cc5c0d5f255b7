//! Conversations that stand written, in the manual and in `fixtures/wire`, held against a server.

use std::collections::HashMap;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::{DEADLINE, Instance, token};

/// Different in every run.
const DRAWN: [&str; 5] = ["epoch", "from_epoch", "connection", "resume", "next"];
const TIMES: [&str; 6] = ["time", "server_time", "since", "last_seen", "last_active", "retry_after_ms"];

/// Says frames and hears them, without a view of its own.
pub struct Speaker(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Speaker {
    /// Connected, and nothing said yet.
    pub async fn connect(at: &Instance) -> Self {
        let address = format!("{}/v1/ws", at.url().replacen("http", "ws", 1));
        let mut request = address.into_client_request().expect("an address");
        request.headers_mut().insert("sec-websocket-protocol", "rollcall.v1".parse().expect("a header"));
        Self(tokio_tungstenite::connect_async(request).await.expect("the handshake succeeds").0)
    }

    /// Says a frame.
    pub async fn say(&mut self, frame: &Value, place: &str) {
        self.0.send(Message::text(frame.to_string())).await.unwrap_or_else(|error| panic!("{place}: {error}"));
    }

    /// The code with which the socket is closed, which must be what comes next.
    pub async fn closed(&mut self, place: &str) -> u16 {
        let Message::Close(Some(close)) = self.next(place).await else { panic!("{place}: not closed") };
        close.code.into()
    }

    async fn next(&mut self, place: &str) -> Message {
        let next = tokio::time::timeout(DEADLINE, self.0.next()).await;
        next.unwrap_or_else(|_| panic!("{place}: nothing came"))
            .expect("the socket is open")
            .expect("frames are frames")
    }

    /// The next frame.
    pub async fn text(&mut self, place: &str) -> String {
        match self.next(place).await {
            Message::Text(text) => text.to_string(),
            other => panic!("{place}: {other:?}"),
        }
    }
}

/// Holds a frame against what stands written, and notes what was drawn under which name.
///
/// # Errors
/// A sentence that says where they differ.
pub fn compare(said: &Value, came: &Value, key: &str, drawn: &mut HashMap<String, String>) -> Result<(), String> {
    match (said, came) {
        (Value::Object(said), Value::Object(came)) => {
            let names = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            if names(said) != names(came) {
                return Err(format!("`{key}` has {:?}, what is written is {:?}", names(came), names(said)));
            }
            said.iter().try_for_each(|(key, said)| compare(said, &came[key], key, drawn))
        }
        (Value::Array(said), Value::Array(came)) if said.len() == came.len() => {
            // Connections stand in the order of their ids, which are drawn.
            let by_name = |list: &[Value]| {
                let mut list = list.to_vec();
                list.sort_by_key(|one| [&one["user"], &one["device"]].map(|name| name.as_str().map(str::to_owned)));
                list
            };
            let (said, came) = (by_name(said), by_name(came));
            said.iter().zip(&came).try_for_each(|(said, came)| compare(said, came, key, drawn))
        }
        (Value::String(said), Value::String(came)) if DRAWN.contains(&key) => {
            drawn.insert(said.clone(), came.clone());
            Ok(())
        }
        (Value::Number(_), Value::Number(_)) if TIMES.contains(&key) => Ok(()),
        _ if said == came => Ok(()),
        _ => Err(format!("`{key}` is {came}, what is written is {said}")),
    }
}

/// Puts what was drawn in this run in the place of what was drawn when it was written.
pub fn renew(frame: &mut Value, user: &str, drawn: &HashMap<String, String>) {
    let Some(fields) = frame.as_object_mut() else { return };
    for (name, value) in fields {
        match value {
            Value::String(_) if name == "token" => {
                *value = json!(token(user, json!({"info": {"avatar": format!("/{user}.png")}})));
            }
            Value::String(text) => {
                if let Some(now) = drawn.get(text) {
                    now.clone_into(text);
                }
            }
            _ => renew(value, user, drawn),
        }
    }
}
