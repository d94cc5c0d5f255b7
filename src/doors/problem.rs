//! Refusals as HTTP says them: `application/problem+json` (RFC 9457) with the code that programs act on.

use std::fmt;

use actix_web::{
    HttpResponse, ResponseError,
    http::{Method, StatusCode, header},
};
use serde::Serialize;

use crate::core::{Code, Error};

/// The most characters of a sentence that is sent: it may repeat what a stranger wrote.
const DETAIL_CHARS: usize = 400;

/// Why a request was not answered as it wished.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    error: Error,
    allow: &'static [Method],
}

#[derive(Serialize)]
struct Shape<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl Problem {
    /// A problem with the status that belongs to its code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Error::new(code, detail).into()
    }

    /// A request that cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    /// A problem of HTTP itself, for which there is no code of its own.
    pub fn of_http(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, ..Self::bad_request(detail) }
    }

    /// The path is one of ours, the method is none of its.
    pub fn method(allow: &'static [Method]) -> Self {
        let names: Vec<&str> = allow.iter().map(Method::as_str).collect();
        let detail = format!("here one may use {}", names.join(", "));
        Self { allow, ..Self::of_http(StatusCode::METHOD_NOT_ALLOWED, detail) }
    }
}

fn status_of(code: Code) -> StatusCode {
    match code {
        Code::BadRequest | Code::UnknownOp => StatusCode::BAD_REQUEST,
        Code::Unauthorized | Code::TokenExpired => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        // As many as there may be: the request is right, and does not fit what is there.
        Code::Conflict | Code::Limit => StatusCode::CONFLICT,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self { status: status_of(error.code), error, allow: &[] }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let Error { code, message, retry_after_ms } = &self.error;
        let detail = match message.char_indices().nth(DETAIL_CHARS) {
            Some((at, _)) => &message[..at],
            None => message,
        };
        let mut response = HttpResponse::build(self.status);
        // Who is too fast is always told to wait, a moment where nothing better is known.
        let wait_ms = retry_after_ms.or((self.status == StatusCode::TOO_MANY_REQUESTS).then_some(1_000));
        if let Some(ms) = wait_ms {
            response.insert_header((header::RETRY_AFTER, ms.div_ceil(1_000).max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if !self.allow.is_empty() {
            let names: Vec<&str> = self.allow.iter().map(Method::as_str).collect();
            response.insert_header((header::ALLOW, names.join(", ")));
        }
        let shape = Shape {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail,
            code: *code,
            retry_after_ms: *retry_after_ms,
        };
        response
            .content_type("application/problem+json")
            .body(serde_json::to_string(&shape).expect("a problem is JSON"))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use serde_json::Value;

    use super::*;

    async fn shown(problem: Problem) -> (HttpResponse<()>, Value) {
        let (head, body) = problem.error_response().into_parts();
        let body = to_bytes(body).await.map_err(|_| "a body of text").unwrap();
        (head, serde_json::from_slice(&body).unwrap())
    }

    #[actix_web::test]
    async fn what_may_be_tried_again_says_when() {
        let (head, body) = shown(Error::unavailable("the store is out of reach").into()).await;
        assert_eq!(head.status(), 503);
        assert_eq!(head.headers().get("retry-after").unwrap(), "1");
        assert_eq!(head.headers().get("content-type").unwrap(), "application/problem+json");
        assert_eq!(body["code"], "unavailable");
        assert_eq!((&body["status"], &body["title"]), (&503.into(), &"Service Unavailable".into()));
    }

    #[actix_web::test]
    async fn a_sentence_that_repeats_a_stranger_is_bounded() {
        let (_, body) = shown(Problem::bad_request("😀".repeat(10_000))).await;
        assert_eq!(body["detail"].as_str().unwrap().chars().count(), DETAIL_CHARS);
    }

    #[actix_web::test]
    async fn a_wrong_method_is_told_the_right_ones() {
        let (head, body) = shown(Problem::method(&[Method::GET, Method::HEAD])).await;
        assert_eq!(head.status(), 405);
        assert_eq!(head.headers().get("allow").unwrap(), "GET, HEAD");
        assert_eq!(body["code"], "bad_request");
    }

    #[actix_web::test]
    async fn who_is_not_known_is_told_how_to_say_who_it_is() {
        let (head, _) = shown(Problem::new(Code::Unauthorized, "no key")).await;
        assert_eq!(head.headers().get("www-authenticate").unwrap(), "Bearer");
    }
}
