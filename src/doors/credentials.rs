//! Who asks, and from where: API keys, addresses behind proxies, origins of browsers, and what development mode lets in.

use std::{
    future::{Ready, ready},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use actix_web::{
    FromRequest, HttpRequest, ResponseError,
    body::MessageBody,
    dev::{Payload, RequestHead, ServiceRequest, ServiceResponse},
    http::header::{self, HeaderMap},
    middleware::Next,
    web,
};

use super::{Doors, problem::Problem, settings};
use crate::{
    core::{Code, Error},
    domain::{
        name::ChannelName,
        principal::{Grant, Scope, Server},
    },
};

/// What a proxy writes about whom it stands for.
const FORWARDED: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip"];

/// An app server whose key holds, or anybody in development mode.
pub struct Caller(Server);

impl Caller {
    /// The name of the key, for logs.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Refuses unless `scope` covers `channel`.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn must_in(&self, scope: Scope, channel: &ChannelName) -> Result<(), Problem> {
        Ok(self.may_in(scope, channel)?)
    }

    /// The same, for one of several things that are asked for at once.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn may_in(&self, scope: Scope, channel: &ChannelName) -> Result<(), Error> {
        let detail = || format!("this key lacks the scope `{}` for `{channel}`", scope_name(scope));
        self.0.may(scope, Some(channel.as_str())).then_some(()).ok_or_else(|| Error::new(Code::Forbidden, detail()))
    }

    /// Refuses unless `scope` covers anything at all.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn must_somewhere(&self, scope: Scope) -> Result<(), Problem> {
        let detail = || format!("this key lacks the scope `{}`", scope_name(scope));
        let has_it = self.0.grants.iter().any(|grant| grant.scope == scope);
        has_it.then_some(()).ok_or_else(|| Problem::new(Code::Forbidden, detail()))
    }

    /// Refuses unless `scope` covers everything.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn must(&self, scope: Scope) -> Result<(), Problem> {
        let detail = || format!("this asks for the scope `{}`, not narrowed to channels", scope_name(scope));
        self.0.may(scope, None).then_some(()).ok_or_else(|| Problem::new(Code::Forbidden, detail()))
    }

    /// Anybody, in development mode.
    pub fn development() -> Server {
        let grants = [Scope::Read, Scope::Write, Scope::Admin].map(|scope| Grant { scope, channels: None });
        Server { name: "development".into(), grants: grants.into() }
    }

    fn of(req: &HttpRequest) -> Result<Self, Problem> {
        let doors = req.app_data::<web::Data<Doors>>().expect("every application has its doors");
        if doors.is_development {
            return Ok(Self(Self::development()));
        }
        let refused = |why| Problem::new(Code::Unauthorized, why);
        let key = bearer(req.head()).ok_or_else(|| refused("this wants an API key: `Authorization: Bearer <key>`"))?;
        doors.verifier.verify_key(key).map(Self).ok_or_else(|| refused("no such API key is known here"))
    }
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "read",
        Scope::Write => "write",
        Scope::Admin => "admin",
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(req))
    }
}

/// The credential in `Authorization: Bearer …`, if there is exactly one.
pub fn bearer(head: &RequestHead) -> Option<&str> {
    let (scheme, key) = only(head.headers(), "authorization")?.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

/// The value of a header that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name);
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

/// Whose request this is: the peer, or whom trusted proxies say that they stand for.
///
/// What proxies append stands to the right, so the walk goes from there and ends at the first hop that is not trusted: everything
/// further left may be made up.
pub fn client_address(req: &HttpRequest, server: &settings::Server) -> IpAddr {
    let peer = req.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    walk(peer, req.headers(), server)
}

fn walk(peer: IpAddr, headers: &HeaderMap, server: &settings::Server) -> IpAddr {
    let is_trusted = |address: IpAddr| server.trusted_proxies.iter().any(|network| network.contains(&address));
    let mut address = peer.to_canonical();
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").map(|line| line.to_str().unwrap_or_default()).collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        if !is_trusted(address) {
            break;
        }
        // A hop that cannot be read hides who is behind it: the proxy that wrote it answers for the request.
        let Some(next) = parse_hop(hop.trim()) else { break };
        address = next.to_canonical();
    }
    address
}

/// An address, with or without a port.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// Lets a browser on that may come from where it says, and notes the origin of one that may not.
///
/// # Errors
/// The refusal.
pub fn check_origin(head: &RequestHead, doors: &Doors) -> Result<(), Problem> {
    if origin_is_allowed(head, &doors.server, doors.is_development) {
        return Ok(());
    }
    let origin = head.headers().get(header::ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()));
    doors.audit.origin_refused(&origin.unwrap_or_default());
    Err(Problem::new(Code::Forbidden, "this origin is not among server.allowed_origins"))
}

/// Whether a browser may come from where it says. Without an `Origin` it is no browser, or one that asks its own host. In development
/// mode pages that this machine serves may come beside the others: whoever tries things out has them on some port of it.
fn origin_is_allowed(head: &RequestHead, server: &settings::Server, is_development: bool) -> bool {
    if !head.headers().contains_key(header::ORIGIN) {
        return true;
    }
    let Some(origin) = only(head.headers(), "origin") else { return false };
    if is_development && split_origin(origin).is_some_and(|(_, authority)| is_this_machine(authority)) {
        return true;
    }
    if !server.allowed_origins.is_empty() {
        return server.allowed_origins.iter().any(|allowed| same_origin(allowed, origin));
    }
    let Some((scheme, authority)) = split_origin(origin) else { return false };
    host(head).is_some_and(|host| same_authority(scheme, authority, host))
}

fn split_origin(origin: &str) -> Option<(&str, &str)> {
    let (scheme, authority) = origin.split_once("://")?;
    let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    (is_web && !authority.is_empty()).then_some((scheme, authority))
}

fn same_origin(a: &str, b: &str) -> bool {
    let (Some((scheme, a)), Some((other, b))) = (split_origin(a.trim_end_matches('/')), split_origin(b)) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(other) && same_authority(scheme, a, b)
}

fn same_authority(scheme: &str, a: &str, b: &str) -> bool {
    let default = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |authority: &'_ str| authority.strip_suffix(default).unwrap_or(authority).to_ascii_lowercase();
    bare(a) == bare(b)
}

/// The host that was asked: the authority of HTTP/2 or of an absolute address, else the header.
fn host(head: &RequestHead) -> Option<&str> {
    head.uri.authority().map(|authority| authority.as_str()).or_else(|| only(head.headers(), "host"))
}

/// Development mode lets everybody in, so only this machine may ask, by its own name and by nobody's order: a page elsewhere that has its
/// own name resolve to loopback, or a proxy that was put in front by mistake, is refused.
///
/// # Errors
/// What the rest of the application fails with.
pub async fn only_this_machine(
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let is_development = req.app_data::<web::Data<Doors>>().is_some_and(|doors| doors.is_development);
    if is_development && let Some(why) = foreign(req.head()) {
        let response = Problem::new(Code::Forbidden, why).error_response();
        return Ok(req.into_response(response).map_into_right_body());
    }
    Ok(next.call(req).await?.map_into_left_body())
}

fn foreign(head: &RequestHead) -> Option<&'static str> {
    if FORWARDED.iter().any(|name| head.headers().contains_key(*name)) {
        return Some("development mode stands behind no proxy: this request was forwarded");
    }
    let named = [head.uri.authority().map(|authority| authority.as_str()), only(head.headers(), "host")];
    let count = head.headers().get_all(header::HOST).count();
    let is_named = named.iter().any(Option::is_some) && count <= 1;
    if is_named && named.iter().flatten().all(|host| is_this_machine(host)) {
        None
    } else {
        Some("development mode answers only at localhost, 127.0.0.1 or [::1]")
    }
}

/// Whether this machine itself is meant by a host, with or without a port.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use serde_json::json;

    use super::*;

    fn server(more: serde_json::Value) -> settings::Server {
        let mut all = json!({"listen": "127.0.0.1:0", "allowed_origins": [], "trusted_proxies": [],
            "websocket": "direct", "max_connections": 1, "hello_timeout_ms": 1, "drain_ms": 1, "slow_close_ms": 1});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn request(headers: &[(&'static str, &str)]) -> HttpRequest {
        let mut request = TestRequest::default();
        for header in headers {
            request = request.append_header(*header);
        }
        request.peer_addr("10.0.0.1:5000".parse().unwrap()).to_http_request()
    }

    fn address(proxies: &[&str], forwarded: &[&str]) -> String {
        let headers: Vec<_> = forwarded.iter().map(|line| ("x-forwarded-for", *line)).collect();
        client_address(&request(&headers), &server(json!({"trusted_proxies": proxies}))).to_string()
    }

    #[test]
    fn a_clients_address_is_believed_only_from_trusted_proxies() {
        assert_eq!(address(&[], &["1.2.3.4"]), "10.0.0.1");
        assert_eq!(address(&["10.0.0.0/8"], &[]), "10.0.0.1");
        assert_eq!(address(&["10.0.0.0/8"], &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(address(&["10.0.0.0/8"], &["6.6.6.6, 1.2.3.4, 10.0.0.2"]), "1.2.3.4");
        assert_eq!(address(&["10.0.0.0/8"], &["6.6.6.6", "1.2.3.4:80", "10.0.0.2"]), "1.2.3.4");
        assert_eq!(address(&["10.0.0.0/8"], &["6.6.6.6, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(address(&["10.0.0.0/8"], &["10.0.0.3"]), "10.0.0.3");
        assert_eq!(address(&["10.0.0.1"], &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(address(&["10.0.0.1"], &["::ffff:1.2.3.4"]), "1.2.3.4");
    }

    fn origin(allowed: &[&str], headers: &[(&'static str, &str)]) -> bool {
        origin_is_allowed(request(headers).head(), &server(json!({"allowed_origins": allowed})), false)
    }

    #[test]
    fn a_browser_comes_from_the_host_that_it_asks_unless_others_are_named() {
        assert!(origin(&[], &[("host", "a.example")]));
        assert!(origin(&[], &[("host", "a.example"), ("origin", "https://a.example")]));
        assert!(origin(&[], &[("host", "A.example:443"), ("origin", "https://a.example")]));
        assert!(origin(&[], &[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")]));
        assert!(!origin(&[], &[("host", "a.example"), ("origin", "http://a.example:8080")]));
        assert!(!origin(&[], &[("host", "a.example"), ("origin", "https://b.example")]));
        assert!(!origin(&[], &[("host", "a.example"), ("origin", "https://a.example.b.example")]));
        assert!(!origin(&[], &[("host", "a.example"), ("origin", "null")]));
        assert!(!origin(&[], &[("host", "null"), ("origin", "file://null")]));
        assert!(!origin(&[], &[("origin", "https://a.example")]));
        let two = [("host", "a.example"), ("origin", "https://a.example"), ("origin", "https://b.example")];
        assert!(!origin(&[], &two));
        assert!(origin(&["https://b.example"], &[("host", "a.example"), ("origin", "https://b.example")]));
        assert!(!origin(&["https://b.example"], &[("host", "a.example"), ("origin", "http://b.example")]));
        assert!(!origin(&["https://b.example"], &[("host", "a.example"), ("origin", "https://a.example")]));
        assert!(origin(&["https://b.example"], &[("host", "a.example")]));
    }

    #[test]
    fn in_development_mode_pages_of_this_machine_come_from_every_port() {
        let may_come = |allowed: &[&str], origin: &str, is_development| {
            let server = server(json!({"allowed_origins": allowed}));
            let request = request(&[("host", "127.0.0.1:8080"), ("origin", origin)]);
            origin_is_allowed(request.head(), &server, is_development)
        };
        for origin in ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:3000", "https://localhost"] {
            assert!(may_come(&[], origin, true), "{origin}");
            assert!(may_come(&["https://a.example"], origin, true), "{origin}");
            assert!(!may_come(&[], origin, false), "{origin}");
        }
        for origin in [
            "https://a.example",
            "http://localhost.a.example",
            "http://127.0.0.1@a.example",
            "http://localhost:x",
            "null",
        ] {
            assert!(!may_come(&[], origin, true), "{origin}");
        }
        assert!(may_come(&["https://a.example"], "https://a.example", true));
    }

    #[test]
    fn development_mode_answers_this_machine_alone() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]", "[::1]:8080"] {
            assert_eq!(foreign(request(&[("host", host)]).head()), None, "{host}");
        }
        for host in ["a.example", "localhost.a.example", "127.0.0.2", "10.0.0.1:8080", "", "::1"] {
            assert!(foreign(request(&[("host", host)]).head()).is_some(), "{host}");
        }
        assert!(foreign(request(&[]).head()).is_some());
        assert!(foreign(request(&[("host", "localhost"), ("host", "a.example")]).head()).is_some());
        for name in FORWARDED {
            assert!(foreign(request(&[("host", "localhost"), (name, "1.2.3.4")]).head()).is_some(), "{name}");
        }
    }

    #[test]
    fn a_bearer_is_one_word_behind_one_header() {
        let found = |headers: &[(&'static str, &str)]| bearer(request(headers).head()).map(str::to_owned);
        assert_eq!(found(&[("authorization", "Bearer abc")]).as_deref(), Some("abc"));
        assert_eq!(found(&[("authorization", "bearer  abc ")]).as_deref(), Some("abc"));
        assert_eq!(found(&[("authorization", "Basic abc")]), None);
        assert_eq!(found(&[("authorization", "Bearer ")]), None);
        assert_eq!(found(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]), None);
        assert_eq!(found(&[]), None);
    }
}
