//! JSON bodies: of a bounded length, with known fields only.

use std::time::Duration;

use actix_web::{
    FromRequest, HttpMessage as _, HttpRequest,
    dev::Payload,
    http::{StatusCode, header::CONTENT_LENGTH},
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, future::LocalBoxFuture};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{
    core::Code,
    doors::{Doors, problem::Problem},
};

/// The body of a request.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Body<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (req, payload) = (req.clone(), payload.take());
        Box::pin(async move {
            if !matches!(req.mime_type(), Ok(Some(mime)) if mime.essence_str() == "application/json") {
                let detail = "the body is JSON and says so: `Content-Type: application/json`";
                return Err(Problem::of_http(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
            }
            let doors = req.app_data::<web::Data<Doors>>().expect("every application has its doors");
            // A body that trickles in holds a connection as a socket without a hello does, and may do so as long.
            let patience = Duration::from_millis(doors.server.hello_timeout_ms);
            let body = timeout(patience, read(&req, payload, doors.limits.frame_bytes))
                .await
                .map_err(|_| Problem::of_http(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))??;
            // A list of the fields' values in order would be read as well, and nobody has promised that.
            if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
                return Err(Problem::bad_request("the body: it is a JSON object"));
            }
            serde_json::from_slice(&body).map(Self).map_err(|why| Problem::bad_request(format!("the body: {why}")))
        })
    }
}

async fn read(req: &HttpRequest, mut payload: Payload, most: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Code::TooLarge, format!("a body has at most {most} bytes"));
    let length = req.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Problem::bad_request("the body could not be read to its end"))?;
        if body.len() + chunk.len() > most {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
