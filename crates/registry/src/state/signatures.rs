//! Who signs what: how each tenant takes signatures, and the keys of owners. A table of its own, beside the roll: it takes
//! no revision and is no event.
//!
//! Edges verify signatures; what is decided here is whose key counts. An owner's key is the one of their first signed
//! registration in a tenant, until an operator replaces or removes it. From then on what is registered in the owner's name,
//! replaced or taken off is so by that key alone. A signed registration that was replaced, or taken off by its owner's
//! signature, is *retired*: it is not taken again, so that nobody who kept it brings back what its owner withdrew. One
//! that lapsed may come back: an agent that has no key at hand starts again with the registration it was given.
//!
//! Who is owner without a key is nobody's business here, nor is who may say so: that is for tokens.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::State;
use super::checkpoint::RestoreError;
use super::touched::{TableDelta, Touched};
use crate::command::{Outcome, Refusal};
use crate::digest::{self, RowSum};
use crate::ids::{NAME_BYTES_MAX, TenantId, WallTime, check_name};
use crate::index::Slot;
use crate::registration::{RegistrationView, UnknownWord};

/// Owners with a key, over all tenants. With all that each may have retired they stay below 128 MiB.
pub const OWNER_KEYS_MAX: usize = 100_000;

/// As [`OWNER_KEYS_MAX`], of one tenant: one that runs full leaves room for others.
pub const TENANT_OWNER_KEYS_MAX: usize = 50_000;

/// Tenants that may take signatures otherwise than the nodes are configured to.
pub const SIGNATURE_MODES_MAX: usize = 4_096;

/// Retired registrations that are remembered of one owner; beyond it the oldest is forgotten.
pub const RETIRED_MAX: usize = 64;

/// How a tenant takes signatures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SignatureMode {
    /// They are carried, and mean nothing.
    Off,
    /// One that is there must be right, and whose owner has a key must sign.
    #[default]
    Accepted,
    /// Whoever registers must sign.
    Required,
}

impl SignatureMode {
    pub const ALL: &[Self] = &[Self::Off, Self::Accepted, Self::Required];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Accepted => "accepted",
            Self::Required => "required",
        }
    }
}

impl FromStr for SignatureMode {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let known = Self::ALL.iter().copied().find(|mode| mode.as_str() == text);
        known.ok_or(UnknownWord { known: &["off", "accepted", "required"] })
    }
}

impl fmt::Display for SignatureMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An Ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OwnerKey(pub [u8; 32]);

/// How a write is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signing {
    /// What holds for tenants that say nothing of their own.
    pub mode: SignatureMode,
    /// Whose signature the edge verified: over the registration, or over taking off the instance with the lease named.
    pub key: Option<OwnerKey>,
}

/// An owner with their key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedKey {
    pub tenant: TenantId,
    pub owner: Box<str>,
    pub key: OwnerKey,
    /// When it came, by itself or by an operator.
    pub pinned_at: WallTime,
    /// Hashes of retired registrations, the newest last.
    pub retired: Vec<u128>,
}

impl PinnedKey {
    fn outcome(&self) -> Outcome {
        Outcome::OwnerKey { key: self.key, pinned_at: self.pinned_at }
    }
}

/// A row of the table. Variants are only ever added at the end: the position is the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignatureRow {
    Mode { tenant: TenantId, mode: SignatureMode },
    Key(Arc<PinnedKey>),
}

/// What names a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignatureKey {
    Mode(TenantId),
    Owner(TenantId, Box<str>),
}

impl SignatureRow {
    pub fn key(&self) -> SignatureKey {
        match self {
            Self::Mode { tenant, .. } => SignatureKey::Mode(tenant.clone()),
            Self::Key(pinned) => SignatureKey::Owner(pinned.tenant.clone(), pinned.owner.clone()),
        }
    }
}

/// What operators ask of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignatureCommand {
    /// None: as the nodes are configured.
    SetMode {
        tenant: TenantId,
        mode: Option<SignatureMode>,
    },
    PutKey {
        tenant: TenantId,
        owner: Box<str>,
        key: OwnerKey,
    },
    RemoveKey {
        tenant: TenantId,
        owner: Box<str>,
    },
}

/// Why a write is not taken for what its signature says, or for the lack of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SignatureRefusal {
    #[error("this tenant takes signed registrations only")]
    Required,
    #[error("the owner has a key: what is done in the owner's name has to be signed by it")]
    OwnerSigns,
    #[error("the owner has another key")]
    OtherKey,
    #[error("the instance is another owner's, who has a key")]
    OtherOwner,
    #[error("this registration was replaced or taken off by its owner; sign one that differs from it")]
    Replayed,
    #[error("how this tenant takes signatures was changed meanwhile; send it again")]
    Unverified,
    #[error("a signed registration must name its owner, in at most {NAME_BYTES_MAX} bytes")]
    OwnerMissing,
    #[error("there are {max} owners with keys already; an operator has to remove some")]
    TooManyOwners { max: u32 },
    #[error("there are {max} tenants with a mode of their own already")]
    TooManyModes { max: u32 },
    #[error("the owner has no key")]
    NoKey,
}

pub type SignaturesDelta = TableDelta<SignatureKey, SignatureRow>;

#[derive(Debug, Default)]
pub(super) struct Signatures {
    modes: BTreeMap<TenantId, SignatureMode>,
    keys: BTreeMap<TenantId, BTreeMap<Box<str>, Arc<PinnedKey>>>,
    /// Keys of all tenants.
    count: usize,
    touched: Touched<SignatureKey>,
}

impl Signatures {
    fn row(&self, key: &SignatureKey) -> Option<SignatureRow> {
        match key {
            SignatureKey::Mode(tenant) => {
                self.modes.get(tenant).map(|mode| SignatureRow::Mode { tenant: tenant.clone(), mode: *mode })
            }
            SignatureKey::Owner(tenant, owner) => {
                self.keys.get(tenant)?.get(owner).map(|pinned| SignatureRow::Key(pinned.clone()))
            }
        }
    }

    fn rows(&self) -> impl Iterator<Item = SignatureRow> {
        let mode =
            |(tenant, mode): (&TenantId, &SignatureMode)| SignatureRow::Mode { tenant: tenant.clone(), mode: *mode };
        let keys = self.keys.values().flat_map(BTreeMap::values).map(|pinned| SignatureRow::Key(pinned.clone()));
        self.modes.iter().map(mode).chain(keys)
    }

    pub(super) fn take_delta(&mut self) -> SignaturesDelta {
        let mut touched = std::mem::take(&mut self.touched);
        let delta = touched.take(|key| self.row(key));
        self.touched = touched;
        delta
    }

    fn put(&mut self, row: SignatureRow, rows: &mut RowSum) {
        self.remove(&row.key(), rows);
        rows.add(digest::of_signature_row(&row));
        self.touched.touch(row.key());
        match row {
            SignatureRow::Mode { tenant, mode } => {
                self.modes.insert(tenant, mode);
            }
            SignatureRow::Key(pinned) => {
                self.count += 1;
                let of_tenant = self.keys.entry(pinned.tenant.clone()).or_default();
                of_tenant.insert(pinned.owner.clone(), pinned);
            }
        }
    }

    fn remove(&mut self, key: &SignatureKey, rows: &mut RowSum) -> Option<SignatureRow> {
        let row = self.row(key)?;
        rows.remove(digest::of_signature_row(&row));
        self.touched.touch(key.clone());
        match key {
            SignatureKey::Mode(tenant) => drop(self.modes.remove(tenant)),
            SignatureKey::Owner(tenant, owner) => {
                self.count -= 1;
                let of_tenant = self.keys.get_mut(tenant)?;
                of_tenant.remove(owner);
                if of_tenant.is_empty() {
                    self.keys.remove(tenant);
                }
            }
        }
        Some(row)
    }

    /// # Panics
    /// When the table contradicts itself.
    pub(super) fn assert_consistent(&self, rows: &mut RowSum) {
        self.rows().for_each(|row| rows.add(digest::of_signature_row(&row)));
        let count: usize = self.keys.values().map(BTreeMap::len).sum();
        assert_eq!(count, self.count, "the number of owners' keys strayed");
        for (tenant, keys) in &self.keys {
            assert!(!keys.is_empty(), "tenant {tenant} is kept without owners' keys");
            for (owner, pinned) in keys {
                assert_eq!((tenant, owner), (&pinned.tenant, &pinned.owner), "a key stands under another's name");
                assert!(pinned.retired.len() <= RETIRED_MAX, "{owner} of {tenant} retired more than is remembered");
            }
        }
    }
}

/// What a signed registration is remembered by: the bytes that were signed.
fn retired(document: &str) -> u128 {
    xxh3_128(document.as_bytes())
}

impl State {
    /// How a tenant takes signatures, if it says so itself.
    pub fn signature_mode(&self, tenant: &TenantId) -> Option<SignatureMode> {
        self.signatures.modes.get(tenant).copied()
    }

    pub fn owner_key(&self, tenant: &TenantId, owner: &str) -> Option<&Arc<PinnedKey>> {
        self.signatures.keys.get(tenant)?.get(owner)
    }

    /// A tenant's owners with keys, by name, those after `after`.
    pub fn owner_keys<'a>(&'a self, tenant: &TenantId, after: &'a str) -> impl Iterator<Item = &'a Arc<PinnedKey>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let of_tenant = self.signatures.keys.get(tenant).into_iter();
        of_tenant.flat_map(move |keys| keys.range::<str, _>((Excluded(after), Unbounded))).map(|(_, pinned)| pinned)
    }

    /// Owners with keys, of all tenants.
    pub fn owner_key_count(&self) -> usize {
        self.signatures.count
    }

    /// Whether a registration may be made, as it is signed. One without [`Signing`] comes from an edge that knows none: it
    /// is as one that is not signed.
    pub(super) fn check_signed_registration(
        &self,
        tenant: &TenantId,
        registration: &RegistrationView<'_>,
        slot: Option<Slot>,
        signing: Option<Signing>,
    ) -> Result<(), SignatureRefusal> {
        let mode = self.mode(tenant, signing);
        if mode == SignatureMode::Off {
            return Ok(());
        }
        let before = slot.and_then(|slot| self.instance(slot).registration().owner);
        if before.is_some_and(|before| registration.owner != Some(before) && self.owner_key(tenant, before).is_some())
        {
            return Err(SignatureRefusal::OtherOwner);
        }
        let pinned = registration.owner.and_then(|owner| self.owner_key(tenant, owner));
        match (signing.and_then(|signing| signing.key), pinned) {
            (None, _) if signing.is_some() && registration.extras.signature.is_some() => {
                Err(SignatureRefusal::Unverified)
            }
            (None, Some(_)) => Err(SignatureRefusal::OwnerSigns),
            (None, None) if mode == SignatureMode::Required => Err(SignatureRefusal::Required),
            (None, None) => Ok(()),
            (Some(key), Some(pinned)) if pinned.key != key => Err(SignatureRefusal::OtherKey),
            (Some(_), Some(pinned)) => match registration.signed_document().map(retired) {
                Some(document) if pinned.retired.contains(&document) => Err(SignatureRefusal::Replayed),
                _ => Ok(()),
            },
            (Some(_), None) => match registration.owner {
                Some(owner) => self.check_room_for_key(tenant, owner),
                None => Err(SignatureRefusal::OwnerMissing),
            },
        }
    }

    /// Whether an instance may be taken off, as that is signed.
    pub(super) fn check_signed_removal(&self, slot: Slot, signing: Option<Signing>) -> Result<(), SignatureRefusal> {
        let instance = self.instance(slot);
        if self.mode(&instance.tenant, signing) == SignatureMode::Off {
            return Ok(());
        }
        let owner = instance.registration().owner;
        let Some(pinned) = owner.and_then(|owner| self.owner_key(&instance.tenant, owner)) else { return Ok(()) };
        match signing.and_then(|signing| signing.key) {
            None => Err(SignatureRefusal::OwnerSigns),
            Some(key) if key != pinned.key => Err(SignatureRefusal::OtherKey),
            Some(_) => Ok(()),
        }
    }

    fn mode(&self, tenant: &TenantId, signing: Option<Signing>) -> SignatureMode {
        self.signature_mode(tenant).or(signing.map(|signing| signing.mode)).unwrap_or_default()
    }

    fn check_room_for_key(&self, tenant: &TenantId, owner: &str) -> Result<(), SignatureRefusal> {
        check_name(owner, NAME_BYTES_MAX).map_err(|_| SignatureRefusal::OwnerMissing)?;
        let own = self.signatures.keys.get(tenant).map_or(0, BTreeMap::len);
        let full = |max: usize| SignatureRefusal::TooManyOwners { max: u32::try_from(max).unwrap_or(u32::MAX) };
        if own >= TENANT_OWNER_KEYS_MAX {
            Err(full(TENANT_OWNER_KEYS_MAX))
        } else if self.signatures.count >= OWNER_KEYS_MAX {
            Err(full(OWNER_KEYS_MAX))
        } else {
            Ok(())
        }
    }

    /// Remembers whose key signed a registration that was made, if the owner had none.
    pub(super) fn pin(&mut self, tenant: &TenantId, owner: Option<&str>, signing: Option<Signing>) {
        let Some((owner, key)) = owner.zip(signing.and_then(|signing| signing.key)) else { return };
        if self.mode(tenant, signing) != SignatureMode::Off && self.owner_key(tenant, owner).is_none() {
            self.put_key(tenant, owner, key, Vec::new());
        }
    }

    fn put_key(&mut self, tenant: &TenantId, owner: &str, key: OwnerKey, retired: Vec<u128>) -> Arc<PinnedKey> {
        let tenant = self.known_tenant(tenant.clone());
        let pinned = Arc::new(PinnedKey { tenant, owner: owner.into(), key, pinned_at: self.wall, retired });
        self.signatures.put(SignatureRow::Key(pinned.clone()), &mut self.rows);
        pinned
    }

    /// Remembers that what stands at a slot is withdrawn, if it is signed; `by` is what is signed in its place.
    pub(super) fn retire(&mut self, slot: Slot, by: Option<&str>) {
        let instance = self.instance(slot).clone();
        let registration = instance.registration();
        let Some((document, owner)) = registration.signed_document().zip(registration.owner) else { return };
        let Some(pinned) = self.owner_key(&instance.tenant, owner).filter(|_| by != Some(document)) else { return };
        let mut pinned = PinnedKey::clone(pinned);
        let document = retired(document);
        pinned.retired.retain(|known| *known != document);
        if pinned.retired.len() == RETIRED_MAX {
            pinned.retired.remove(0);
        }
        pinned.retired.push(document);
        self.signatures.put(SignatureRow::Key(Arc::new(pinned)), &mut self.rows);
    }

    pub(super) fn change_signatures(&mut self, command: &SignatureCommand) -> Result<Outcome, Refusal> {
        match command {
            SignatureCommand::SetMode { tenant, mode } => {
                let key = SignatureKey::Mode(tenant.clone());
                let Some(mode) = mode else {
                    self.signatures.remove(&key, &mut self.rows);
                    return Ok(Outcome::SignatureMode(None));
                };
                if self.signature_mode(tenant).is_none() && self.signatures.modes.len() >= SIGNATURE_MODES_MAX {
                    return Err(SignatureRefusal::TooManyModes { max: SIGNATURE_MODES_MAX as u32 }.into());
                }
                let row = SignatureRow::Mode { tenant: self.known_tenant(tenant.clone()), mode: *mode };
                self.signatures.put(row, &mut self.rows);
                Ok(Outcome::SignatureMode(Some(*mode)))
            }
            SignatureCommand::PutKey { tenant, owner, key } => {
                let retired = match self.owner_key(tenant, owner) {
                    Some(pinned) if pinned.key == *key => return Ok(pinned.outcome()),
                    Some(pinned) => pinned.retired.clone(),
                    None => {
                        self.check_room_for_key(tenant, owner)?;
                        Vec::new()
                    }
                };
                Ok(self.put_key(tenant, owner, *key, retired).outcome())
            }
            SignatureCommand::RemoveKey { tenant, owner } => {
                let key = SignatureKey::Owner(tenant.clone(), owner.clone());
                match self.signatures.remove(&key, &mut self.rows) {
                    Some(SignatureRow::Key(pinned)) => Ok(pinned.outcome()),
                    Some(SignatureRow::Mode { .. }) | None => Err(SignatureRefusal::NoKey.into()),
                }
            }
        }
    }

    /// A row that is in the checkpoint.
    pub(super) fn restore_signature(&mut self, row: SignatureRow) -> Result<(), RestoreError> {
        let key = row.key();
        let fault = match &row {
            _ if self.signatures.touched.is_kept(&key) => Some("it has two rows"),
            SignatureRow::Mode { .. } if self.signatures.modes.len() >= SIGNATURE_MODES_MAX => {
                Some("there are too many")
            }
            SignatureRow::Key(pinned) if self.check_room_for_key(&pinned.tenant, &pinned.owner).is_err() => {
                Some("there are too many, or its owner cannot be")
            }
            SignatureRow::Key(pinned) if pinned.retired.len() > RETIRED_MAX => Some("it remembers too much"),
            SignatureRow::Key(pinned) if pinned.pinned_at > self.wall => Some("it came later than now"),
            SignatureRow::Mode { .. } | SignatureRow::Key(_) => None,
        };
        if let Some(fault) = fault {
            return Err(RestoreError::Signature { key, fault });
        }
        self.signatures.put(row, &mut self.rows);
        self.signatures.touched.restored(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterTime, Command, Condition, InstanceId, Options, Proposal, Registration, ServiceName, Term};

    fn apply(state: &mut State, document: usize) -> Outcome {
        let mut registration = Registration {
            owner: Some("ann".into()),
            ..Registration::new(
                InstanceId::parse("a").unwrap(),
                ServiceName::parse("web").unwrap(),
                "http://a",
                1_000,
            )
        };
        registration.extras.keep_signed(&document.to_string());
        let command = Command::RegisterSigned {
            tenant: TenantId::parse("t").unwrap(),
            registration: registration.pack(),
            condition: Condition::None,
            signing: Signing { mode: SignatureMode::Accepted, key: Some(OwnerKey([1; 32])) },
        };
        let proposal =
            Proposal { stamp: ClusterTime(0), wall: WallTime(0), commands: vec![command], once: Vec::new() };
        state.apply(Term(1), &proposal).remove(0)
    }

    #[test]
    fn what_was_retired_longest_ago_is_forgotten_first() {
        let mut state = State::new(Options::default());
        // Each but the last is retired, and the first is forgotten for it.
        let documents = RETIRED_MAX + 2;
        for document in 0..documents {
            assert!(matches!(apply(&mut state, document), Outcome::Registered(_)), "{document}");
        }
        state.assert_consistent();
        for document in 1..documents - 1 {
            let refused = Outcome::Refused(SignatureRefusal::Replayed.into());
            assert_eq!(apply(&mut state, document), refused, "{document}");
        }
        assert!(matches!(apply(&mut state, 0), Outcome::Registered(_)));
    }
}
