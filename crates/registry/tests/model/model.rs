//! What the state machine means, without any of what makes it fast: one map, searched from end to end, and a whole
//! copy of it for every revision.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use rollcall_registry::{
    AccessToken, AccessTokenId, Actor, Admission, Beaten, ChangeKind, ClusterTime, Command, Compatibility, Condition,
    Defined, Definition, DefinitionChange, DefinitionContent, DefinitionKey, DefinitionName, DefinitionRefusal,
    Edition, Instance, InstanceId, JoinToken, JoinTokenCommand, JoinTokenId, JoinTokenRefusal, LeaseId, LeaseSet,
    MetadataValue, Observed, Orders, Outcome, PackedRegistration, Pair, Power, Presence, PrincipalId, Proposal,
    Ranking, Refusal, Registered, Registration, Revision, Signing, Sort, Status, TenantId, Term, WallTime, Write,
};

use crate::access;
use crate::protection::Protections;
use crate::rulings::{self, Rulings};
use crate::signatures::Signatures;
use crate::wish::Wish;

const SUPERSEDED_MAX: usize = 16;

pub(crate) type Key = (TenantId, InstanceId);
pub(crate) type Roll = BTreeMap<Key, Entry>;

/// A metadata value, and whether it is JSON.
pub(crate) type Value = (String, bool);

fn owned((key, value): Pair<'_>) -> (String, Value) {
    let value = match value {
        MetadataValue::Text(text) => (text.to_owned(), false),
        MetadataValue::Json(json) => (json.to_owned(), true),
    };
    (key.to_owned(), value)
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) registration: Registration,
    pub(crate) reported: BTreeMap<String, Value>,
    pub(crate) status: Status,
    pub(crate) presence: Presence,
    pub(crate) lease: LeaseId,
    pub(crate) revision: Revision,
    pub(crate) created: Revision,
    pub(crate) registered_at: WallTime,
    pub(crate) superseded: Vec<LeaseId>,
    pub(crate) registered_by: Option<PrincipalId>,
    pub(crate) orders: Orders,
    pub(crate) observed: Option<Observed>,
}

impl Entry {
    pub(crate) fn shown_status(&self) -> Status {
        rulings::shown_status(self)
    }

    pub(crate) fn metadata(&self) -> BTreeMap<String, Value> {
        let mut all: BTreeMap<_, _> = self.registration.metadata.pairs().map(owned).collect();
        all.extend(self.reported.clone());
        all
    }

    pub(crate) fn is(&self, instance: &Instance) -> bool {
        let metadata: Vec<_> = instance.metadata().map(owned).collect();
        self.registration == instance.registration().to_registration()
            && self.metadata().into_iter().eq(metadata)
            && self.status == instance.reported_status
            && self.shown_status() == instance.status()
            && self.presence == instance.presence
            && self.lease == instance.lease
            && self.revision == instance.revision
            && self.created == instance.created_revision
            && self.registered_at == instance.registered_at
            && self.superseded == instance.seldom.superseded()
            && self.registered_by.as_ref() == instance.seldom.registered_by()
            && self.orders == *instance.seldom.orders()
            && self.observed == instance.seldom.observed()
    }
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) now: ClusterTime,
    pub(crate) wall: WallTime,
    pub(crate) roll: Roll,
    pub(crate) deadlines: BTreeMap<Key, ClusterTime>,
    pub(crate) definitions: Vec<Definition>,
    /// Changes of definitions.
    pub(crate) edition: Edition,
    /// What changed at revision `n + 1`, and the roll before it.
    pub(crate) past: Vec<(ChangeKind, Key, Roll)>,
    pub(crate) join_tokens: BTreeMap<JoinTokenId, JoinToken>,
    pub(crate) access_tokens: BTreeMap<AccessTokenId, AccessToken>,
    pub(crate) rulings: Rulings,
    pub(crate) protections: Protections,
    pub(crate) signatures: Signatures,
}

impl Model {
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.past.len() as u64)
    }

    /// The roll as it stood at a revision.
    pub(crate) fn at(&self, revision: Revision) -> &Roll {
        self.past.get(revision.0 as usize).map_or(&self.roll, |(_, _, roll)| roll)
    }

    pub(crate) fn apply(&mut self, term: Term, proposal: &Proposal) -> Vec<Outcome> {
        self.now = self.now.max(proposal.stamp);
        self.wall = self.wall.max(proposal.wall);
        let outcome = |command| self.command(term, command).unwrap_or_else(Outcome::Refused);
        proposal.commands.iter().map(outcome).collect()
    }

    fn command(&mut self, term: Term, command: &Command) -> Result<Outcome, Refusal> {
        match command {
            Command::By { actor, tenant, write } => self.write(Some(actor), tenant, write),
            Command::Register { tenant, registration, condition } => {
                let (registration, condition) = (registration.clone(), *condition);
                self.write(None, tenant, &Write::Register { registration, condition })
            }
            Command::RegisterSigned { tenant, registration, condition, signing } => {
                let (registration, condition, signing) = (registration.clone(), *condition, *signing);
                self.write(None, tenant, &Write::RegisterSigned { registration, condition, signing })
            }
            Command::Renew { tenant, leases } => self.write(None, tenant, &Write::Renew { leases: leases.clone() }),
            Command::Beat { tenant, id, lease, status, metadata } => {
                let (id, metadata) = (id.clone(), metadata.clone());
                self.write(None, tenant, &Write::Beat { id, lease: *lease, status: *status, metadata })
            }
            Command::Deregister { tenant, id, lease, condition } => {
                let (id, lease, condition) = (id.clone(), *lease, *condition);
                self.write(None, tenant, &Write::Deregister { id, lease, condition })
            }
            Command::DeregisterSigned { tenant, id, lease, condition, signing } => {
                let (id, lease, condition, signing) = (id.clone(), *lease, *condition, *signing);
                self.write(None, tenant, &Write::DeregisterSigned { id, lease, condition, signing })
            }
            Command::Signatures(command) => self.change_signatures(command),
            Command::Federation(_) => unreachable!("other clusters have a test of their own"),
            Command::AccessToken(command) => match access::apply(self, command) {
                Ok(None) => Ok(Outcome::Noted),
                Ok(Some(token)) => Ok(Outcome::AccessToken(Box::new(token))),
                Err(refusal) => Err(Refusal::AccessToken(refusal)),
            },
            Command::Expire { term: proposed, up_to, limit } => {
                if *proposed != term {
                    return Err(Refusal::StaleTerm { proposed: *proposed, entry: term });
                }
                Ok(self.expire(*up_to, *limit))
            }
            Command::JoinToken(command) => {
                let token = self.join_token(command).map_err(Refusal::JoinToken)?;
                Ok(Outcome::JoinToken(Box::new(token)))
            }
            Command::Define { tenant, change } => {
                self.define(tenant, change).map(Outcome::Defined).map_err(Refusal::Definition)
            }
            Command::Rule { tenant, change } => self.rule(tenant, change),
            Command::Observe { tenant, id, lease, verdict } => self.observe(tenant, id, *lease, Some(*verdict)),
            Command::Unchecked { tenant, id, lease } => self.observe(tenant, id, *lease, None),
        }
    }

    fn write(&mut self, by: Option<&Actor>, tenant: &TenantId, write: &Write) -> Result<Outcome, Refusal> {
        match write {
            Write::Register { registration, condition } => {
                self.register_signed(tenant, registration, *condition, by, None)
            }
            Write::RegisterSigned { registration, condition, signing } => {
                self.register_signed(tenant, registration, *condition, by, Some(*signing))
            }
            Write::Renew { leases } => Ok(self.renew_all(tenant, leases, by)),
            Write::Beat { id, lease, status, metadata } => {
                let key = (tenant.clone(), id.clone());
                let before = self.roll.get(&key).ok_or(Refusal::LeaseNotFound)?.clone();
                check_lease(&before, *lease)?;
                check_actor(&before, by)?;
                let mut after = Entry { presence: Presence::Present, ..before.clone() };
                after.status = status.unwrap_or(before.status);
                let shown = before.metadata();
                let mut metadata_changed = false;
                for (name, value) in metadata.iter().flat_map(|patch| patch.pairs()).map(owned) {
                    metadata_changed |= shown.get(&name) != Some(&value);
                    after.reported.insert(name, value);
                }
                if metadata_changed {
                    self.check_quota(&key, rulings::bytes(&after))?;
                    self.change_within(&key, &before, after);
                } else if after.status != before.status {
                    after.reported.clone_from(&before.reported);
                    self.change_within(&key, &before, after);
                }
                self.renew(&key);
                let entry = &self.roll[&key];
                let ttl_ms = entry.registration.ttl_ms;
                Ok(Outcome::Beaten(Beaten { lease: entry.lease, ttl_ms, revision: entry.revision }))
            }
            Write::Deregister { id, lease, condition } => {
                self.deregister((tenant.clone(), id.clone()), *lease, *condition, by, None)
            }
            Write::DeregisterSigned { id, lease, condition, signing } => {
                self.deregister((tenant.clone(), id.clone()), *lease, *condition, by, Some(*signing))
            }
        }
    }

    fn register_signed(
        &mut self,
        tenant: &TenantId,
        registration: &PackedRegistration,
        condition: Condition,
        by: Option<&Actor>,
        signing: Option<Signing>,
    ) -> Result<Outcome, Refusal> {
        let registration = registration.view().to_registration();
        let key = (tenant.clone(), registration.id.clone());
        let before = self.holder(&key).cloned();
        self.signatures.may_register(tenant, &registration, before.as_ref(), signing)?;
        self.check(&key, condition)?;
        if let Some(before) = &before {
            check_actor(before, by)?;
        }
        self.check_quota(&key, rulings::registered_bytes(&registration))?;
        let registered = self.register(key.clone(), registration.clone(), condition == Condition::Anew, by);
        if let Some(before) = before.filter(|before| before.lease != registered.lease) {
            self.signatures.withdrawn(tenant, &before.registration, Some(&registration));
        }
        self.signatures.registered(tenant, &registration, signing, self.wall);
        Ok(Outcome::Registered(registered))
    }

    fn deregister(
        &mut self,
        key: Key,
        lease: Option<LeaseId>,
        condition: Condition,
        by: Option<&Actor>,
        signing: Option<Signing>,
    ) -> Result<Outcome, Refusal> {
        self.check(&key, condition)?;
        let entry = self.holder(&key).ok_or(Refusal::NotRegistered)?.clone();
        self.signatures.may_remove(&key.0, &entry, signing)?;
        check_lease(&entry, lease)?;
        check_actor(&entry, by)?;
        if signing.is_some_and(|signing| signing.key.is_some()) {
            self.signatures.withdrawn(&key.0, &entry.registration, None);
        }
        self.remove(&key, ChangeKind::Deregistered);
        Ok(Outcome::Deregistered { revision: self.revision() })
    }

    fn join_token(&mut self, command: &JoinTokenCommand) -> Result<JoinToken, JoinTokenRefusal> {
        let (now, tokens) = (self.now, &mut self.join_tokens);
        match command {
            JoinTokenCommand::Create { ttl_ms: 0, .. } | JoinTokenCommand::Create { uses_max: Some(0), .. } => {
                Err(JoinTokenRefusal::OutOfBounds)
            }
            JoinTokenCommand::Create { id, secret, learners_only, ttl_ms, uses_max } => {
                tokens.retain(|_, token| token.expires_at > now);
                let token = JoinToken {
                    id: *id,
                    secret: *secret,
                    learners_only: *learners_only,
                    expires_at: ClusterTime(now.0 + ttl_ms),
                    uses_max: *uses_max,
                    uses: 0,
                    admitted: Vec::new(),
                    created_at: self.wall,
                };
                if tokens.contains_key(id) {
                    return Err(JoinTokenRefusal::Exists);
                }
                tokens.insert(*id, token.clone());
                Ok(token)
            }
            JoinTokenCommand::Revoke { id } => tokens.remove(id).ok_or(JoinTokenRefusal::Unknown),
            JoinTokenCommand::Spend(Admission { id, secret, address, learner }) => {
                let token = tokens.get_mut(id).ok_or(JoinTokenRefusal::Unknown)?;
                let again = token.admitted.contains(address);
                if token.secret != *secret {
                    Err(JoinTokenRefusal::Unknown)
                } else if now >= token.expires_at {
                    Err(JoinTokenRefusal::Expired)
                } else if token.learners_only && !learner {
                    Err(JoinTokenRefusal::LearnersOnly)
                } else if let Some(uses_max) = token.uses_max {
                    match (again, token.uses == uses_max) {
                        (false, true) => return Err(JoinTokenRefusal::UsedUp { uses_max }),
                        (false, false) => {
                            token.uses += 1;
                            token.admitted.push(address.clone());
                        }
                        (true, _) => {}
                    }
                    Ok(token.clone())
                } else {
                    token.uses += 1;
                    Ok(token.clone())
                }
            }
        }
    }

    fn define(&mut self, tenant: &TenantId, change: &DefinitionChange) -> Result<Defined, DefinitionRefusal> {
        let own = || self.definitions.iter().filter(|definition| definition.tenant == *tenant);
        let of_name = |name: &DefinitionName| {
            let name = name.clone();
            own().filter(move |definition| match &definition.content {
                DefinitionContent::Schema(schema) => schema.name == name,
                _ => false,
            })
        };
        let (key, content) = match change {
            DefinitionChange::Event(event) => {
                (DefinitionKey::Event(event.name.clone()), Some(DefinitionContent::Event(event.clone())))
            }
            DefinitionChange::Schema { schema, compared } => {
                let (name, version) = (schema.name.clone(), schema.version.clone());
                let key = DefinitionKey::Schema(name.clone(), version);
                if let Some(before) = own().find(|definition| definition.content.key() == key) {
                    return Err(DefinitionRefusal::Exists { edition: before.edition });
                }
                let rule = own().find_map(|definition| match &definition.content {
                    DefinitionContent::Compatibility { name: of, mode } if *of == name => Some(*mode),
                    _ => None,
                });
                let latest = of_name(&name).map(|definition| definition.edition).max();
                if rule.is_some_and(|mode| mode != compared.mode || latest != compared.latest) {
                    return Err(DefinitionRefusal::Outdated);
                }
                (key, Some(DefinitionContent::Schema(schema.clone())))
            }
            DefinitionChange::Compatibility { name, mode } => {
                let content = DefinitionContent::Compatibility { name: name.clone(), mode: *mode };
                (content.key(), Some(content).filter(|_| *mode != Compatibility::None))
            }
            DefinitionChange::Remove(key) => (key.clone(), None),
        };
        let before = own().find(|definition| definition.content.key() == key).cloned();
        if let Some(before) = &before
            && content.as_ref() == Some(&before.content)
        {
            return Ok(defined(before, false));
        }
        let absent = before.is_none() && content.is_none();
        if absent && matches!(change, DefinitionChange::Remove(_)) {
            return Err(DefinitionRefusal::NotDefined);
        }
        self.edition.0 += u64::from(!absent);
        self.definitions.retain(|definition| definition.tenant != *tenant || definition.content.key() != key);
        let (edition, updated_at) = (self.edition, self.wall);
        let defined_at = before.as_ref().map_or(self.wall, |before| before.defined_at);
        let Some(content) = content else {
            let updated_at = before.map_or(self.wall, |before| before.updated_at);
            return Ok(Defined { created: false, edition, defined_at, updated_at });
        };
        let definition = Definition { tenant: tenant.clone(), content, edition, defined_at, updated_at };
        self.definitions.push(definition.clone());
        Ok(defined(&definition, before.is_none()))
    }

    fn register(&mut self, key: Key, registration: Registration, anew: bool, by: Option<&Actor>) -> Registered {
        let revision = Revision(self.revision().0 + 1);
        let before = self.roll.get(&key).cloned();
        let fresh = Entry {
            registration,
            reported: BTreeMap::new(),
            status: Status::Active,
            presence: Presence::Present,
            lease: LeaseId(revision.0),
            revision,
            created: revision,
            registered_at: self.wall,
            superseded: Vec::new(),
            registered_by: by.map(|by| by.principal.clone()),
            orders: Orders::default(),
            observed: None,
        };
        let takes = |before: &Entry| before.registered_by.is_none() && by.is_some_and(|by| by.power == Power::Own);
        match &before {
            None => {
                let orders = self.resume_orders(&key);
                self.change(&key, Entry { orders, ..fresh }, ChangeKind::Registered);
            }
            Some(before) if !anew && before.registration == fresh.registration && !takes(before) => {}
            Some(before) => {
                let mut superseded = before.superseded.clone();
                superseded.push(before.lease);
                if superseded.len() > SUPERSEDED_MAX {
                    superseded.remove(0);
                }
                let (created, registered_at, orders) = (before.created, before.registered_at, before.orders.clone());
                let after = Entry { created, registered_at, superseded, orders, ..fresh };
                self.change(&key, after, ChangeKind::Updated);
            }
        }
        self.renew(&key);
        let entry = &self.roll[&key];
        Registered {
            created: before.is_none(),
            lease: entry.lease,
            revision: entry.revision,
            created_revision: entry.created,
            registered_at: entry.registered_at,
            deadline: self.deadlines[&key],
        }
    }

    fn renew_all(&mut self, tenant: &TenantId, leases: &LeaseSet, by: Option<&Actor>) -> Outcome {
        let (mut not_found, mut superseded) = (Vec::new(), Vec::new());
        for lease in leases.as_slice() {
            let own = || self.roll.iter().filter(|(key, _)| key.0 == *tenant);
            let holder = own().find(|(_, entry)| entry.lease == *lease).map(|(key, _)| key.clone());
            let was_held = own().any(|(_, entry)| entry.superseded.contains(lease));
            match holder {
                Some(key) if check_actor(&self.roll[&key], by).is_err() => not_found.push(*lease),
                Some(key) => self.renew(&key),
                None if was_held => superseded.push(*lease),
                None => not_found.push(*lease),
            }
        }
        Outcome::Renewed { not_found: LeaseSet::new(not_found), superseded: LeaseSet::new(superseded) }
    }

    fn renew(&mut self, key: &Key) {
        let entry = self.roll[key].clone();
        self.deadlines.insert(key.clone(), ClusterTime(self.now.0 + u64::from(entry.registration.ttl_ms)));
        if entry.presence != Presence::Present {
            self.change(key, Entry { presence: Presence::Present, ..entry }, ChangeKind::StatusChanged);
        }
    }

    /// When something happens to an entry if no heartbeat comes.
    pub(crate) fn due(&self, key: &Key, entry: &Entry) -> ClusterTime {
        let reap_after_ms = if entry.presence == Presence::Lapsed { entry.registration.reap_after_ms } else { 0 };
        ClusterTime(self.deadlines[key].0 + u64::from(reap_after_ms))
    }

    pub(crate) fn next_due(&self) -> Option<ClusterTime> {
        let scheduled = self.roll.iter().filter(|(_, entry)| entry.presence != Presence::Suspect);
        scheduled.map(|(key, entry)| self.due(key, entry)).chain(self.protection_due()).min()
    }

    pub(crate) fn change(&mut self, key: &Key, after: Entry, kind: ChangeKind) {
        self.past.push((kind, key.clone(), self.roll.clone()));
        let revision = self.revision();
        self.roll.insert(key.clone(), Entry { revision, ..after });
    }

    pub(crate) fn remove(&mut self, key: &Key, kind: ChangeKind) {
        self.past.push((kind, key.clone(), self.roll.clone()));
        let removed = self.roll.remove(key);
        removed.into_iter().for_each(|entry| self.keep_orders(key, &entry));
        self.deadlines.remove(key);
    }

    fn check(&self, key: &Key, condition: Condition) -> Result<(), Refusal> {
        let current = self.roll.get(key).map(|entry| entry.revision);
        let holds = match condition {
            Condition::None | Condition::Anew => true,
            Condition::Absent => current.is_none(),
            Condition::Present => current.is_some(),
            Condition::Unchanged(revision) => current == Some(revision),
        };
        if holds { Ok(()) } else { Err(Refusal::ConditionFailed { current }) }
    }

    /// All that match at a revision, in order.
    pub(crate) fn found(
        &self,
        revision: Revision,
        tenant: &TenantId,
        wishes: &[Wish],
        (sort, ranking): (Sort, &Ranking),
    ) -> Vec<&Entry> {
        let mut found: Vec<_> = self
            .at(revision)
            .iter()
            .filter(|(key, entry)| key.0 == *tenant && Wish::all_hold(wishes, entry))
            .map(|(key, entry)| {
                let suspect = sort == Sort::Rank && entry.presence == Presence::Suspect;
                let (score, lease) = match sort {
                    Sort::Id => (0, LeaseId(0)),
                    Sort::Rank => (self.score(tenant, ranking, entry), LeaseId(0)),
                    Sort::Lease => (0, entry.lease),
                };
                ((suspect, Reverse(score), lease, &key.1), entry)
            })
            .collect();
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, entry)| entry).collect()
    }
}

fn defined(definition: &Definition, created: bool) -> Defined {
    let Definition { edition, defined_at, updated_at, .. } = *definition;
    Defined { created, edition, defined_at, updated_at }
}

fn check_actor(entry: &Entry, by: Option<&Actor>) -> Result<(), Refusal> {
    let allowed = by.is_none_or(|by| match &by.power {
        Power::Tenant => true,
        Power::Services(prefixes) => {
            prefixes.iter().any(|prefix| entry.registration.name.as_str().starts_with(&**prefix))
        }
        Power::Own => entry.registered_by.is_none() || entry.registered_by.as_ref() == Some(&by.principal),
    });
    if allowed { Ok(()) } else { Err(Refusal::NotYours) }
}

pub(crate) fn check_lease(entry: &Entry, lease: Option<LeaseId>) -> Result<(), Refusal> {
    match lease {
        Some(lease) if lease < entry.lease => Err(Refusal::Superseded { by: entry.lease }),
        Some(lease) if lease > entry.lease => Err(Refusal::LeaseNotFound),
        _ => Ok(()),
    }
}
