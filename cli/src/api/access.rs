//! Access to the API: bearer tokens, the `Host` and `Origin` of a request, and the rate of requests.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::certificate::ApiCertificate;
use super::metrics::RequestCounters;
use super::plain;
use super::problem::Problem;
use super::unauthenticated::Unauthenticated;
use crate::address::split_host;
use crate::lock::lock;

/// Maximum number of requests a second with one token, on average. A page sends a few a second, so a hundred pages
/// stay below it.
const RATE: f64 = 500.0;

/// Maximum number of requests a second without a token, on average. 100: health checks come every few seconds, and
/// refusing a hundred requests costs little.
const NO_TOKEN_RATE: f64 = 100.0;

/// The requests of so many seconds may come at once.
const BURST: f64 = 2.0;

/// A secret that a client shows with each request.
pub(crate) struct Token {
    text: String,
    hash: blake3::Hash,
}

/// The rules of access to one API.
pub(crate) struct ApiAccess {
    /// The address that the API listens on.
    at: SocketAddr,
    /// `None` if the API is not served over HTTPS.
    certificate: Option<Arc<ApiCertificate>>,
    /// The token for all requests.
    pub(crate) token: Token,
    /// The token for requests that only read.
    pub(crate) read_token: Token,
    /// Counts all requests, refused ones included.
    pub(crate) requests: Arc<RequestCounters>,
    allowances: Allowances,
}

/// The requests that each kind of caller may make. So no kind uses up the requests of another.
struct Allowances {
    token: Mutex<Allowance>,
    read_token: Mutex<Allowance>,
    /// For requests without a token, or with a wrong one.
    no_token: Mutex<Allowance>,
}

/// A token bucket of requests.
struct Allowance {
    /// Number of requests a second.
    rate: f64,
    requests: f64,
    at: Instant,
}

impl Token {
    /// Makes a token of 256 random bits.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        let text = blake3::Hash::from_bytes(bytes).to_hex().to_string();
        let hash = blake3::hash(text.as_bytes());
        Ok(Self { text, hash })
    }

    /// Returns the text of the token.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns whether this is the hash of the token. `blake3::Hash` compares in constant time.
    fn has_hash(&self, given: blake3::Hash) -> bool {
        self.hash == given
    }
}

impl Allowance {
    fn full(rate: f64, now: Instant) -> Mutex<Self> {
        Mutex::new(Self { rate, requests: rate * BURST, at: now })
    }
}

impl ApiAccess {
    pub(crate) fn new(
        at: SocketAddr,
        certificate: Option<Arc<ApiCertificate>>,
    ) -> Result<Self, getrandom::Error> {
        let now = Instant::now();
        Ok(Self {
            at,
            certificate,
            token: Token::random()?,
            read_token: Token::random()?,
            requests: Arc::default(),
            allowances: Allowances {
                token: Allowance::full(RATE, now),
                read_token: Allowance::full(RATE, now),
                no_token: Allowance::full(NO_TOKEN_RATE, now),
            },
        })
    }

    /// Checks one request.
    fn check(&self, request: &Request, now: Instant) -> Result<(), Problem> {
        let headers = request.headers();
        self.check_host(headers, request.uri().host())?;
        let given = one(headers, &AUTHORIZATION)?.and_then(bearer);
        let given = given.map(|token| blake3::hash(token.as_bytes()));
        let may_do_all = given.is_some_and(|given| self.token.has_hash(given));
        let may_read = may_do_all || given.is_some_and(|given| self.read_token.has_hash(given));
        if may_read && let Some(connection) = request.extensions().get::<Unauthenticated>() {
            connection.show_token();
        }
        let allowance = if may_do_all {
            &self.allowances.token
        } else if may_read {
            &self.allowances.read_token
        } else {
            &self.allowances.no_token
        };
        take_one(allowance, now)?;
        if may_do_all || !plain::needs_token(request.uri().path()) {
            return Ok(());
        }
        match (given, request.method()) {
            (Some(_), &Method::GET | &Method::HEAD) if may_read => Ok(()),
            (Some(_), _) if may_read => {
                Err(Problem::new(StatusCode::FORBIDDEN, "this token may only read"))
            }
            (Some(_), _) => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "this is not the token of this node: each start makes a new one",
            )),
            (None, _) => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "a bearer token is needed: api.json in the state folder of the node has it",
            )),
        }
    }

    /// Refuses requests that a page of another site makes a browser send. A page whose name was made to
    /// resolve to this machine (DNS rebinding) sends its own name as `Host`.
    fn check_host(&self, headers: &HeaderMap, in_target: Option<&str>) -> Result<(), Problem> {
        let host = one(headers, &HOST)?.or(in_target).unwrap_or_default();
        if !self.is_listened_on(host) && !self.is_certified(host) {
            let names =
                if self.certificate.is_some() { " or a name of the certificate" } else { "" };
            let detail = format!("`Host` has to be {}{names}, and is something else", self.at);
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        let origin = one(headers, &ORIGIN)?;
        let scheme = if self.certificate.is_some() { "https://" } else { "http://" };
        let is_own = |origin: &str| {
            origin
                .strip_prefix(scheme)
                .is_some_and(|from| self.is_listened_on(from) || from.eq_ignore_ascii_case(host))
        };
        if origin.is_some_and(|origin| !is_own(origin)) {
            let detail = "requests of pages of another origin are refused";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        Ok(())
    }

    /// Returns whether a `Host` is the address that the API listens on, or `localhost`. If the API listens on all
    /// addresses, it is any loopback address.
    fn is_listened_on(&self, host: &str) -> bool {
        let Some((name, port)) = split_host(host) else { return false };
        let default_port = if self.certificate.is_some() { 443 } else { 80 };
        if port.unwrap_or(default_port) != self.at.port() {
            return false;
        }
        match name.parse::<IpAddr>() {
            Ok(ip) if self.at.ip().is_unspecified() => ip.is_loopback(),
            Ok(ip) => ip == self.at.ip(),
            Err(_) => name.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Returns whether the certificate is for a `Host`. Its port may be another one, as a router may forward that
    /// port. DNS rebinding is not possible: the browser would refuse the certificate.
    fn is_certified(&self, host: &str) -> bool {
        let Some(certificate) = &self.certificate else { return false };
        split_host(host).is_some_and(|(name, _)| certificate.is_for(name))
    }
}

/// Takes one request from an allowance.
fn take_one(allowance: &Mutex<Allowance>, now: Instant) -> Result<(), Problem> {
    let mut allowance = lock(allowance);
    let rate = allowance.rate;
    let earned = now.saturating_duration_since(allowance.at).as_secs_f64() * rate;
    allowance.requests = (allowance.requests + earned).min(rate * BURST);
    allowance.at = now;
    if allowance.requests < 1.0 {
        let detail = format!("more than {rate} requests a second: wait a moment");
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
    }
    allowance.requests -= 1.0;
    Ok(())
}

/// Checks a request before it is routed.
pub(crate) async fn checked(
    State(access): State<Arc<ApiAccess>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match access.check(&request, Instant::now()) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            let status = problem.status;
            let mut response = problem.into_response();
            let header = match StatusCode::from_u16(status) {
                Ok(StatusCode::UNAUTHORIZED) => Some((WWW_AUTHENTICATE, "Bearer")),
                Ok(StatusCode::TOO_MANY_REQUESTS) => Some((RETRY_AFTER, "1")),
                _ => None,
            };
            if let Some((name, value)) = header {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            response
        }
    };
    access.requests.add(response.status());
    // A browser must neither guess another type, nor cache a response that needed a token.
    for (name, value) in [("x-content-type-options", "nosniff"), ("cache-control", "no-store")] {
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Returns the value of a header that may come only once. If there were two, a proxy and the node might read
/// different ones.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        let detail = format!("there is more than one `{name}`");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    // A value that is not text can't be a right one.
    Ok(first.map(|value| value.to_str().unwrap_or_default()))
}

/// Returns the token of an `Authorization` header (RFC 6750).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use std::time::Duration;

    fn access() -> ApiAccess {
        ApiAccess::new("127.0.0.1:7000".parse().unwrap(), None).unwrap()
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn status(access: &ApiAccess, request: &Request) -> u16 {
        access.check(request, Instant::now()).map_or_else(|problem| problem.status, |()| 200)
    }

    #[test]
    fn a_token_opens_what_it_is_for() {
        let access = access();
        let with = |method, path, token: &str| {
            let token = format!("Bearer {token}");
            let headers = [("host", "127.0.0.1:7000"), ("authorization", token.as_str())];
            status(&access, &request(method, path, &headers))
        };
        let (full, read) = (access.token.text(), access.read_token.text());
        assert_eq!(full.len(), 64);
        assert_eq!(with("POST", "/api/v1/peers", full), 200);
        assert_eq!(with("GET", "/api/v1/peers", read), 200);
        assert_eq!(with("POST", "/api/v1/peers", read), 403);
        assert_eq!(with("GET", "/api/v1/peers", &full[1..]), 401);
        assert_eq!(with("GET", "/metrics", ""), 401);
        let bare = request("GET", "/healthz", &[("host", "localhost:7000")]);
        assert_eq!(status(&access, &bare), 200);
        let bare = request("GET", "/api/v1/peers", &[("host", "localhost:7000")]);
        assert_eq!(status(&access, &bare), 401);
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let access = access();
        let token = format!("bearer {}", access.token.text());
        let from = |headers: &[(&str, &str)]| {
            let headers = [&[("authorization", token.as_str())], headers].concat();
            status(&access, &request("POST", "/api/v1/peers", &headers))
        };
        assert_eq!(from(&[("host", "rebound.example:7000")]), 421);
        assert_eq!(from(&[("host", "127.0.0.1:7001")]), 421);
        assert_eq!(from(&[]), 421);
        assert_eq!(from(&[("host", "127.0.0.1:7000"), ("host", "other")]), 400);
        let own = ("host", "127.0.0.1:7000");
        assert_eq!(from(&[own, ("origin", "http://127.0.0.1:7000")]), 200);
        assert_eq!(from(&[own, ("origin", "http://localhost:7000")]), 200);
        assert_eq!(from(&[own, ("origin", "https://example.org")]), 403);
        assert_eq!(from(&[own, ("origin", "null")]), 403);
    }

    #[test]
    fn an_api_on_all_addresses_is_also_a_local_one() {
        let on = |at: &str| ApiAccess::new(at.parse().unwrap(), None).unwrap();
        let everywhere = on("0.0.0.0:7000");
        for own in ["127.0.0.1:7000", "[::1]:7000", "LOCALHOST:7000"] {
            assert!(everywhere.is_listened_on(own), "{own}");
        }
        for other in ["192.0.2.1:7000", "127.0.0.1", "127.0.0.1:x", "", "[::1:7000", "[::1]7000"] {
            assert!(!everywhere.is_listened_on(other), "{other}");
        }
        let usual = on("127.0.0.1:80");
        assert!(usual.is_listened_on("127.0.0.1") && usual.is_listened_on("localhost:80"));
        assert!(!usual.is_listened_on("[::1]"));
    }

    #[test]
    fn each_kind_of_caller_has_requests_of_its_own() {
        let access = access();
        let (token, read_token) = (access.token.text(), access.read_token.text());
        let start = Instant::now();
        let passed = |token: &str, now: Instant| {
            let token = format!("Bearer {token}");
            let headers = [("host", "localhost:7000"), ("authorization", token.as_str())];
            let healthy = request("GET", "/healthz", &headers);
            (0..1500).filter(|_| access.check(&healthy, now).is_ok()).count()
        };
        for (token, burst, later) in [("wrong", 200, 10), (read_token, 1000, 50), (token, 1000, 50)]
        {
            assert_eq!(passed(token, start), burst);
            assert_eq!(passed(token, start + Duration::from_millis(100)), later);
        }
    }
}
