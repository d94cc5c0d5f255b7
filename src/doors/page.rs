//! The built-in pages: a few embedded files, so that whoever starts the binary can see people come and go in a browser, and the client for
//! pages of others.
//!
//! The pages are ordinary clients. They have no way in but the doors that everybody has, and this door only hands out its files. They
//! stand in `web/src/`; what is embedded is what `make web` has made of them, so that building the binary takes no Node.

use std::sync::LazyLock;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method,
        header::{self, ETag, EntityTag, Header as _, IfNoneMatch},
    },
    web,
};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};

/// One embedded file and how it is served.
struct File {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
    etag: EntityTag,
    /// Whether pages of every origin may have it.
    is_for_all: bool,
}

impl File {
    fn new(path: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Self {
        let hash = &Sha256::digest(bytes)[..12];
        let etag = EntityTag::new_strong(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash));
        Self { path, content_type, bytes, etag, is_for_all: false }
    }

    fn for_all(self) -> Self {
        Self { is_for_all: true, ..self }
    }
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

static FILES: LazyLock<[File; 9]> = LazyLock::new(|| {
    [
        File::new("/", HTML, include_bytes!("../../web/dist/index.html")),
        File::new("/dashboard", HTML, include_bytes!("../../web/dist/dashboard.html")),
        File::new("/page/playground.js", SCRIPT, include_bytes!("../../web/dist/playground.js")),
        File::new("/page/dashboard.js", SCRIPT, include_bytes!("../../web/dist/dashboard.js")),
        File::new("/page/theme.js", SCRIPT, include_bytes!("../../web/dist/theme.js")),
        File::new("/page/style.css", STYLE, include_bytes!("../../web/dist/style.css")),
        File::new("/page/dashboard.css", STYLE, include_bytes!("../../web/dist/dashboard.css")),
        File::new("/page/logo.svg", "image/svg+xml", include_bytes!("../../web/dist/logo.svg")),
        File::new("/client.js", SCRIPT, include_bytes!("../../web/dist/client.js")).for_all(),
    ]
});

/// Adds the pages, the files below `/page/` and `/client.js`; they are answered to GET and HEAD.
pub fn routes(cfg: &mut web::ServiceConfig) {
    for file in FILES.iter() {
        let answer = move |request: HttpRequest| std::future::ready(serve(&request, file));
        cfg.service(
            web::resource(file.path)
                .route(web::get().to(answer))
                .route(web::head().to(answer))
                .default_service(web::to(not_allowed)),
        );
    }
}

async fn not_allowed() -> HttpResponse {
    HttpResponse::MethodNotAllowed().insert_header(header::Allow(vec![Method::GET, Method::HEAD])).finish()
}

fn serve(request: &HttpRequest, file: &'static File) -> HttpResponse {
    let mut response = if known(request, &file.etag) { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header(ETag(file.etag.clone()))
        // Stored but asked about each time: after an upgrade nobody runs an old page against a new server.
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::CONTENT_SECURITY_POLICY, content_security_policy(request)))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CROSS_ORIGIN_OPENER_POLICY, "same-origin"));
    if file.is_for_all {
        // The client holds nothing of anybody's: a page that imports it has what `npm install` would have given it.
        response
            .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
            .insert_header((header::CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin"));
    } else {
        response.insert_header((header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"));
    }
    if known(request, &file.etag) {
        return response.finish();
    }
    response.content_type(file.content_type).body(web::Bytes::from_static(file.bytes))
}

/// Whether the browser has this file already.
fn known(request: &HttpRequest, etag: &EntityTag) -> bool {
    if !request.headers().contains_key(header::IF_NONE_MATCH) {
        return false;
    }
    match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|tag| tag.weak_eq(etag)),
        Err(_) => false,
    }
}

/// What the page may do: run its own files and talk to this server.
///
/// Not every browser counts a WebSocket to the same host as `'self'`, and `ws:` alone would allow any host, so the host that
/// the browser asked is named, unless it contains what has no place in a policy.
fn content_security_policy(request: &HttpRequest) -> String {
    let asked = request.uri().authority().map(|authority| authority.as_str());
    let asked = asked.or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    let sockets = match asked {
        Some(host) if is_plain_host(host) => format!(" ws://{host} wss://{host}"),
        _ => String::new(),
    };
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'"
    )
}

fn is_plain_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use actix_web::{App, body::MessageBody, dev::ServiceResponse, http::StatusCode, test};

    use super::*;

    async fn ask(request: test::TestRequest) -> ServiceResponse<impl MessageBody> {
        let app = test::init_service(App::new().configure(routes)).await;
        test::call_service(&app, request.to_request()).await
    }

    fn header_of(response: &ServiceResponse<impl MessageBody>, name: header::HeaderName) -> &str {
        response.headers().get(name).expect("the header is there").to_str().unwrap()
    }

    #[actix_web::test]
    async fn every_file_is_served_with_its_type_and_the_policy() {
        for file in FILES.iter() {
            let response = ask(test::TestRequest::get().uri(file.path)).await;
            assert_eq!(response.status(), StatusCode::OK, "{}", file.path);
            assert_eq!(header_of(&response, header::CONTENT_TYPE), file.content_type);
            assert_eq!(header_of(&response, header::X_CONTENT_TYPE_OPTIONS), "nosniff");
            assert_eq!(header_of(&response, header::REFERRER_POLICY), "no-referrer");
            assert_eq!(header_of(&response, header::CACHE_CONTROL), "no-cache");
            let policy = header_of(&response, header::CONTENT_SECURITY_POLICY);
            assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(test::read_body(response).await, file.bytes);
        }
    }

    #[actix_web::test]
    async fn a_file_that_the_browser_has_is_not_sent_again() {
        let etag = header_of(&ask(test::TestRequest::get().uri("/")).await, header::ETAG).to_owned();
        for tag in [etag.clone(), format!("\"other\", W/{etag}"), "*".to_owned()] {
            let response = ask(test::TestRequest::get().uri("/").insert_header((header::IF_NONE_MATCH, tag))).await;
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
            assert_eq!(header_of(&response, header::ETAG), etag);
            assert!(test::read_body(response).await.is_empty());
        }
        let other = test::TestRequest::get().uri("/").insert_header((header::IF_NONE_MATCH, "\"other\""));
        assert_eq!(ask(other).await.status(), StatusCode::OK);
    }

    #[actix_web::test]
    async fn head_is_answered_and_other_methods_are_told_which_ones_are() {
        assert_eq!(ask(test::TestRequest::default().method(Method::HEAD).uri("/")).await.status(), StatusCode::OK);
        let response = ask(test::TestRequest::post().uri("/page/playground.js")).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(header_of(&response, header::ALLOW), "GET, HEAD");
    }

    #[actix_web::test]
    async fn sockets_are_allowed_to_the_host_that_was_asked_and_to_no_other() {
        let asked = |host: &'static str| test::TestRequest::get().uri("/").insert_header((header::HOST, host));
        let response = ask(asked("127.0.0.1:8080")).await;
        let policy = header_of(&response, header::CONTENT_SECURITY_POLICY);
        assert!(policy.contains("connect-src 'self' ws://127.0.0.1:8080 wss://127.0.0.1:8080;"), "{policy}");

        let response = ask(asked("x; script-src *")).await;
        let policy = header_of(&response, header::CONTENT_SECURITY_POLICY);
        assert!(policy.contains("connect-src 'self';") && !policy.contains('*'), "{policy}");
    }

    #[actix_web::test]
    async fn pages_of_other_origins_may_have_the_client_and_nothing_else() {
        for file in FILES.iter() {
            let response = ask(test::TestRequest::get().uri(file.path)).await;
            let policy = header_of(&response, header::CROSS_ORIGIN_RESOURCE_POLICY);
            let allowed = response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            if file.path == "/client.js" {
                assert_eq!((policy, allowed.unwrap().to_str().unwrap()), ("cross-origin", "*"));
            } else {
                assert_eq!((policy, allowed), ("same-origin", None), "{}", file.path);
            }
        }
    }

    /// The notice of a library's licence, which the build puts at the end of a file, names where the library is from.
    fn without_notices(text: &str) -> String {
        let mut rest = text;
        let mut kept = String::new();
        while let Some((before, after)) = rest.split_once("/*!") {
            kept.push_str(before);
            rest = after.split_once("*/").expect("the notice ends").1;
        }
        kept + rest
    }

    #[actix_web::test]
    async fn the_pages_need_nothing_from_elsewhere_and_nothing_inline() {
        for file in FILES.iter() {
            let text =
                without_notices(std::str::from_utf8(file.bytes).unwrap()).replace("http://www.w3.org/2000/svg", "");
            let forbidden: &[&str] = match file.content_type {
                SCRIPT => {
                    &["://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
                }
                STYLE => &["://", "url(", "@import"],
                _ => &["://", "<script>", "<style", " style=\"", " onclick=", " onload=", "javascript:"],
            };
            for foreign in forbidden {
                assert!(!text.contains(foreign), "{} contains {foreign}", file.path);
            }
        }
    }

    #[actix_web::test]
    async fn what_a_page_names_is_there() {
        let paths: Vec<_> = FILES.iter().map(|file| file.path.trim_start_matches('/')).collect();
        for page in FILES.iter().filter(|file| file.content_type == HTML) {
            let text = std::str::from_utf8(page.bytes).unwrap();
            let named = text.split(['"', ' ']).filter(|word| word.starts_with("page/"));
            let mut count = 0;
            for name in named {
                assert!(paths.contains(&name), "{} names {name}", page.path);
                count += 1;
            }
            assert!(count >= 4, "{} has a script, a style and an icon", page.path);
        }
    }
}
