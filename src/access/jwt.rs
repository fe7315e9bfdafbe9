//! JSON Web Tokens: found in a request, verified, and what they claim.
//!
//! RFC 7519, with the care of RFC 8725: the algorithm is one that the provider is configured for
//! and that fits the key; issuer, audience and expiry are always checked; a token that says more
//! than is understood (`crit`) is refused. Keys and time are arguments.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderName, header::AUTHORIZATION};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::KeySet;
use crate::{
    config::model::{JwtAlgorithm, JwtProvider},
    http::fields::Fields,
};

/// The longest token, in bytes. Longer ones are refused before anything in them is read.
const MAX_TOKEN: usize = 16 * 1024;
/// Keys tried for a token that names none: each costs a verification.
const MAX_TRIED: usize = 4;

/// Why there are no claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    Missing,
    /// Why it does not hold.
    Invalid(&'static str),
    /// It may hold, but the key that it is signed with is none that is here.
    NoKey,
}

/// What a valid token says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Whether a claim has this value: text as it is, numbers and booleans as JSON writes them, of
    /// a list any element, and of `scope` any word (RFC 8693 section 4.2).
    pub fn has(&self, name: &str, value: &str) -> bool {
        match self.0.get(name) {
            Some(Value::String(text)) if name == "scope" => {
                text.split(' ').any(|word| word == value) || text == value
            }
            Some(Value::Array(items)) => items.iter().any(|item| is(item, value)),
            Some(claim) => is(claim, value),
            None => false,
        }
    }
}

fn is(claim: &Value, value: &str) -> bool {
    match claim {
        Value::String(text) => text == value,
        Value::Bool(claim) => (if *claim { "true" } else { "false" }) == value,
        Value::Number(number) => number.to_string() == value,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// The token in a request.
pub fn find<'f>(header: &'f HeaderName, fields: &'f Fields) -> Result<&'f [u8], TokenError> {
    let bearer_only = *header == AUTHORIZATION;
    // In `authorization` other schemes may stand beside it.
    let mut tokens = fields.get_all(header).filter_map(|line| {
        let line = line.trim_ascii();
        match bearer(line) {
            Some(token) => Some(token),
            None if bearer_only => None,
            None => Some(line),
        }
    });
    match (tokens.next(), tokens.next()) {
        (None, _) => Err(TokenError::Missing),
        (Some([]), _) => Err(TokenError::Missing),
        (Some(token), None) => Ok(token),
        (Some(_), Some(_)) => Err(TokenError::Invalid("there is more than one")),
    }
}

/// What follows `Bearer`, in whatever case (RFC 9110 section 11.1).
fn bearer(line: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = line.split_at_checked(6)?;
    match token {
        [] => None,
        _ if !scheme.eq_ignore_ascii_case(b"bearer") => None,
        [b' ', token @ ..] => Some(token.trim_ascii()),
        _ => None,
    }
}

/// Removes the token from a request, and nothing else that the header may carry.
pub fn take_away(header: &HeaderName, fields: &mut Fields) {
    if *header != AUTHORIZATION {
        fields.remove(header);
        return;
    }
    let others: Vec<Vec<u8>> = fields
        .get_all(header)
        .filter(|line| bearer(line.trim_ascii()).is_none())
        .map(<[u8]>::to_vec)
        .collect();
    fields.remove(header);
    for line in others {
        fields.append(header, &line);
    }
}

/// What a token's header may say.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// Checks a token in every respect. `now` is in seconds since 1970.
pub fn verify(
    token: &[u8],
    keys: &KeySet,
    provider: &JwtProvider,
    now: u64,
) -> Result<Claims, TokenError> {
    use TokenError::Invalid;
    if token.len() > MAX_TOKEN {
        return Err(Invalid("it is too long"));
    }
    let mut parts = token.split(|&byte| byte == b'.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Invalid("it is no signed JWT"));
    };
    let signed = &token[..header.len() + 1 + payload.len()];
    let header: Header = read(header).ok_or(Invalid("its header can't be read"))?;
    if header.crit.is_some() {
        return Err(Invalid("it has critical extensions"));
    }
    let algorithm = provider
        .algorithms
        .iter()
        .find(|algorithm| algorithm.name() == header.alg)
        .ok_or(Invalid("its algorithm is not allowed"))?;
    // What is cheap comes first, so that a token of another issuer costs no verification.
    let claims = Claims(read(payload).ok_or(Invalid("its claims can't be read"))?);
    check(&claims, provider, now)?;
    let signature = decode(signature).ok_or(Invalid("its signature can't be read"))?;
    verify_signature(signed, &signature, *algorithm, header.kid.as_deref(), keys)?;
    Ok(claims)
}

fn verify_signature(
    signed: &[u8],
    signature: &[u8],
    algorithm: JwtAlgorithm,
    id: Option<&str>,
    keys: &KeySet,
) -> Result<(), TokenError> {
    let mut tried = keys.fitting(algorithm, id).take(MAX_TRIED).peekable();
    if tried.peek().is_none() {
        return Err(TokenError::NoKey);
    }
    match tried.any(|key| key.verify_sig(signed, signature).is_ok()) {
        true => Ok(()),
        false => Err(TokenError::Invalid("its signature is wrong")),
    }
}

/// RFC 7519 section 4.1.
fn check(claims: &Claims, provider: &JwtProvider, now: u64) -> Result<(), TokenError> {
    use TokenError::Invalid;
    let Claims(claims) = claims;
    if claims.get("iss").and_then(Value::as_str) != Some(&*provider.issuer) {
        return Err(Invalid("it is of another issuer"));
    }
    let is_for = |audience: &Value| {
        let audience = audience.as_str();
        let ours = provider.audiences.iter();
        audience.is_some_and(|audience| ours.into_iter().any(|own| **own == *audience))
    };
    let for_us = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(is_for),
        Some(audience) => is_for(audience),
        None => false,
    };
    if !for_us {
        return Err(Invalid("it is for another audience"));
    }
    // Fractions of a second are allowed; a number that is none of time is never reached.
    let (now, leeway) = (now as f64, provider.leeway.as_secs_f64());
    let expires = claims.get("exp").and_then(Value::as_f64);
    let expires = expires.ok_or(Invalid("it has no expiry"))?;
    if now >= expires + leeway {
        return Err(Invalid("it has expired"));
    }
    match claims.get("nbf").map(Value::as_f64) {
        None => Ok(()),
        Some(None) => Err(Invalid("its beginning can't be read")),
        Some(Some(begins)) if now + leeway < begins => Err(Invalid("it is not valid yet")),
        Some(Some(_)) => Ok(()),
    }
}

fn decode(part: &[u8]) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(part).ok()
}

fn read<T: for<'de> Deserialize<'de>>(part: &[u8]) -> Option<T> {
    serde_json::from_slice(&decode(part)?).ok()
}

/// Tokens for tests, signed with a key of their own.
#[cfg(test)]
pub(super) mod testing {
    use std::{sync::Arc, time::Duration};

    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
    };

    use super::*;
    use crate::{access::Provider, config::model::Jwks};

    /// A moment, in seconds since 1970.
    pub(in crate::access) const NOW: u64 = 1_800_000_000;

    pub(in crate::access) struct Signer(EcdsaKeyPair);

    pub(in crate::access) fn encode(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `https://id.example` for `shop`, with one key of id `1`.
    pub(in crate::access) fn provider() -> (Arc<Provider>, Signer) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        let set = format!(
            r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"1","use":"sig","x":"{x}","y":"{y}"}}]}}"#
        );
        let provider = Provider::new(Arc::new(config()));
        let algorithms = &provider.config.algorithms;
        provider.replace(KeySet::parse(set.as_bytes(), algorithms).unwrap());
        (provider, Signer(pair))
    }

    pub(in crate::access) fn config() -> JwtProvider {
        JwtProvider {
            name: "corp".into(),
            issuer: "https://id.example".into(),
            audiences: vec!["shop".into()],
            jwks: Jwks::File("jwks.json".into()),
            algorithms: JwtAlgorithm::ALL.to_vec(),
            leeway: Duration::from_secs(30),
            header: AUTHORIZATION,
            forward: true,
        }
    }

    pub(in crate::access) fn sign(signer: &Signer, claims: &str) -> String {
        sign_as(signer, r#"{"alg":"ES256","kid":"1"}"#, claims)
    }

    pub(in crate::access) fn sign_as(signer: &Signer, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = signer.0.sign(&SystemRandom::new(), signed.as_bytes());
        format!("{signed}.{}", encode(signature.unwrap().as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        testing::{NOW, encode, provider, sign, sign_as},
        *,
    };

    const GOOD: &str = r#"{"iss":"https://id.example","aud":["x","shop"],"exp":1800000100}"#;

    #[test]
    fn a_token_is_checked_in_every_respect() {
        let (provider, signer) = provider();
        let verify =
            |token: &str| verify(token.as_bytes(), &provider.keys(), &provider.config, NOW);
        let good = sign(&signer, GOOD);
        assert!(verify(&good).is_ok());
        let (front, signature) = good.rsplit_once('.').unwrap();
        let (header, claims) = front.split_once('.').unwrap();
        let none = format!("{}.{claims}.", encode(r#"{"alg":"none"}"#));
        let other_claims = encode(GOOD.replace("shop", "shop\",\"y"));
        let claims_of = |claims: &str| sign(&signer, claims);
        let headed = |header: &str| sign_as(&signer, header, GOOD);
        for (token, why) in [
            (none, "its algorithm is not allowed"),
            (headed(r#"{"alg":"HS256"}"#), "its algorithm is not allowed"),
            (headed(r#"{"alg":"es256"}"#), "its algorithm is not allowed"),
            (
                headed(r#"{"alg":"ES256","crit":["b64"]}"#),
                "it has critical extensions",
            ),
            (headed("{}"), "its header can't be read"),
            (headed(r#"{"alg":["ES256"]}"#), "its header can't be read"),
            (
                format!("{header}.{other_claims}.{signature}"),
                "its signature is wrong",
            ),
            (format!("{header}.{claims}."), "its signature is wrong"),
            (
                format!("{header}.{claims}.{signature}="),
                "its signature can't be read",
            ),
            (format!("{good}.x"), "it is no signed JWT"),
            (front.to_owned(), "it is no signed JWT"),
            ("x".repeat(MAX_TOKEN + 1), "it is too long"),
            (claims_of("[]"), "its claims can't be read"),
            (
                claims_of(&GOOD.replace("id.example", "evil.example")),
                "it is of another issuer",
            ),
            (
                claims_of(&GOOD.replace("shop", "shops")),
                "it is for another audience",
            ),
            (
                claims_of(&GOOD.replace("1800000100", "1799999970")),
                "it has expired",
            ),
            (
                claims_of(&GOOD.replace("1800000100", "\"never\"")),
                "it has no expiry",
            ),
            (
                claims_of(&GOOD.replace("\"exp\"", "\"iat\"")),
                "it has no expiry",
            ),
            (
                claims_of(&GOOD.replace("\"exp\"", "\"nbf\":1800000031,\"exp\"")),
                "it is not valid yet",
            ),
            (
                claims_of(&GOOD.replace("\"exp\"", "\"nbf\":[],\"exp\"")),
                "its beginning can't be read",
            ),
        ] {
            assert_eq!(verify(&token), Err(TokenError::Invalid(why)), "{token}");
        }
        for claims in [
            GOOD.replace(r#"["x","shop"]"#, r#""shop""#),
            // Within the leeway.
            GOOD.replace("1800000100", "1799999971"),
            GOOD.replace("1800000100", "1800000000.5"),
            GOOD.replace("\"exp\"", "\"nbf\":1800000030,\"exp\""),
        ] {
            assert!(verify(&claims_of(&claims)).is_ok(), "{claims}");
        }
        // No id: any key that fits.
        assert!(verify(&headed(r#"{"alg":"ES256"}"#)).is_ok());
        // Not that there is none: it may be here soon.
        for header in [
            r#"{"alg":"RS256","kid":"1"}"#,
            r#"{"alg":"ES256","kid":"2"}"#,
        ] {
            assert_eq!(verify(&headed(header)), Err(TokenError::NoKey), "{header}");
        }
        let none = KeySet::default();
        let verified = super::verify(good.as_bytes(), &none, &provider.config, NOW);
        assert_eq!(verified, Err(TokenError::NoKey));
    }

    #[test]
    fn claims_match_as_text_element_and_word() {
        let claims: Map<String, Value> = serde_json::from_str(
            r#"{"scope":"read write","roles":["a","b c"],"name":"a b","n":7,"t":true,"o":{},"z":null}"#,
        )
        .unwrap();
        let claims = Claims(claims);
        for (name, value, has) in [
            ("scope", "read", true),
            ("scope", "write", true),
            ("scope", "read write", true),
            ("scope", "rea", false),
            ("roles", "a", true),
            ("roles", "b c", true),
            ("roles", "b", false),
            ("name", "a b", true),
            ("name", "a", false),
            ("n", "7", true),
            ("t", "true", true),
            ("o", "", false),
            ("z", "null", false),
            ("none", "", false),
        ] {
            assert_eq!(claims.has(name, value), has, "{name} {value}");
        }
    }

    #[test]
    fn a_token_is_found_and_taken_away() {
        let of = |lines: &[(&str, &str)]| lines.iter().copied().collect::<Fields>();
        let other = HeaderName::from_static("x-token");
        let missing = Err(TokenError::Missing);
        for (header, lines, found) in [
            (
                &AUTHORIZATION,
                &[("Authorization", "Bearer a.b.c")][..],
                Ok(&b"a.b.c"[..]),
            ),
            (
                &AUTHORIZATION,
                &[("authorization", "bEARER  a.b.c ")],
                Ok(b"a.b.c"),
            ),
            (&AUTHORIZATION, &[("authorization", "Basic eA==")], missing),
            (&AUTHORIZATION, &[("authorization", "a.b.c")], missing),
            (&AUTHORIZATION, &[("authorization", "Bearer")], missing),
            (&AUTHORIZATION, &[("authorization", "Bearer ")], missing),
            (&AUTHORIZATION, &[], missing),
            (&other, &[("x-token", "a.b.c")], Ok(b"a.b.c")),
            (&other, &[("x-token", "Bearer a.b.c")], Ok(b"a.b.c")),
            (
                &other,
                &[("x-token", "a"), ("x-token", "b")],
                Err(TokenError::Invalid("there is more than one")),
            ),
        ] {
            assert_eq!(find(header, &of(lines)), found, "{lines:?}");
        }
        let mut fields = of(&[
            ("authorization", "Bearer a"),
            ("authorization", "Basic b"),
            ("x", "y"),
        ]);
        take_away(&AUTHORIZATION, &mut fields);
        assert_eq!(fields.get(&AUTHORIZATION), Some(&b"Basic b"[..]));
        assert_eq!(fields.len(), 2);
    }

    proptest! {
        #[test]
        fn no_token_panics(
            token in prop_oneof![
                any::<Vec<u8>>(),
                "[a-zA-Z0-9_.-]{0,60}".prop_map(String::into_bytes),
                ("\\PC{0,20}", "\\PC{0,20}").prop_map(|(header, claims)| {
                    format!("{}.{}.AA", encode(header), encode(claims)).into_bytes()
                }),
            ],
        ) {
            let config = super::testing::config();
            prop_assert!(verify(&token, &KeySet::default(), &config, NOW).is_err());
        }
    }
}
