//! Who may ask: what every route but the probes stands behind, those that come later, too.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{
        HeaderMap, Method, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::connection::Peer;
use crate::{
    auth::{Reloaded, Tokens},
    config::ServerConfig,
};

/// What nobody has to show anything for.
pub(super) const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];
/// In whose name a question is asked, where a delegate asks it.
const USER_ID: &str = "x-user-id";

/// Who may ask.
#[derive(Clone)]
pub(crate) struct Access {
    tokens: Option<Arc<Reloaded<Tokens>>>,
    /// Whether clients' certificates are looked at.
    certificates: bool,
    delegates: Arc<[String]>,
}

/// Who asks: nobody by name where everybody may.
#[derive(Clone, Debug, Default)]
struct Caller {
    /// The name of its token and the one of its certificate.
    names: Vec<String>,
    is_delegate: bool,
}

/// The user whom a delegate asks for; none where it asks for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserId(pub(crate) Option<String>);

/// Why somebody may not ask, for people.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
}

impl Access {
    pub(crate) fn new(config: &ServerConfig, tokens: Option<Arc<Reloaded<Tokens>>>) -> Self {
        let certificates = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        Self { tokens, certificates, delegates: config.delegates.clone().into() }
    }

    /// Whether everybody may ask.
    pub(super) fn is_open(&self) -> bool {
        self.tokens.is_none() && !self.certificates
    }

    /// Whether a token is one way in.
    pub(super) fn takes_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    fn caller(&self, peer: &Peer, method: &Method, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if self.is_open() {
            let reads = method.is_safe();
            return if reads || is_loopback(peer.addr.ip()) { Ok(Caller::default()) } else { Err(Refusal::writes()) };
        }
        let tokens = self.tokens.as_ref().map(|tokens| tokens.current());
        let shown = bearer(headers);
        let holder = tokens.as_ref().zip(shown).and_then(|(tokens, shown)| tokens.holder(shown).map(str::to_owned));
        if holder.is_none() && peer.certificate.is_none() {
            return Err(self.nobody(shown.is_some()));
        }
        let certificate = peer.certificate.as_deref().filter(|name| !name.is_empty()).map(str::to_owned);
        let names: Vec<String> = holder.into_iter().chain(certificate).collect();
        let is_delegate = names.iter().any(|name| self.delegates.contains(name));
        Ok(Caller { names, is_delegate })
    }

    fn nobody(&self, has_token: bool) -> Refusal {
        let token = "send `Authorization: Bearer TOKEN` with a token of http.token_file";
        let certificate = "show a client certificate that an authority in http.tls.client_ca has signed";
        let wanted = match (self.takes_tokens(), self.certificates) {
            (true, true) => format!("{token}, or {certificate}"),
            (true, false) => token.to_owned(),
            (false, _) => certificate.to_owned(),
        };
        let wrong = if has_token && self.takes_tokens() { "this token is not known here: " } else { "" };
        Refusal { status: StatusCode::UNAUTHORIZED, text: format!("{wrong}{wanted}") }
    }
}

impl Refusal {
    fn writes() -> Self {
        let text = "what changes something is asked from this host alone, as long as nobody has to show who they are: set \
                    http.token_file or http.tls.client_ca";
        Self { status: StatusCode::FORBIDDEN, text: text.to_owned() }
    }

    fn delegation(text: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, text: text.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": self.text}));
        if self.status == StatusCode::UNAUTHORIZED {
            return (self.status, [(WWW_AUTHENTICATE, "Bearer")], body).into_response();
        }
        (self.status, body).into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for UserId {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let mut said = parts.headers.get_all(USER_ID).iter();
        let Some(user) = said.next() else { return Ok(Self(None)) };
        let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_default();
        if !caller.is_delegate {
            let who = if caller.names.is_empty() { "nobody".to_owned() } else { caller.names.join(" or ") };
            return Err(Refusal::delegation(format!(
                "X-User-Id is believed of delegates alone: http.delegates does not name {who}"
            )));
        }
        match (user.to_str().map(str::trim), said.next()) {
            (Ok(user), None) if !user.is_empty() => Ok(Self(Some(user.to_owned()))),
            _ => Err(Refusal::delegation("X-User-Id must name one user, in ASCII")),
        }
    }
}

/// Lets through who may ask, and says who that is to what is behind.
pub(super) async fn admit(
    State(access): State<Access>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    if PROBES.contains(&request.uri().path()) {
        return Ok(next.run(request).await);
    }
    let (mut parts, body) = request.into_parts();
    let caller = access.caller(&peer, &parts.method, &parts.headers)?;
    parts.extensions.insert(caller.clone());
    let UserId(user) = UserId::from_request_parts(&mut parts, &()).await?;
    tracing::debug!(peer = %peer.addr, caller = ?caller.names, user, path = parts.uri.path(), "asked over HTTP");
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// The token in `Authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(certificates: bool) -> Access {
        Access { tokens: None, certificates, delegates: Arc::new(["till-7".to_owned()]) }
    }

    fn status(access: &Access, addr: &str, certificate: Option<&str>, method: Method) -> u16 {
        let peer = Peer { addr: addr.parse().unwrap(), certificate: certificate.map(Into::into) };
        access.caller(&peer, &method, &HeaderMap::new()).map_or_else(|refusal| refusal.status.as_u16(), |_| 200)
    }

    /// Red when somebody on another host changes something while nobody has to show who they are, or reads nothing any more.
    #[test]
    fn where_everybody_may_read_this_host_alone_writes() {
        let open = access(false);
        for here in ["127.0.0.1:7", "[::1]:7", "[::ffff:127.0.0.1]:7"] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                assert_eq!(status(&open, here, None, method), 200, "{here}");
            }
        }
        for there in ["10.0.0.7:7", "[2001:db8::7]:7"] {
            assert_eq!(status(&open, there, None, Method::GET), 200, "{there}");
            assert_eq!(status(&open, there, None, Method::HEAD), 200, "{there}");
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                assert_eq!(status(&open, there, None, method), 403, "{there}");
            }
        }
    }

    /// Red when an authority for clients leaves the door open, being on this host is enough, or the certificate's name is no
    /// delegate's.
    #[test]
    fn a_certificate_is_a_way_in() {
        let guarded = access(true);
        assert_eq!(status(&guarded, "127.0.0.1:7", None, Method::GET), 401);
        assert_eq!(status(&guarded, "10.0.0.7:7", Some(""), Method::POST), 200);
        let peer = |name: &str| Peer { addr: ([10, 0, 0, 7], 7).into(), certificate: Some(name.into()) };
        let is_delegate = |name| guarded.caller(&peer(name), &Method::GET, &HeaderMap::new()).unwrap().is_delegate;
        assert!(is_delegate("till-7") && !is_delegate("till-8") && !is_delegate(""));
    }
}
