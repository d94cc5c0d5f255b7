//! Pages of other origins: what a browser has to be told so that it lets a page of an allowed origin read the answer.
//!
//! Cookies play no part anywhere, so credentials are never allowed: a page has only what it was given.

use actix_web::{
    HttpResponse, ResponseError as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN,
            VARY,
        },
    },
    middleware::Next,
    web,
};

use super::{Doors, credentials};

/// How long a browser need not ask again whether it may, seconds.
const MAX_AGE_S: &str = "600";

/// For routes that pages call: refuses foreign origins, answers what browsers ask beforehand, and lets pages of allowed origins read the answer.
///
/// # Errors
/// What the rest of the application fails with.
pub async fn for_pages(
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let doors = req.app_data::<web::Data<Doors>>().expect("every application has its doors");
    if let Err(refused) = credentials::check_origin(req.head(), doors) {
        return Ok(req.into_response(refused.error_response()).map_into_right_body());
    }
    let origin = req.headers().get(ORIGIN).cloned();
    let asks_beforehand = req.method() == Method::OPTIONS && req.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if asks_beforehand && let Some(origin) = origin {
        let mut response = HttpResponse::NoContent()
            .insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"))
            .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, last-event-id"))
            .insert_header((ACCESS_CONTROL_MAX_AGE, MAX_AGE_S))
            .finish();
        allow(&mut response, origin);
        return Ok(req.into_response(response).map_into_right_body());
    }
    let mut answered = next.call(req).await?.map_into_left_body();
    match origin {
        Some(origin) => allow(answered.response_mut(), origin),
        None => {
            answered.headers_mut().insert(VARY, HeaderValue::from_static("Origin"));
        }
    }
    Ok(answered)
}

fn allow<B>(response: &mut HttpResponse<B>, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after, x-request-id"));
    headers.insert(VARY, HeaderValue::from_static("Origin"));
}
