//! A token of an OAuth server, by the client credentials grant (RFC 6749, section 4.4).
//!
//! What is secret is in no error: neither what is sent, nor what is answered but for the error's own code.

use std::{
    ffi::CString,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use headwater::http::{Http as _, Request, Response};
use reqwest::Url;
use serde_json::Value;

use crate::{
    http::{
        HttpClient, HttpConfig,
        base64::{base64, from_base64url},
    },
    kafka::{config::client_settings::LoginSettings, error::KafkaError, librdkafka::live_clients::BearerToken},
    security::tls::TlsConfig,
    units::SecretSource,
};

/// How long a token is of use that does not say it.
const LIFETIME: Duration = Duration::from_secs(300);
/// Letters of an error's code that are shown at most.
const CODE: usize = 60;

/// A token and how long it is of use.
pub(super) struct Token {
    pub(super) bearer: BearerToken,
    pub(super) lifetime: Duration,
}

/// Asks for a token, with the secret that the file holds now.
///
/// # Errors
/// [`KafkaError::Credentials`] when the server does not give it; [`KafkaError::Outage`] when it does not answer, or the secret cannot be
/// read.
pub(super) async fn fetch(settings: &LoginSettings) -> Result<Token, KafkaError> {
    let sasl = &settings.sasl;
    let outage = |why: &str| KafkaError::Outage(format!("kafka login: {why}"));
    let (Some(url), Some(id), Some(file)) = (&sasl.token_url, &sasl.client_id, &sasl.client_secret_file) else {
        return Err(KafkaError::Config(
            "kafka.sasl: OAUTHBEARER wants token_url, client_id and client_secret_file".to_owned(),
        ));
    };
    let secret = SecretSource::File(file.clone()).read().map_err(|why| outage(&why))?;
    // Made anew each time: its authority's certificate may be another one by now.
    let tls = TlsConfig { ca: settings.ca.clone(), ..TlsConfig::default() };
    let client = HttpClient::new(&HttpConfig { tls, ..HttpConfig::default() }).map_err(|error| outage(&error.0))?;
    let scope = sasl.scope.iter().map(|scope| format!("&scope={}", encoded(scope)));
    let request = Request {
        method: "POST",
        url: url.clone(),
        headers: vec![
            ("authorization", basic(id, secret.expose())),
            ("content-type", "application/x-www-form-urlencoded".to_owned()),
            ("accept", "application/json".to_owned()),
        ],
        body: ["grant_type=client_credentials".to_owned()].into_iter().chain(scope).collect::<String>().into_bytes(),
    };
    let server = format!("token server {}", shown(url));
    let answer = client.send(request).await.map_err(|error| outage(&format!("{server}: {}", error.0)))?;
    read(settings, &answer, SystemTime::now()).map_err(|fault| match fault {
        Fault::Refused(why) => KafkaError::Credentials(format!("kafka login: {server}: {why}")),
        Fault::Passing(why) => outage(&format!("{server}: {why}")),
    })
}

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// Another try changes nothing.
    Refused(String),
    /// It may pass.
    Passing(String),
}

fn read(settings: &LoginSettings, answer: &Response, now: SystemTime) -> Result<Token, Fault> {
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status != 200 {
        return Err(refusal(settings, answer.status, json["error"].as_str().unwrap_or_default()));
    }
    let unusable = || Fault::Refused("it answers without a token: check kafka.sasl.token_url".to_owned());
    let value = json["access_token"].as_str().filter(|text| is_token(text)).ok_or_else(unusable)?;
    let claims = claims(value).unwrap_or_default();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let told = seconds(&json["expires_in"]).map(|lifetime| now + lifetime);
    let expires = told.into_iter().chain(seconds(&claims["exp"])).min().unwrap_or(now + LIFETIME);
    let lifetime = expires.saturating_sub(now);
    if lifetime.is_zero() {
        return Err(Fault::Passing("its token has expired already: look at the clocks".to_owned()));
    }
    let principal = claims["sub"].as_str().or(settings.sasl.client_id.as_deref()).unwrap_or_default();
    let text = |text: &str| CString::new(text).map_err(|_| unusable());
    let extensions = settings.sasl.extensions.iter().flat_map(|(name, value)| [name, value]);
    let bearer = BearerToken {
        value: text(value)?,
        expires: i64::try_from(expires.as_millis()).unwrap_or(i64::MAX / 1_000),
        principal: text(principal)?,
        extensions: extensions.map(|part| text(part)).collect::<Result<_, _>>()?,
    };
    Ok(Token { bearer, lifetime })
}

fn refusal(settings: &LoginSettings, status: u16, code: &str) -> Fault {
    let (sasl, scope) = (&settings.sasl, settings.sasl.scope.as_deref().unwrap_or_default());
    let code: String = code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(CODE).collect();
    match (status, code.as_str()) {
        (408 | 429 | 500.., _) => Fault::Passing(format!("it answers {status}")),
        (401, _) | (_, "invalid_client" | "unauthorized_client") => Fault::Refused(format!(
            "it does not accept client \"{}\": check kafka.sasl.client_id and client_secret_file",
            sasl.client_id.as_deref().unwrap_or_default()
        )),
        (_, "invalid_scope") => Fault::Refused(format!("it does not give scope \"{scope}\": check kafka.sasl.scope")),
        (_, "") => Fault::Refused(format!("it answers {status}: check kafka.sasl.token_url")),
        (_, code) => Fault::Refused(format!("it answers {status}, {code}: check kafka.sasl.token_url and scope")),
    }
}

/// Whether a client can show it: printable characters alone.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A number of seconds, which some servers write as a text.
fn seconds(value: &Value) -> Option<Duration> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    Duration::try_from_secs_f64(number).ok()
}

/// What a JWT says of itself; `None` for a token of another kind. Brokers check it, nobody here does.
fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    serde_json::from_slice(&from_base64url(claims)?).ok()
}

/// RFC 6749, section 2.3.1.
fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", base64(format!("{}:{}", encoded(id), encoded(secret)).as_bytes()))
}

/// As `application/x-www-form-urlencoded`.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        b' ' => "+".to_owned(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// An address without what may be secret in it.
fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return "of kafka.sasl.token_url".to_owned() };
    url.set_query(None);
    url.set_fragment(None);
    // They fail for an address that has none.
    let _ = (url.set_username(""), url.set_password(None));
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{http::base64::base64, kafka::config::security::KafkaSasl};

    fn settings() -> LoginSettings {
        let sasl = KafkaSasl {
            client_id: Some("app".to_owned()),
            scope: Some("kafka".to_owned()),
            extensions: [("a".to_owned(), "b".to_owned())].into(),
            ..KafkaSasl::default()
        };
        LoginSettings { sasl, ca: None }
    }

    fn answered(status: u16, body: &str) -> Result<Token, Fault> {
        let answer = Response { status, retry_after: None, body: body.as_bytes().to_vec() };
        read(&settings(), &answer, UNIX_EPOCH + Duration::from_secs(1_000))
    }

    /// A token that says this of itself.
    fn jwt(claims: &str) -> String {
        let claims = base64(claims.as_bytes()).replace('+', "-").replace('/', "_");
        format!("e30.{}.c2ln", claims.trim_end_matches('='))
    }

    /// Red when a token is used beyond the earlier of the two times that are said of it, for ever where none is, or for another
    /// principal than it names.
    #[test]
    fn a_token_is_used_as_long_as_it_is_valid() {
        let of = |token: &str, more: &str| {
            let token = answered(200, &format!(r#"{{"access_token":"{token}"{more}}}"#)).ok().unwrap();
            let principal = token.bearer.principal.to_str().unwrap().to_owned();
            (token.lifetime.as_secs(), token.bearer.expires, principal)
        };
        let app = || "app".to_owned();
        assert_eq!(of("opaque", r#","expires_in":60"#), (60, 1_060_000, app()));
        assert_eq!(of("opaque", r#","expires_in":"60""#), (60, 1_060_000, app()));
        assert_eq!(of("opaque", ""), (300, 1_300_000, app()));
        let svc = jwt(r#"{"sub":"svc","exp":1030}"#);
        assert_eq!(of(&svc, r#","expires_in":60"#), (30, 1_030_000, "svc".to_owned()));
        assert_eq!(of(&svc, ""), (30, 1_030_000, "svc".to_owned()));
        assert_eq!(of(&jwt(r#"{"exp":2000}"#), r#","expires_in":60"#), (60, 1_060_000, app()));
    }

    /// Red when what is refused is asked again in vain as an outage, an outage counts as refused, what to change is not named, or a
    /// token or what else is answered is quoted.
    #[test]
    fn what_is_wrong_with_an_answer_is_named() {
        let said = |status, body: &str| match answered(status, body) {
            Ok(_) => panic!("{status} {body} is a token"),
            Err(Fault::Refused(why)) => format!("refused: {why}"),
            Err(Fault::Passing(why)) => format!("passing: {why}"),
        };
        for (status, body, part) in [
            (401, "", r#"refused: it does not accept client "app": check kafka.sasl.client_id and client_secret_file"#),
            (400, r#"{"error":"invalid_client"}"#, r#"refused: it does not accept client "app""#),
            (400, r#"{"error":"invalid_scope"}"#, r#"refused: it does not give scope "kafka": check kafka.sasl.scope"#),
            (404, "<p>hunter2</p>", "refused: it answers 404: check kafka.sasl.token_url"),
            (400, r#"{"error":"odd one\n","error_description":"hunter2"}"#, "refused: it answers 400, oddone: check"),
            (503, "", "passing: it answers 503"),
            (429, r#"{"error":"invalid_client"}"#, "passing: it answers 429"),
            (200, "hunter2", "refused: it answers without a token: check kafka.sasl.token_url"),
            (200, r#"{"access_token":"hunter2\n"}"#, "refused: it answers without a token"),
        ] {
            let said = said(status, body);
            assert!(said.contains(part) && !said.contains("hunter2"), "{said}");
        }
        let expired = format!(r#"{{"access_token":"{}"}}"#, jwt(r#"{"exp":999}"#));
        assert!(said(200, &expired).starts_with("passing: its token has expired already"), "{}", said(200, &expired));
    }

    /// Red when an address is shown with a password or a query.
    #[test]
    fn an_address_is_shown_without_secrets() {
        assert_eq!(shown("https://u:hunter2@login.example/token?key=hunter2#hunter2"), "https://login.example/token");
    }
}
