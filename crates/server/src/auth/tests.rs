//! What is believed and what is not. Tokens are made here as an issuer makes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use rollcall_registry::{AccessRole, PrincipalId, Reach, Scopes, TenantId};

use super::*;
use crate::secret::Secret;

const SECRET: &str = "dev-identity-signing-key";
const PRIVATE_PEM: &str = include_str!("testdata/private.pem");
const PUBLIC_PEM: &str = include_str!("testdata/public.pem");
const MODULUS: &str = include_str!("testdata/modulus.txt");

fn by_secret() -> JwtConfig {
    JwtConfig { secret: Some(Secret::from(SECRET.to_owned())), ..JwtConfig::default() }
}

fn key_set() -> Value {
    json!({ "keys": [
        { "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "other" },
        { "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k1", "n": MODULUS.trim(), "e": "AQAB" },
        { "kty": "RSA", "use": "enc", "kid": "enc", "n": MODULUS.trim(), "e": "AQAB" },
    ] })
}

fn claims(more: Value) -> Value {
    let mut claims = json!({ "exp": get_current_timestamp() + 60, "platform_tenant_id": "acme", "sub": "agent-1" });
    for (name, value) in more.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    claims
}

fn hs256(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

fn rs256(claims: &Value, kid: Option<&str>) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::RS256) };
    encode(&header, claims, &EncodingKey::from_rsa_pem(PRIVATE_PEM.as_bytes()).unwrap()).unwrap()
}

fn headers(token: &str, more: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers: HeaderMap =
        more.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
    headers.insert(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).unwrap());
    headers
}

async fn principal(config: &JwtConfig, headers: &HeaderMap) -> Result<Principal, String> {
    let principal = Auth::new(Some(config), false).unwrap().principal(headers).await;
    principal.map(|principal| principal.expect("tokens are checked")).map_err(|failure| {
        assert_eq!(failure.status(), 401);
        failure.detail().to_owned()
    })
}

async fn tenant(config: &JwtConfig, token: &str) -> Result<String, String> {
    principal(config, &headers(token, &[])).await.map(|principal| principal.reach.to_string())
}

fn invalid() -> Result<String, String> {
    Err("Invalid JWT".to_owned())
}

#[tokio::test]
async fn a_token_says_whose_it_is() {
    let more = json!({ "principal_type": "planner", "roles": ["a", "b"], "tenant_id": "acme-eu" });
    let claims = claims(more);
    let found = principal(&by_secret(), &headers(&hs256(&claims), &[])).await.unwrap();
    assert_eq!(
        found,
        Principal {
            id: PrincipalId::parse("jwt:agent-1").unwrap(),
            reach: Reach::Tenant(TenantId::parse("acme-eu").unwrap()),
            role: AccessRole::Agent,
            scopes: Scopes::default(),
            subject: Some("agent-1".to_owned()),
            kind: Some(PrincipalKind::Planner),
            roles: vec!["a".to_owned(), "b".to_owned()],
            credential: Credential::Jwt { expires_at_s: claims["exp"].as_u64().unwrap() },
        }
    );
}

async fn role(config: &JwtConfig, more: Value) -> AccessRole {
    principal(config, &headers(&hs256(&claims(more)), &[])).await.unwrap().role
}

#[tokio::test]
async fn a_role_is_named_or_comes_of_what_somebody_is() {
    let config = by_secret();
    assert_eq!(role(&config, json!({})).await, AccessRole::Reader);
    for (kind, expected) in [
        ("user", AccessRole::Reader),
        ("tool", AccessRole::Agent),
        ("service", AccessRole::Agent),
        ("admin", AccessRole::Operator),
    ] {
        assert_eq!(role(&config, json!({ "principal_type": kind })).await, expected, "{kind}");
    }
    // Nobody administers tokens whose issuer did not say so in our words.
    assert_eq!(role(&config, json!({ "roles": ["admin"] })).await, AccessRole::Reader);
    assert_eq!(role(&config, json!({ "principal_type": "user", "role": "admin" })).await, AccessRole::Admin);
    assert_eq!(role(&config, json!({ "role": ["x", "operator", "agent"] })).await, AccessRole::Operator);
    let chosen =
        JwtConfig { role_claim: Some("groups".to_owned()), role_default: Some(AccessRole::Agent), ..by_secret() };
    assert_eq!(role(&chosen, json!({ "role": "admin" })).await, AccessRole::Agent);
    for another in [json!("root"), json!(["x"]), json!(7)] {
        assert_eq!(role(&config, json!({ "role": another })).await, AccessRole::Reader);
        assert_eq!(
            role(&chosen, json!({ "groups": another })).await,
            AccessRole::Reader,
            "the least, not the default"
        );
    }
    assert_eq!(role(&chosen, json!({ "groups": ["admin"] })).await, AccessRole::Admin);
}

#[tokio::test]
async fn the_tenant_is_in_the_claim_that_was_chosen() {
    let token = |more| hs256(&claims(more));
    assert_eq!(tenant(&by_secret(), &token(json!({}))).await, Ok("acme".to_owned()));
    assert_eq!(tenant(&by_secret(), &token(json!({ "tenant_id": "*" }))).await, Ok("*".to_owned()));
    let chosen = JwtConfig { tenant_claim: Some("org".to_owned()), ..by_secret() };
    assert_eq!(tenant(&chosen, &token(json!({ "org": "umbrella" }))).await, Ok("umbrella".to_owned()));
    for more in [json!({}), json!({ "org": 7 }), json!({ "org": "" }), json!({ "org": "not a tenant" })] {
        assert_eq!(tenant(&chosen, &token(more)).await, invalid());
    }
}

#[tokio::test]
async fn what_no_key_made_is_refused() {
    let config = by_secret();
    let good = hs256(&claims(json!({})));
    let (head, signature) = good.rsplit_once('.').unwrap();
    let flipped: String = signature.chars().rev().collect();
    let other = encode(&Header::default(), &claims(json!({})), &EncodingKey::from_secret(b"another secret")).unwrap();
    for token in [format!("{head}.{flipped}"), format!("{head}."), head.to_owned(), "x".to_owned(), other] {
        assert_eq!(tenant(&config, &token).await, invalid(), "{token}");
    }
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJleHAiOjk5OTk5OTk5OTksInBsYXRmb3JtX3RlbmFudF9pZCI6ImFjbWUifQ.";
    assert_eq!(tenant(&config, none).await, invalid());
    let hs512 =
        encode(&Header::new(Algorithm::HS512), &claims(json!({})), &EncodingKey::from_secret(SECRET.as_bytes()));
    assert_eq!(tenant(&config, &hs512.unwrap()).await, invalid());
}

#[tokio::test]
async fn what_ran_out_or_says_too_little_is_refused() {
    let now = get_current_timestamp();
    for more in [
        json!({ "exp": now - 1 }),
        json!({ "exp": "tomorrow" }),
        json!({ "exp": null }),
        json!({ "nbf": now + 60 }),
        json!({ "platform_tenant_id": null }),
        json!({ "platform_tenant_id": " " }),
        json!({ "platform_tenant_id": 7 }),
        json!({ "tenant_id": "not a tenant" }),
        json!({ "principal_type": "wizard" }),
        json!({ "roles": "admin" }),
    ] {
        assert_eq!(tenant(&by_secret(), &hs256(&claims(more.clone()))).await, invalid(), "{more}");
    }
    // What must be understood is not passed over.
    let parts = [json!({"alg": "HS256", "typ": "JWT", "crit": ["b64"], "b64": false}), claims(json!({}))];
    let parts = parts.map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = parts.join(".");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
    assert_eq!(tenant(&by_secret(), &format!("{signed}.{signature}")).await, invalid());
    let mut without = claims(json!({}));
    without.as_object_mut().unwrap().remove("exp");
    assert_eq!(tenant(&by_secret(), &hs256(&without)).await, invalid());
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    std::fs::write(&path, PUBLIC_PEM).unwrap();
    let config = JwtConfig { public_key_file: Some(path), ..JwtConfig::default() };
    assert_eq!(tenant(&config, &rs256(&claims(json!({})), None)).await, Ok("acme".to_owned()));
    // Signed with what everybody knows.
    let forged =
        encode(&Header::new(Algorithm::HS256), &claims(json!({})), &EncodingKey::from_secret(PUBLIC_PEM.as_bytes()));
    let unverifiable = Err("JWT validation not configured".to_owned());
    assert_eq!(tenant(&config, &forged.unwrap()).await, unverifiable);
    assert_eq!(tenant(&by_secret(), &rs256(&claims(json!({})), None)).await, unverifiable);
}

#[tokio::test]
async fn issuer_and_audience_count_where_they_are_configured() {
    let config = JwtConfig { issuer: Some("me".to_owned()), audience: Some("roll".to_owned()), ..by_secret() };
    let token = |more| hs256(&claims(more));
    assert_eq!(tenant(&config, &token(json!({ "iss": "me", "aud": ["x", "roll"] }))).await, Ok("acme".to_owned()));
    for more in [json!({ "iss": "me" }), json!({ "aud": "roll" }), json!({ "iss": "you", "aud": "roll" })] {
        assert_eq!(tenant(&config, &token(more.clone())).await, invalid(), "{more}");
    }
    assert_eq!(tenant(&by_secret(), &token(json!({ "iss": "you", "aud": "x" }))).await, Ok("acme".to_owned()));
}

#[tokio::test]
async fn headers_must_not_contradict() {
    let token = hs256(&claims(json!({ "service_tenant_id": "s" })));
    let ask = |more: &[(&'static str, &'static str)]| headers(&token, more);
    assert!(principal(&by_secret(), &ask(&[("x-service-tenant-id", "s"), ("x-user-id", "agent-1")])).await.is_ok());
    for (name, value) in [("x-service-tenant-id", "other"), ("x-user-id", "other")] {
        let error = principal(&by_secret(), &ask(&[(name, value)])).await.unwrap_err();
        assert!(error.contains("contradicts the token"), "{error}");
    }
    // The token alone says whose it is.
    assert_eq!(principal(&by_secret(), &ask(&[("x-tenant-id", "other")])).await.unwrap().reach.to_string(), "acme");
}

#[tokio::test]
async fn without_a_token_nobody_is_anybody() {
    let error = principal(&by_secret(), &HeaderMap::new()).await.unwrap_err();
    assert_eq!(error, "Missing bearer token");
    let basic = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Basic eDp5"))]);
    assert_eq!(principal(&by_secret(), &basic).await.unwrap_err(), "Missing bearer token");
    // Without keys no token decides anything.
    let open = Auth::new(None, false).unwrap();
    assert_eq!(open.principal(&headers(&hs256(&claims(json!({}))), &[])).await.unwrap(), None);
}

#[tokio::test]
async fn a_key_of_a_set_is_found_by_its_name() {
    let config = JwtConfig { jwks: Some(key_set().to_string()), ..JwtConfig::default() };
    assert_eq!(tenant(&config, &rs256(&claims(json!({})), Some("k1"))).await, Ok("acme".to_owned()));
    // It is the only one for signatures, so that it need not be named.
    assert_eq!(tenant(&config, &rs256(&claims(json!({})), None)).await, Ok("acme".to_owned()));
    for kid in ["other", "enc", "unknown"] {
        assert_eq!(tenant(&config, &rs256(&claims(json!({})), Some(kid))).await, invalid(), "{kid}");
    }
}

#[tokio::test]
async fn a_set_is_fetched_once_for_many() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(stream.read(&mut [0; 1024]).await);
            let body = key_set().to_string();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            drop(stream.write_all((head + &body).as_bytes()).await);
        }
    });
    let auth = Auth::new(Some(&JwtConfig { jwks_url: Some(url), ..JwtConfig::default() }), false).unwrap();
    let good = headers(&rs256(&claims(json!({})), Some("k1")), &[]);
    let unknown = headers(&rs256(&claims(json!({})), Some("made-up")), &[]);
    for _ in 0..20 {
        assert!(auth.principal(&good).await.is_ok());
        assert!(auth.principal(&unknown).await.is_err());
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1, "made-up names became requests");
}

#[test]
fn faulty_settings_are_named() {
    let keys = |config: JwtConfig| config.faults().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(JwtConfig::default()), [""; 0]);
    assert_eq!(keys(by_secret()), [""; 0]);
    assert_eq!(
        keys(JwtConfig { secret: Some(Secret::from("short".to_owned())), ..JwtConfig::default() }),
        ["jwt_secret"]
    );
    assert_eq!(keys(JwtConfig { issuer: Some("me".to_owned()), ..JwtConfig::default() }), ["jwt_issuer"]);
    assert_eq!(
        keys(JwtConfig { role_default: Some(AccessRole::Agent), ..JwtConfig::default() }),
        ["jwt_role_default"]
    );
    assert_eq!(keys(JwtConfig { jwks_url: Some("ftp://x".to_owned()), ..JwtConfig::default() }), ["jwt_jwks_url"]);
    assert_eq!(keys(JwtConfig { jwks: Some("/no/such/file".to_owned()), ..JwtConfig::default() }), ["jwt_jwks"]);
    assert_eq!(keys(JwtConfig { jwks: Some("{}".to_owned()), ..JwtConfig::default() }), ["jwt_jwks"]);
    let missing = JwtConfig { public_key_file: Some("/no/such/file".into()), ..JwtConfig::default() };
    assert_eq!(keys(missing), ["jwt_public_key_file"]);
}
