//! Tokens of an OAuth server: JSON Web Tokens that it signs, and the keys by which others check them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{KeyPair, SigningKey as _};
use serde_json::json;

/// Who gives the tokens out.
pub const ISSUER: &str = "https://issuer.example";
/// Whom they are for.
pub const AUDIENCE: &str = "kafka";
const KEY_ID: &str = "tests";

/// What signs tokens, by ES256.
pub struct TokenSigner(KeyPair);

impl TokenSigner {
    /// With a new key.
    ///
    /// # Panics
    /// When none can be made.
    #[allow(clippy::new_without_default, reason = "a key is made, which is no default")]
    pub fn new() -> Self {
        Self(KeyPair::generate().expect("a key"))
    }

    /// The public key, as a JSON Web Key Set.
    pub fn keys(&self) -> String {
        // A point, not compressed: 4, then both halves.
        let (x, y) = self.0.public_key_raw()[1..].split_at(32);
        let (x, y) = (base64url(x), base64url(y));
        let key = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID, "x": x, "y": y});
        json!({"keys": [key]}).to_string()
    }

    /// A token for this user that is valid so long from now on.
    ///
    /// # Panics
    /// When the clock stands before 1970.
    pub fn token(&self, user: &str, lifetime: Duration) -> String {
        self.token_for(user, AUDIENCE, lifetime)
    }

    /// A token for another audience.
    ///
    /// # Panics
    /// As [`token`](Self::token).
    pub fn token_for(&self, user: &str, audience: &str, lifetime: Duration) -> String {
        self.sign(user, audience, now(), lifetime)
    }

    /// A token that was valid until an hour ago.
    ///
    /// # Panics
    /// As [`token`](Self::token).
    pub fn expired_token(&self, user: &str) -> String {
        let hour = Duration::from_hours(1);
        self.sign(user, AUDIENCE, now() - 2 * hour, hour)
    }

    fn sign(&self, user: &str, audience: &str, now: Duration, lifetime: Duration) -> String {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": KEY_ID});
        let claims = json!({
            "iss": ISSUER,
            "aud": audience,
            "sub": user,
            "scope": "kafka",
            "iat": now.as_secs(),
            "exp": (now + lifetime).as_secs(),
        });
        let text = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
        let signature = self.0.sign(text.as_bytes()).expect("signed");
        format!("{text}.{}", base64url(&fixed(&signature)))
    }
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// A signature as a token has it, two numbers of 32 bytes, from a DER sequence of two integers.
fn fixed(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut both = Vec::new();
    for _ in 0..2 {
        let (number, behind) = rest[2..].split_at(usize::from(rest[1]));
        let digits = &number[number.len().saturating_sub(32)..];
        both.extend(std::iter::repeat_n(0, 32 - digits.len()));
        both.extend(digits);
        rest = behind;
    }
    both
}

const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64url(bytes: &[u8]) -> String {
    encode(bytes, URL)
}

/// The value of an `Authorization` header with a password.
pub fn basic(user: &str, password: &str) -> String {
    let mut text = encode(format!("{user}:{password}").as_bytes(), STANDARD);
    text.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    format!("Basic {text}")
}

fn encode(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let character = |bits: u32| char::from(alphabet[(bits & 63) as usize]);
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0, |group, i| group << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        text.extend((0..=chunk.len()).map(|i| character(group >> (18 - 6 * i))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a short number of a signature is not filled up.
    #[test]
    fn what_a_token_is_made_of() {
        let der = [&[0x30, 39, 2, 33, 0][..], &[9; 32], &[2, 2, 1, 7]].concat();
        assert_eq!(fixed(&der), [&[9; 32][..], &[0; 30], &[1, 7]].concat());
        assert_eq!(basic("user", "pass"), "Basic dXNlcjpwYXNz");
        assert_eq!(basic("user", "passw"), "Basic dXNlcjpwYXNzdw==");
        assert_eq!(base64url(&[0xff; 2]), "__8");
    }
}
