//! What signatures mean, by plain lists.

use std::collections::BTreeMap;

use rollcall_registry::{
    Outcome, OwnerKey, Refusal, Registration, SignatureCommand, SignatureMode, SignatureRefusal, Signing, State,
    TenantId, WallTime,
};

use crate::model::{Entry, Key, Model};
use crate::random::{OWNERS, Random};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) key: OwnerKey,
    pub(crate) pinned_at: WallTime,
    /// What was signed and withdrawn, itself.
    pub(crate) retired: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Signatures {
    pub(crate) modes: BTreeMap<TenantId, SignatureMode>,
    pub(crate) owners: BTreeMap<(TenantId, String), Owner>,
}

fn document(registration: &Registration) -> Option<String> {
    Some(registration.extras.document.as_ref()?.strip_prefix("signed:")?.to_owned())
}

impl Signatures {
    fn owner(&self, tenant: &TenantId, owner: Option<&str>) -> Option<&Owner> {
        self.owners.get(&(tenant.clone(), owner?.to_owned()))
    }

    fn mode(&self, tenant: &TenantId, signing: Option<Signing>) -> SignatureMode {
        let default = signing.map_or(SignatureMode::Accepted, |signing| signing.mode);
        self.modes.get(tenant).copied().unwrap_or(default)
    }

    pub(crate) fn may_register(
        &self,
        tenant: &TenantId,
        new: &Registration,
        before: Option<&Entry>,
        signing: Option<Signing>,
    ) -> Result<(), SignatureRefusal> {
        let mode = self.mode(tenant, signing);
        if mode == SignatureMode::Off {
            return Ok(());
        }
        let holder = before.and_then(|before| before.registration.owner.as_deref());
        if holder != new.owner.as_deref() && self.owner(tenant, holder).is_some() {
            return Err(SignatureRefusal::OtherOwner);
        }
        let owner = self.owner(tenant, new.owner.as_deref());
        let Some(key) = signing.and_then(|signing| signing.key) else {
            return if signing.is_some() && new.extras.signature.is_some() {
                Err(SignatureRefusal::Unverified)
            } else if owner.is_some() {
                Err(SignatureRefusal::OwnerSigns)
            } else if mode == SignatureMode::Required {
                Err(SignatureRefusal::Required)
            } else {
                Ok(())
            };
        };
        match owner {
            _ if new.owner.is_none() => Err(SignatureRefusal::OwnerMissing),
            Some(owner) if owner.key != key => Err(SignatureRefusal::OtherKey),
            Some(owner) if document(new).is_some_and(|new| owner.retired.contains(&new)) => {
                Err(SignatureRefusal::Replayed)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn may_remove(
        &self,
        tenant: &TenantId,
        entry: &Entry,
        signing: Option<Signing>,
    ) -> Result<(), SignatureRefusal> {
        let owner = self.owner(tenant, entry.registration.owner.as_deref());
        let key = signing.and_then(|signing| signing.key);
        match (owner, key) {
            _ if self.mode(tenant, signing) == SignatureMode::Off => Ok(()),
            (Some(_), None) => Err(SignatureRefusal::OwnerSigns),
            (Some(owner), Some(key)) if owner.key != key => Err(SignatureRefusal::OtherKey),
            _ => Ok(()),
        }
    }

    /// A registration took place.
    pub(crate) fn registered(
        &mut self,
        tenant: &TenantId,
        new: &Registration,
        signing: Option<Signing>,
        at: WallTime,
    ) {
        if self.mode(tenant, signing) != SignatureMode::Off
            && let (Some(owner), Some(key)) = (&new.owner, signing.and_then(|signing| signing.key))
        {
            let fresh = Owner { key, pinned_at: at, retired: Vec::new() };
            self.owners.entry((tenant.clone(), owner.to_string())).or_insert(fresh);
        }
    }

    /// A registration was replaced, or taken off by signature.
    pub(crate) fn withdrawn(&mut self, tenant: &TenantId, old: &Registration, by: Option<&Registration>) {
        let (Some(owner), Some(withdrawn)) = (&old.owner, document(old)) else { return };
        if by.and_then(document).as_ref() != Some(&withdrawn)
            && let Some(owner) = self.owners.get_mut(&(tenant.clone(), owner.to_string()))
        {
            owner.retired.retain(|known| *known != withdrawn);
            owner.retired.push(withdrawn);
        }
    }

    pub(crate) fn compare(&self, state: &State) {
        assert_eq!(state.owner_key_count(), self.owners.len());
        for ((tenant, name), owner) in &self.owners {
            let pinned = state.owner_key(tenant, name).expect("the model has the owner's key");
            assert_eq!((pinned.key, pinned.pinned_at), (owner.key, owner.pinned_at));
            assert_eq!(pinned.retired.len(), owner.retired.len(), "{name} of {tenant} retired {:?}", owner.retired);
        }
        for tenant in ["red", "blue"].map(|tenant| TenantId::parse(tenant).expect("a plain name")) {
            assert_eq!(state.signature_mode(&tenant), self.modes.get(&tenant).copied());
        }
    }

    fn command(&mut self, command: &SignatureCommand, wall: WallTime) -> Result<Outcome, SignatureRefusal> {
        Ok(match command {
            SignatureCommand::SetMode { tenant, mode } => {
                match mode {
                    Some(mode) => self.modes.insert(tenant.clone(), *mode),
                    None => self.modes.remove(tenant),
                };
                Outcome::SignatureMode(*mode)
            }
            SignatureCommand::PutKey { tenant, owner, key } => {
                let at = (tenant.clone(), owner.to_string());
                let retired = self.owners.get(&at).map_or(Vec::new(), |owner| owner.retired.clone());
                let pinned_at = self.owners.get(&at).filter(|owner| owner.key == *key).map(|owner| owner.pinned_at);
                let pinned_at = pinned_at.unwrap_or(wall);
                self.owners.insert(at, Owner { key: *key, pinned_at, retired });
                Outcome::OwnerKey { key: *key, pinned_at }
            }
            SignatureCommand::RemoveKey { tenant, owner } => {
                let owner = self.owners.remove(&(tenant.clone(), owner.to_string()));
                let Owner { key, pinned_at, .. } = owner.ok_or(SignatureRefusal::NoKey)?;
                Outcome::OwnerKey { key, pinned_at }
            }
        })
    }
}

impl Model {
    pub(crate) fn change_signatures(&mut self, command: &SignatureCommand) -> Result<Outcome, Refusal> {
        Ok(self.signatures.command(command, self.wall)?)
    }

    pub(crate) fn holder(&self, key: &Key) -> Option<&Entry> {
        self.roll.get(key)
    }
}

fn key(random: &mut Random) -> OwnerKey {
    OwnerKey([random.pick(b"ab"); 32])
}

pub(crate) fn signing(random: &mut Random) -> Signing {
    let mode =
        random.pick(&[SignatureMode::Accepted, SignatureMode::Accepted, SignatureMode::Off, SignatureMode::Required]);
    Signing { mode, key: (!random.once_in(3)).then(|| key(random)) }
}

pub(crate) fn command(random: &mut Random, tenant: TenantId) -> SignatureCommand {
    let owner = random.pick(OWNERS).into();
    match random.below(6) {
        0 => SignatureCommand::PutKey { tenant, owner, key: key(random) },
        1 | 2 => SignatureCommand::RemoveKey { tenant, owner },
        _ => {
            let mode = random.pick(&[
                None,
                None,
                Some(SignatureMode::Off),
                Some(SignatureMode::Accepted),
                Some(SignatureMode::Required),
            ]);
            SignatureCommand::SetMode { tenant, mode }
        }
    }
}
