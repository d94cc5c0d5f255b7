//! Who opens a stream of events or asks for a ticket to one: a client with a token, or an app server with an API key.

use std::sync::Arc;

use actix_web::dev::RequestHead;
use serde::{Deserialize, Serialize};

use super::{
    Doors,
    credentials::{Caller, bearer},
    problem::Problem,
};
use crate::{
    auth,
    core::{Barred, Code, Error, Hello, HelloError, Session},
    domain::{
        pattern::Pattern,
        principal::{Capabilities, Principal, Scope, Server},
        time::wall_now_ms,
    },
};

/// When the stream of an API key ends: in the year 9999, as no key has an end.
const NEVER_MS: u64 = 253_402_300_799_000;

/// A checked credential. Kept for a ticket in this form, and never as the credential itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// A client's token.
    Client(Principal),
    /// An app server's key, or anybody in development mode.
    Server(Server),
}

impl Pass {
    /// Checks what stands in `Authorization`. In development mode nothing has to.
    ///
    /// # Errors
    /// [`Code::Unauthorized`], [`Code::TokenExpired`].
    pub async fn of(head: &RequestHead, doors: &Doors) -> Result<Self, Problem> {
        let Some(credential) = bearer(head) else {
            if doors.is_development {
                return Ok(Self::Server(Caller::development()));
            }
            let detail = "this wants a client's token or an API key: `Authorization: Bearer <it>`, or a `ticket`";
            return Err(Problem::new(Code::Unauthorized, detail));
        };
        if let Some(server) = doors.verifier.verify_key(credential) {
            return Ok(Self::Server(server));
        }
        let checked = doors.verifier.verify_token_fetching(credential, wall_now_ms()).await;
        checked.map(Self::Client).map_err(|error| refusal(doors, &error).into())
    }

    /// Opens a session that watches and is present nowhere.
    ///
    /// # Errors
    /// What the caller is told.
    pub async fn open(self, doors: &Doors) -> Result<Session, Error> {
        let (principal, is_server) = match self {
            Self::Client(principal) => (principal, false),
            Self::Server(server) => (principal_of(&server), true),
        };
        let hello = Hello { principal, resume: None, device: None, present: false };
        match Session::open(&doors.core, hello).await {
            Ok((session, _)) if is_server => Ok(session.of_server()),
            Ok((session, _)) => Ok(session),
            Err(HelloError::Barred(barred)) => Err(turned_away(doors, &barred)),
            Err(HelloError::Other(error)) => Err(error),
            Err(HelloError::TooMany) => Err(Error::new(Code::Limit, "there are as many connections as there may be")),
        }
    }
}

/// What a client is told of a refused token. Our reason is logged, theirs says what to do.
pub fn refusal(doors: &Doors, error: &auth::Error) -> Error {
    doors.audit.token_refused(error);
    match error {
        auth::Error::Expired => Error::new(Code::TokenExpired, "the token has expired; get a fresh one"),
        auth::Error::NotYetValid => Error::new(Code::Unauthorized, "the token is not valid yet; compare the clocks"),
        _ => Error::new(Code::Unauthorized, "the token does not hold here; get a new one"),
    }
}

/// What a client is told that may not come in.
pub fn turned_away(doors: &Doors, barred: &Barred) -> Error {
    doors.audit.turned_away(barred);
    barred.into()
}

/// A key that may read may watch the same; users belong to no channel, so that a key narrowed to channels watches none.
fn principal_of(server: &Server) -> Principal {
    let everything = || Pattern::parse("**").expect("`**` is a pattern");
    let reads = server.grants.iter().filter(|grant| grant.scope == Scope::Read);
    let watch = reads.map(|grant| grant.channels.clone().unwrap_or_else(everything)).collect();
    let users = if server.may(Scope::Read, None) { vec![everything()] } else { Vec::new() };
    Principal {
        user: None,
        expires_at_ms: NEVER_MS,
        issued_at_ms: None,
        token_id: None,
        info: None,
        grace_ms: None,
        can: Some(Arc::new(Capabilities { watch, users, ..Capabilities::default() })),
        channels: Arc::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::principal::{Grant, allows};

    #[test]
    fn a_key_watches_what_it_may_read() {
        let grant = |scope, pattern: Option<&str>| Grant {
            scope,
            channels: pattern.map(|pattern| Pattern::parse(pattern).unwrap()),
        };
        let can = |grants: Vec<Grant>| {
            let server = Server { name: "app".into(), grants: grants.into() };
            principal_of(&server).can.unwrap()
        };
        let narrow = can(vec![grant(Scope::Read, Some("room:*")), grant(Scope::Write, None)]);
        assert!(allows(&narrow.watch, "room:1") && !allows(&narrow.watch, "lobby") && narrow.users.is_empty());
        let wide = can(vec![grant(Scope::Read, None)]);
        assert!(allows(&wide.watch, "a/b:c") && allows(&wide.users, "ann"));
        assert!(wide.join.is_empty() && wide.send.is_empty() && !wide.status);
    }

    #[test]
    fn a_pass_is_read_back_as_it_was_kept() {
        let text = r#"{"client":{"user":"ann","expires_at_ms":5,"issued_at_ms":null,"token_id":"t","info":{"n":1.0},"grace_ms":7,"can":{"watch":["room:*"]},"channels":["a"]}}"#;
        let Pass::Client(principal) = serde_json::from_str(text).unwrap() else { panic!("a client's") };
        assert_eq!(principal.info.as_ref().unwrap().get(), r#"{"n":1.0}"#);
        let again = serde_json::to_string(&Pass::Client(principal)).unwrap();
        assert!(
            matches!(serde_json::from_str(&again).unwrap(), Pass::Client(principal) if principal.grace_ms == Some(7))
        );
        let server = Caller::development();
        let text = serde_json::to_string(&Pass::Server(server)).unwrap();
        assert!(matches!(serde_json::from_str(&text).unwrap(), Pass::Server(server) if server.may(Scope::Admin, None)));
    }
}
