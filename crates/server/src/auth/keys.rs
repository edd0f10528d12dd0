//! The keys that tokens are checked with, each with the one algorithm that it is for.
//!
//! Where there is a key set, it alone has the public keys; a single key in PEM is for those who have none. A set behind a
//! URL is fetched when a key is first asked for, anew after a few minutes, and at once when a key is missing, but never
//! oftener than every few seconds, whatever the tokens that come ask for. While its server is away the last set serves on.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse};
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::jwt::JwtConfig;
use crate::tls::machine_authorities;

/// A fetched set is used for so long before it is fetched again.
const JWKS_AGE_MAX: Duration = Duration::from_secs(300);

/// Between two fetches at least: tokens with made-up key names must not become requests to the issuer.
const JWKS_INTERVAL_MIN: Duration = Duration::from_secs(5);

/// A fetch must be done within this time, because a request waits for it.
const JWKS_TIMEOUT: Duration = Duration::from_secs(2);

/// A set has a few keys of a few hundred bytes.
const JWKS_BYTES_MAX: usize = 256 << 10;

/// Keys of a set; more than any issuer rotates through.
const JWKS_KEYS_MAX: usize = 64;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum JwtConfigError {
    #[error("read the key file {path}")]
    ReadPem {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the key file {path} holds no RSA public key in PEM")]
    Pem {
        path: PathBuf,
        #[source]
        source: jsonwebtoken::errors::Error,
    },
    #[error("read the key set {path}")]
    ReadSet {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("parse the key set")]
    Set(#[source] SetError),
    #[error("make a client that fetches the key set")]
    Client(#[source] reqwest::Error),
}

impl JwtConfigError {
    /// The setting at fault.
    pub(super) fn key(&self) -> &'static str {
        match self {
            Self::ReadPem { .. } | Self::Pem { .. } => "jwt_public_key_file",
            Self::ReadSet { .. } | Self::Set(_) => "jwt_jwks",
            Self::Client(_) => "jwt_jwks_url",
        }
    }
}

/// Why a text is no set of keys.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("it is no JSON object with a list `keys`")]
    Malformed,
    #[error("it has {count} keys, at most {JWKS_KEYS_MAX} are allowed")]
    TooMany { count: usize },
    #[error("it has no RSA key for signatures")]
    Empty,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("ask for the key set")]
    Ask(#[source] reqwest::Error),
    #[error("the key set is larger than {JWKS_BYTES_MAX} bytes")]
    TooLarge,
    #[error("read the key set")]
    Set(#[source] SetError),
}

/// RS256 keys by name; one without a name only serves where it is the only one.
type Set = BTreeMap<Option<String>, DecodingKey>;

pub(super) struct Keys {
    secret: Option<DecodingKey>,
    pem: Option<DecodingKey>,
    set: Option<Set>,
    fetched: Option<Fetched>,
}

/// A set behind a URL.
struct Fetched {
    url: String,
    client: reqwest::Client,
    current: RwLock<Current>,
    /// Held while fetching, so that many requests wait for one fetch.
    fetching: Mutex<()>,
}

#[derive(Default)]
struct Current {
    set: Option<Arc<Set>>,
    fetched_at: Option<Instant>,
    tried_at: Option<Instant>,
}

impl Keys {
    pub(super) fn load(config: &JwtConfig) -> Result<Self, JwtConfigError> {
        let secret = config.secret.as_ref().map(|secret| DecodingKey::from_secret(secret.expose().as_bytes()));
        let pem = config.public_key_file.clone().map(|path| match std::fs::read(&path) {
            Ok(pem) => DecodingKey::from_rsa_pem(&pem).map_err(|source| JwtConfigError::Pem { path, source }),
            Err(source) => Err(JwtConfigError::ReadPem { path, source }),
        });
        let set = config.jwks.as_ref().map(|jwks| match jwks.trim_start().starts_with('{') {
            true => parse(jwks.as_bytes()).map_err(JwtConfigError::Set),
            false => {
                let text = std::fs::read(jwks);
                let text = text.map_err(|source| JwtConfigError::ReadSet { path: jwks.into(), source })?;
                parse(&text).map_err(JwtConfigError::Set)
            }
        });
        let fetched = config.jwks_url.clone().map(|url| {
            let client = reqwest::Client::builder().tls_certs_only(machine_authorities()).timeout(JWKS_TIMEOUT);
            let client = client.build().map_err(JwtConfigError::Client)?;
            Ok(Fetched { url, client, current: RwLock::default(), fetching: Mutex::new(()) })
        });
        Ok(Self { secret, pem: pem.transpose()?, set: set.transpose()?, fetched: fetched.transpose()? })
    }

    /// For HS256.
    pub(super) fn secret(&self) -> Option<&DecodingKey> {
        self.secret.as_ref()
    }

    pub(super) fn has_public(&self) -> bool {
        self.pem.is_some() || self.set.is_some() || self.fetched.is_some()
    }

    /// For RS256, the one that a token names.
    pub(super) async fn public(&self, kid: Option<&str>) -> Option<DecodingKey> {
        match (&self.fetched, &self.set) {
            (Some(fetched), _) => fetched.find(kid).await,
            (None, Some(set)) => find(set, kid).cloned(),
            (None, None) => self.pem.clone(),
        }
    }
}

/// The key of that name; without a name, the only one there is.
fn find<'s>(set: &'s Set, kid: Option<&str>) -> Option<&'s DecodingKey> {
    match kid {
        Some(kid) => set.get(&Some(kid.to_owned())),
        None => set.values().next().filter(|_| set.len() == 1),
    }
}

fn parse(text: &[u8]) -> Result<Set, SetError> {
    let mut value: Value = serde_json::from_slice(text).map_err(|_| SetError::Malformed)?;
    let Some(Value::Array(keys)) = value.get_mut("keys").map(Value::take) else { return Err(SetError::Malformed) };
    if keys.len() > JWKS_KEYS_MAX {
        return Err(SetError::TooMany { count: keys.len() });
    }
    // Keys of other kinds, and those for encryption, may stand beside ours.
    let parsed = keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let usable = parsed.filter_map(|key| {
        let common = &key.common;
        let is_rsa = matches!(key.algorithm, AlgorithmParameters::RSA(_));
        let is_for_signing = common.public_key_use.as_ref().is_none_or(|wanted| *wanted == PublicKeyUse::Signature);
        let is_rs256 = common.key_algorithm.as_ref().is_none_or(|algorithm| *algorithm == KeyAlgorithm::RS256);
        let decoding = DecodingKey::from_jwk(&key).ok().filter(|_| is_rsa && is_for_signing && is_rs256)?;
        Some((common.key_id.clone(), decoding))
    });
    let set: Set = usable.collect();
    if set.is_empty() { Err(SetError::Empty) } else { Ok(set) }
}

impl Fetched {
    async fn find(&self, kid: Option<&str>) -> Option<DecodingKey> {
        if let Some(key) = self.known(kid).filter(|_| !self.is_old()) {
            return Some(key);
        }
        let known = self.known(kid);
        let _fetching = match self.fetching.try_lock() {
            Ok(fetching) => fetching,
            // Somebody is at it, and an old key is better than a wait.
            Err(_) if known.is_some() => return known,
            Err(_) => self.fetching.lock().await,
        };
        // Whoever held the lock before may have fetched what is wanted.
        if let Some(key) = self.known(kid).filter(|_| !self.is_old()) {
            return Some(key);
        }
        if self.may_try() {
            self.current.write().tried_at = Some(Instant::now());
            match self.fetch().await {
                Ok(set) => {
                    let mut current = self.current.write();
                    (current.set, current.fetched_at) = (Some(Arc::new(set)), Some(Instant::now()));
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        url = self.url,
                        error,
                        "the key set for tokens cannot be fetched; the last one serves on"
                    );
                }
            }
        }
        self.known(kid)
    }

    fn known(&self, kid: Option<&str>) -> Option<DecodingKey> {
        let set = self.current.read().set.clone()?;
        find(&set, kid).cloned()
    }

    fn is_old(&self) -> bool {
        self.current.read().fetched_at.is_none_or(|at| at.elapsed() > JWKS_AGE_MAX)
    }

    fn may_try(&self) -> bool {
        self.current.read().tried_at.is_none_or(|at| at.elapsed() >= JWKS_INTERVAL_MIN)
    }

    async fn fetch(&self) -> Result<Set, FetchError> {
        let answer = self.client.get(&self.url).send().await.and_then(reqwest::Response::error_for_status);
        let mut answer = answer.map_err(FetchError::Ask)?;
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(FetchError::Ask)? {
            text.extend_from_slice(&chunk);
            if text.len() > JWKS_BYTES_MAX {
                return Err(FetchError::TooLarge);
            }
        }
        parse(&text).map_err(FetchError::Set)
    }
}
