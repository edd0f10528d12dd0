//! What a request brings to prove who asks.
//!
//! It is a bearer token everywhere. Clients of Protolink's contract bring the same tokens in each of that contract's three ways:
//! as a key (`X-API-Key`, `Authorization: ApiKey`), as a bearer token, and as the password of `Basic`. None is taken from a
//! query, because addresses are written down everywhere on the way.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::TOKEN_PREFIX;

pub(crate) const API_KEY: &str = "x-api-key";

/// The bearer token of a request; one that is given twice is none.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = single(headers, header::AUTHORIZATION.as_str()).ok()??.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The token of a request by Protolink's contract. Its clients send a key in two headers at once; if these differ, or one is
/// given twice, there is none.
pub(super) fn of_protolink(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let key = single(headers, API_KEY).ok()?.map(str::trim).filter(|key| !key.is_empty());
    let authorization = match single(headers, header::AUTHORIZATION.as_str()).ok()? {
        Some(text) => Some(credentials(text)?),
        None => None,
    };
    match (key, authorization) {
        (Some(key), Some(other)) => (key == other.as_str()).then_some(other),
        (Some(key), None) => Some(Zeroizing::new(key.to_owned())),
        (None, authorization) => authorization,
    }
}

fn credentials(text: &str) -> Option<Zeroizing<String>> {
    let (scheme, value) = text.split_once(' ')?;
    let value = value.trim();
    let token = match scheme.to_ascii_lowercase().as_str() {
        "bearer" | "apikey" => Zeroizing::new(value.to_owned()),
        "basic" => password(value)?,
        _ => return None,
    };
    (!token.is_empty()).then_some(token)
}

/// The contract's clients send what they were given as it is: that may be a token, or a name and a token, encoded or not.
fn password(value: &str) -> Option<Zeroizing<String>> {
    if value.starts_with(TOKEN_PREFIX) {
        return Some(Zeroizing::new(value.to_owned()));
    }
    let after_name = |text: &str| text.split_once(':').map(|(_, password)| Zeroizing::new(password.to_owned()));
    after_name(value).or_else(|| {
        let decoded = Zeroizing::new(STANDARD.decode(value).ok()?);
        after_name(std::str::from_utf8(&decoded).ok()?)
    })
}

/// A header that is given once or not at all, as text.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn of(pairs: &[(&'static str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        of_protolink(&headers).map(|token| token.to_string())
    }

    #[test]
    fn a_token_comes_in_three_ways() {
        let encoded = format!("Basic {}", STANDARD.encode("weather:rctoken-1-2"));
        for pairs in [
            &[("x-api-key", "rctoken-1-2")][..],
            &[("authorization", "ApiKey rctoken-1-2")],
            &[("x-api-key", "rctoken-1-2"), ("authorization", "ApiKey rctoken-1-2")],
            &[("authorization", "Bearer rctoken-1-2")],
            &[("authorization", "bearer  rctoken-1-2 ")],
            &[("authorization", "Basic rctoken-1-2")],
            &[("authorization", "Basic weather:rctoken-1-2")],
            &[("authorization", &encoded)],
        ] {
            assert_eq!(of(pairs).as_deref(), Some("rctoken-1-2"), "{pairs:?}");
        }
    }

    #[test]
    fn what_contradicts_itself_or_is_none_is_none() {
        let nameless = format!("Basic {}", STANDARD.encode("rctoken-1-2"));
        for pairs in [
            &[][..],
            &[("x-api-key", "")],
            &[("x-api-key", "a"), ("x-api-key", "a")],
            &[("x-api-key", "a"), ("authorization", "ApiKey b")],
            &[("x-api-key", "a"), ("authorization", "Digest a")],
            &[("authorization", "Bearer a"), ("authorization", "Bearer a")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Basic !")],
            &[("authorization", "Basic name:")],
            &[("authorization", &nameless)],
        ] {
            assert_eq!(of(pairs), None, "{pairs:?}");
        }
    }
}
