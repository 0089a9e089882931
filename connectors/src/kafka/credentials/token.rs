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
    tls::TlsConfig,
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
