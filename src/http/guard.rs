//! Who is answered: requests to one of our own names, and with the token where there is one. The headers
//! that every answer carries.
//!
//! A page in somebody's browser can have a name of its own point at our address (DNS rebinding) and then
//! read what we answer as its own; but its requests bear that name in `Host`. A literal address cannot be
//! made to point elsewhere, so that these are always ours.

use crate::{
    config::model::{Http, Secret},
    visible::excerpt,
};
use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, WWW_AUTHENTICATE,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use openssl::sha::sha256;
use std::{net::IpAddr, sync::Arc};

/// What every answer carries; the page sets a policy of its own.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub struct Rules {
    hosts: Vec<String>,
    token: Option<Secret>,
}

/// Whether a request brought the token, or none is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trusted(pub bool);

impl Rules {
    pub fn new(http: &Http) -> Rules {
        let listen = http.listen.as_deref().unwrap_or_default();
        let own = ["localhost", host_of(listen).unwrap_or_default()];
        let names = own.into_iter().chain(http.allowed_hosts.iter().map(String::as_str));
        let names = names.filter(|name| !name.is_empty());
        Rules { hosts: names.map(str::to_ascii_lowercase).collect(), token: http.token.clone() }
    }

    /// Whether requests for this host, with or without a port, are for us.
    fn is_ours(&self, host: &str) -> bool {
        let Some(name) = host_of(host) else { return false };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok() || self.hosts.contains(&name)
    }

    fn check_host(&self, request: &Request) -> Result<(), Refusal> {
        let mut given = request.headers().get_all(HOST).iter();
        let (Some(host), None) = (given.next(), given.next()) else { return Err(Refusal::NoHost) };
        let is_ours = |host: &[u8]| std::str::from_utf8(host).is_ok_and(|host| self.is_ours(host));
        // A request may name its host in the target too.
        let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        match [Some(host.as_bytes()), target].into_iter().flatten().find(|host| !is_ours(host)) {
            Some(host) => Err(Refusal::ForeignHost(excerpt(host, 100))),
            None => Ok(()),
        }
    }

    /// Takes as long whatever the difference.
    fn is_trusted(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, given) = given.split_at_checked("Bearer ".len()).unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"Bearer ")
            && openssl::memcmp::eq(&sha256(given.trim_ascii()), &sha256(token.reveal().as_bytes()))
    }
}

/// The host of `host:port`, of an IPv6 address without its brackets.
fn host_of(authority: &str) -> Option<&str> {
    match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (port.is_empty() || is_port(port)).then_some(address)
        }
        None => match authority.split_once(':') {
            None => Some(authority),
            Some((host, _)) => is_port(&authority[host.len()..]).then_some(host),
        },
    }
}

/// `:` and digits.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

enum Refusal {
    NoHost,
    ForeignHost(String),
    NoToken,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::NoHost => (StatusCode::BAD_REQUEST, "a request has one Host header\n").into_response(),
            Refusal::ForeignHost(host) => {
                let words = format!(
                    "this is not the host {host}: add the name to http.allowed_hosts if people and programs shall \
                     reach headwater by it\n"
                );
                (StatusCode::MISDIRECTED_REQUEST, words).into_response()
            }
            Refusal::NoToken => {
                let challenge = [(WWW_AUTHENTICATE, "Bearer realm=\"headwater\"")];
                let words = "http.token is asked for: send it as `Authorization: Bearer TOKEN`\n";
                (StatusCode::UNAUTHORIZED, challenge, words).into_response()
            }
        }
    }
}

/// Middleware around everything.
pub async fn guard(State(rules): State<Arc<Rules>>, mut request: Request, next: Next) -> Response {
    let is_trusted = rules.is_trusted(request.headers());
    // What starts and stops the process asks these, and has no token; without it they say no more than a code.
    let is_probe = matches!(request.uri().path(), "/live" | "/ready");
    let mut response = match rules.check_host(&request) {
        Err(refusal) => refusal.into_response(),
        Ok(()) if !is_trusted && !is_probe => Refusal::NoToken.into_response(),
        Ok(()) => {
            request.extensions_mut().insert(Trusted(is_trusted));
            next.run(request).await
        }
    };
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(listen: &str, allowed: &[&str], token: Option<&str>) -> Rules {
        Rules::new(&Http {
            listen: Some(listen.to_owned()),
            allowed_hosts: allowed.iter().map(|name| (*name).to_owned()).collect(),
            token: token.map(Secret::new),
            show_payloads: true,
        })
    }

    #[test]
    fn only_our_names_are_ours() {
        let rules = rules("ops.example.org:9464", &["Headwater"], None);
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "localhost.",
            "127.0.0.1:9464",
            "10.2.3.4",
            "[::1]:9464",
            "[::1]",
            "ops.example.org",
            "headwater:80",
            "HEADWATER",
            "localhost:",
        ] {
            assert!(rules.is_ours(host), "{host}");
        }
        for host in [
            "",
            "evil.example.org",
            "localhost.evil.org",
            "evil.org:localhost",
            "localhost:1@evil.org",
            "127.0.0.1.nip.io",
            "127.1",
            "0x7f000001",
            "[::1",
            "[::1].evil.org",
            "xlocalhost",
            "localhost:80:80",
            "::1",
        ] {
            assert!(!rules.is_ours(host), "{host}");
        }
    }

    #[test]
    fn an_empty_name_is_nobodys() {
        assert!(!rules("127.0.0.1:0", &[], None).is_ours(""));
        assert!(
            !Rules::new(&Http { listen: None, allowed_hosts: vec![], token: None, show_payloads: true }).is_ours("")
        );
    }

    #[test]
    fn only_the_whole_token_opens() {
        let rules = rules("127.0.0.1:0", &[], Some("s3cret"));
        let is_trusted = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            rules.is_trusted(&headers)
        };
        assert!(is_trusted("Bearer s3cret") && is_trusted("bearer  s3cret"));
        for wrong in
            ["", "Bearer", "Bearer ", "s3cret", "Basic s3cret", "Bearer s3cre", "Bearer s3cret2", "Bearer S3CRET"]
        {
            assert!(!is_trusted(wrong), "{wrong:?}");
        }
        assert!(!rules.is_trusted(&HeaderMap::new()));
    }
}
