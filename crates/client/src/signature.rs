//! Signing what is registered and taken off, and the routes for those who look after signatures.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::Method;
use reqwest::header::{IF_MATCH, IF_NONE_MATCH};
use rollcall_api::{
    DeregisterRequest, OwnerKeyInfo, OwnerKeysResponse, PutOwnerKeyRequest, RegisterResponse, RemoveOwnerKeyResponse,
    ServiceSignatureResponse, SetSignaturesRequest, SignatureMode, SignaturesResponse,
};
use rollcall_signature::{SigningKey, statement};
use serde_json::{Map, Value, json};

use crate::client::{Client, Condition, addressable, condition_header};
use crate::error::Error;
use crate::query::Consistency;
use crate::request::{Repeat, Request};

const REGISTER: [&str; 3] = ["api", "services", "register"];
const SIGNATURES: [&str; 2] = ["api", "signatures"];
const OWNER_KEYS: [&str; 2] = ["api", "owner-keys"];

/// In the metadata of a registration: when it was signed. Makes what its owner withdrew another registration.
const SIGNED_AT: &str = "signed_at_ms";

impl Client {
    pub(crate) async fn register_document(
        &self,
        document: &Value,
        condition: Option<Condition>,
    ) -> Result<RegisterResponse, Error> {
        let Some((key, members)) = self.signing_key().zip(document.as_object()) else {
            return self.send_registration(document, condition).await;
        };
        let registered = self.send_registration(&signed(members.clone(), key)?, condition).await;
        match registered {
            // What was withdrawn may be wanted again: its owner says so by signing another document.
            Err(error) if error.code() == Some("signature_replayed") => {
                let mut members = members.clone();
                let metadata = members.entry("metadata").or_insert_with(|| json!({}));
                let Some(metadata) = metadata.as_object_mut() else { return Err(error) };
                metadata.insert(SIGNED_AT.to_owned(), now_ms().into());
                self.send_registration(&signed(members, key)?, condition).await
            }
            registered => registered,
        }
    }

    async fn send_registration(
        &self,
        document: &Value,
        condition: Option<Condition>,
    ) -> Result<RegisterResponse, Error> {
        // A signed one that names no id has the one of its content, which is the same the second time.
        let has_id = !document["id"].is_null() || !document[statement::SIGNATURE].is_null();
        let repeat = if condition.is_none() && has_id { Repeat::Safe } else { Repeat::IfNotApplied };
        let request = Request::new(Method::POST, &REGISTER, repeat).json(document)?;
        let request = match condition.map(condition_header) {
            Some((absent, value)) => request.header(if absent { IF_NONE_MATCH } else { IF_MATCH }, value),
            None => request,
        };
        self.send(&request).await
    }

    /// The body of a deregistration; none if nothing is signed here, or nothing was.
    pub(crate) async fn signed_deregistration(&self, id: &str) -> Result<Option<DeregisterRequest>, Error> {
        let Some(key) = self.signing_key() else { return Ok(None) };
        // The signature is for what is registered now, through whichever node.
        let service = self.get(id, Consistency { linearizable: true, ..Consistency::default() }).await?;
        let Some((owner, signature)) = service.owner.zip(service.signature) else { return Ok(None) };
        let statement = statement::deregistration(id, &owner, &signature);
        let deregistration_signature = Some(key.sign(statement.as_bytes()).to_string());
        Ok(Some(DeregisterRequest { deregistration_signature }))
    }

    /// How the tenant takes signatures.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn signatures(&self) -> Result<SignaturesResponse, Error> {
        self.send(&Request::new(Method::GET, &SIGNATURES, Repeat::Safe)).await
    }

    /// Has signatures taken in this way, or, with none, as the nodes are configured to.
    ///
    /// # Errors
    /// 409 `too_many_signature_modes`.
    pub async fn set_signatures(&self, mode: Option<SignatureMode>) -> Result<SignaturesResponse, Error> {
        let request = match mode {
            Some(mode) => {
                Request::new(Method::PUT, &SIGNATURES, Repeat::Safe).json(&SetSignaturesRequest { mode })?
            }
            None => Request::new(Method::DELETE, &SIGNATURES, Repeat::Safe),
        };
        self.send(&request).await
    }

    /// A page of the owners who have a key, by name: those after `after`, at most `limit`.
    ///
    /// # Errors
    /// 400 for a limit beyond 1,000; 503 while no leader is known.
    pub async fn owner_keys(&self, after: Option<&str>, limit: Option<u32>) -> Result<OwnerKeysResponse, Error> {
        let after = after.map(|after| ("after", after.to_owned()));
        let limit = limit.map(|limit| ("limit", limit.to_string()));
        let request = Request::new(Method::GET, &OWNER_KEYS, Repeat::Safe);
        self.send(&request.query(after.into_iter().chain(limit).collect())).await
    }

    /// Gives an owner a key, or another one.
    ///
    /// # Errors
    /// 400 for what is no key; 409 `too_many_owner_keys`.
    pub async fn put_owner_key(&self, owner: &str, public_key: &str) -> Result<OwnerKeyInfo, Error> {
        let [api, keys] = OWNER_KEYS;
        let body = PutOwnerKeyRequest { public_key: public_key.to_owned() };
        self.send(&Request::new(Method::PUT, &[api, keys, addressable(owner)?], Repeat::Safe).json(&body)?).await
    }

    /// Takes an owner's key away: the next one that signs in the owner's name is the owner's.
    ///
    /// # Errors
    /// 404 `owner_key_not_found`.
    pub async fn remove_owner_key(&self, owner: &str) -> Result<RemoveOwnerKeyResponse, Error> {
        let [api, keys] = OWNER_KEYS;
        let path = [api, keys, addressable(owner)?];
        self.send(&Request::new(Method::DELETE, &path, Repeat::IfNotApplied)).await
    }

    /// What an instance's signature is for, to check it oneself.
    ///
    /// # Errors
    /// 404 `not_found`, `not_signed`.
    pub async fn service_signature(&self, id: &str) -> Result<ServiceSignatureResponse, Error> {
        let path = ["api", "services", addressable(id)?, "signature"];
        self.send(&Request::new(Method::GET, &path, Repeat::Safe)).await
    }
}

fn signed(mut document: Map<String, Value>, key: &SigningKey) -> Result<Value, Error> {
    statement::sign_registration(&mut document, key).map_err(|source| Error::Sign { source })?;
    Ok(Value::Object(document))
}

/// By this machine's clock; it only has to differ from what was signed before.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
