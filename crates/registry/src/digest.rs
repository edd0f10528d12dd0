//! The digest of the whole state, kept while it changes. It is a sum over rows, so the order in which they came to be
//! does not matter, and one change costs one subtraction and one addition.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::access::{AccessToken, Reach, Scopes, SecretDigest};
use crate::alerting::{AlertTarget, ToldUpTo};
use crate::definition::{Definition, DefinitionContent, EventDefinition, SchemaDefinition};
use crate::federation::{FederationRow, Foreign, Peer, PeerTerms, Received, Resync, Stream, Sweep, TenantPair};
use crate::health::{Observed, Order, Orders, TenantChecks};
use crate::ids::{ClusterTime, LeaseId, PrincipalId, TENANT_BYTES_MAX};
use crate::instance::{Instance, Presence};
use crate::metadata::Metadata;
use crate::protection::Vigil;
use crate::quota::Quota;
use crate::ruling::{Ruling, RulingContent};
use crate::selector::Requirement;
use crate::state::{JoinToken, PinnedKey, SignatureRow};

/// Equal states have equal digests; different ones differ but for a chance of 2⁻¹²⁸.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The running sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowSum(u128);

impl RowSum {
    pub(crate) fn add(&mut self, row: u128) {
        self.0 = self.0.wrapping_add(row);
    }

    pub(crate) fn remove(&mut self, row: u128) {
        self.0 = self.0.wrapping_sub(row);
    }

    /// Another number when the rows are others.
    pub(crate) fn mark(self) -> u128 {
        self.0
    }

    /// Mixes in what is not a row.
    pub(crate) fn with_scalars(self, scalars: impl Iterator<Item = u64>) -> Digest {
        let mut hash = Xxh3::new();
        hash.update(&self.0.to_le_bytes());
        for scalar in scalars {
            hash.update(&scalar.to_le_bytes());
        }
        Digest(hash.digest128())
    }
}

pub(crate) fn of_instance(instance: &Instance) -> u128 {
    // Taken apart without `..`, so that no new field is forgotten.
    let Instance {
        tenant,
        registration,
        seldom,
        reported_status,
        presence,
        lease,
        revision,
        created_revision,
        registered_at,
    } = instance;
    let (reported_metadata, superseded) = (seldom.reported_metadata(), seldom.superseded());
    let mut row = Row(Vec::with_capacity(registration.bytes() + ROW_BYTES_BESIDE));
    row.text(tenant.as_str());
    row.text(registration.as_packed());
    row.number(u64::from(reported_metadata.is_some()));
    row.text(reported_metadata.map_or("", Metadata::as_packed));
    row.text(reported_status.as_str());
    let presence = match presence {
        Presence::Present => 0,
        Presence::Lapsed => 1,
        Presence::Suspect => 2,
    };
    let numbers = [presence, lease.0, revision.0, created_revision.0, registered_at.0];
    numbers.into_iter().for_each(|number| row.number(number));
    row.number(superseded.len() as u64);
    superseded.iter().for_each(|lease| row.number(lease.0));
    // After a list whose length is told, so that rows with and without it differ.
    seldom.registered_by().into_iter().for_each(|by| row.text(by.as_str()));
    let (Orders { maintenance, drain }, observed) = (seldom.orders(), seldom.observed());
    // Few have any of these, and the row of one that has none is as it was before there were such. No text is as long as
    // the first number says, so that what follows is nobody's name.
    if maintenance.is_some() || drain.is_some() || observed.is_some() {
        row.number(u64::MAX);
        [maintenance, drain].into_iter().for_each(|order| row.order(order.as_ref()));
        row.number(u64::from(observed.is_some()));
        if let Some(Observed { verdict, since }) = observed {
            row.text(verdict.as_str());
            row.number(since.0);
        }
    }
    xxh3_128(&row.0)
}

pub(crate) fn of_ruling(ruling: &Ruling) -> u128 {
    let Ruling { tenant, content } = ruling;
    let mut row = Row(Vec::new());
    row.text("ruling");
    row.text(tenant.as_str());
    match content {
        RulingContent::Order { id, order } => {
            row.number(1);
            row.text(id.as_str());
            row.order(Some(order));
        }
        RulingContent::Trust { owner, trust } => {
            row.number(2);
            row.text(owner.as_str());
            row.number(trust.hundredths().into());
        }
        RulingContent::Ranking(weights) => {
            row.number(3);
            <[u16; 4]>::from(*weights).into_iter().for_each(|weight| row.number(weight.into()));
        }
        RulingContent::Quota(Quota { registrations, bytes, watchers, requests_per_second }) => {
            row.number(4);
            let limits = [registrations, bytes, watchers, requests_per_second];
            limits.into_iter().for_each(|limit| row.optional(*limit));
        }
        RulingContent::Checks(TenantChecks { scope, interval_ms }) => {
            row.number(5);
            row.text(scope.as_str());
            row.number(interval_ms.unwrap_or(0).into());
        }
        RulingContent::Protection(protection) => {
            row.number(6);
            <[u32; 4]>::from(*protection).into_iter().for_each(|part| row.number(part.into()));
        }
        RulingContent::Target { name, target, told } => {
            let AlertTarget { url, form, secret, interval_ms } = target;
            let ToldUpTo { revision, begun, in_force } = told;
            row.number(7);
            [name.as_str(), url, form.as_str(), secret.expose()].into_iter().for_each(|text| row.text(text));
            let numbers = [u64::from(*interval_ms), revision.0, *begun, u64::from(*in_force)];
            numbers.into_iter().for_each(|number| row.number(number));
        }
        RulingContent::Vigil(vigil) => {
            let Vigil { begun, since, next_look, next_release, freed, quiet_until, lapses } = vigil;
            row.number(8);
            row.number(*begun);
            row.optional(since.map(|since| since.0));
            let times = [next_look, next_release, quiet_until].map(|time| time.0);
            times.into_iter().chain([u64::from(*freed)]).for_each(|number| row.number(number));
            row.number(lapses.len() as u64);
            lapses
                .iter()
                .for_each(|(part, count)| [*part, u64::from(*count)].into_iter().for_each(|n| row.number(n)));
        }
    }
    xxh3_128(&row.0)
}

fn numbers_of(secret: &SecretDigest) -> impl Iterator<Item = u64> {
    secret.0.chunks_exact(8).map(|part| u64::from_le_bytes(part.try_into().expect("eight bytes")))
}

pub(crate) fn of_join_token(token: &JoinToken) -> u128 {
    let JoinToken { id, secret, learners_only, expires_at, uses_max, uses, admitted, created_at } = token;
    let mut row = Row(Vec::new());
    row.text("join_token");
    let secret = numbers_of(secret);
    let limit = [u64::from(uses_max.is_some()), u64::from(uses_max.unwrap_or(0))];
    let numbers = [id.0, u64::from(*learners_only), expires_at.0, u64::from(*uses), created_at.0];
    secret.chain(numbers).chain(limit).for_each(|number| row.number(number));
    row.number(admitted.len() as u64);
    admitted.iter().for_each(|address| row.text(address));
    xxh3_128(&row.0)
}

pub(crate) fn of_access_token(token: &AccessToken) -> u128 {
    let AccessToken {
        id,
        secret,
        former,
        reach,
        role,
        scopes: Scopes { services, verbs },
        expires_at,
        description,
        created_by,
        created_at,
        rotated_at,
        used_at,
        use_noted_at,
        revoked_at,
    } = token;
    let mut row = Row(Vec::new());
    row.text("access_token");
    row.number(id.0);
    numbers_of(secret).for_each(|number| row.number(number));
    row.number(u64::from(former.is_some()));
    if let Some(former) = former {
        numbers_of(&former.secret).for_each(|number| row.number(number));
        row.number(former.until.0);
    }
    match reach {
        Reach::All => row.number(0),
        Reach::Tenant(tenant) => {
            row.number(1);
            row.text(tenant.as_str());
        }
    }
    row.text(role.as_str());
    row.number(services.len() as u64);
    services.iter().for_each(|prefix| row.text(prefix));
    row.number(verbs.len() as u64);
    verbs.iter().for_each(|verb| row.text(verb.as_str()));
    row.text(description);
    row.number(u64::from(created_by.is_some()));
    row.text(created_by.as_ref().map_or("", PrincipalId::as_str));
    row.number(created_at.0);
    for optional in [expires_at.map(|at| at.0), use_noted_at.map(|at| at.0)] {
        row.optional(optional);
    }
    for optional in [rotated_at, used_at, revoked_at] {
        row.optional(optional.map(|at| at.0));
    }
    xxh3_128(&row.0)
}

pub(crate) fn of_signature_row(signatures: &SignatureRow) -> u128 {
    let mut row = Row(Vec::new());
    match signatures {
        SignatureRow::Mode { tenant, mode } => {
            ["signature_mode", tenant.as_str(), mode.as_str()].into_iter().for_each(|text| row.text(text));
        }
        SignatureRow::Key(pinned) => {
            let PinnedKey { tenant, owner, key, pinned_at, retired } = &**pinned;
            ["owner_key", tenant.as_str(), owner].into_iter().for_each(|text| row.text(text));
            row.0.extend_from_slice(&key.0);
            row.number(pinned_at.0);
            row.number(retired.len() as u64);
            retired.iter().for_each(|hash| row.0.extend_from_slice(&hash.to_le_bytes()));
        }
    }
    xxh3_128(&row.0)
}

pub(crate) fn of_foreign(entry: &Foreign) -> u128 {
    let Foreign { peer, generation, instance } = entry;
    let mut row = Row(Vec::new());
    ["foreign", peer.as_str()].into_iter().for_each(|text| row.text(text));
    row.number(*generation);
    row.0.extend_from_slice(&of_instance(instance).to_le_bytes());
    xxh3_128(&row.0)
}

pub(crate) fn of_federation_row(federation: &FederationRow) -> u128 {
    let mut row = Row(Vec::new());
    match federation {
        FederationRow::Seed(seed) => {
            row.text("federation_seed");
            row.0.extend_from_slice(&seed.0);
        }
        FederationRow::Peer(peer) => {
            let Peer { terms, since, added_at, paused, leaving, received } = &**peer;
            row.text("federation_peer");
            row.terms(terms);
            let flags = [*paused, *leaving].map(u64::from);
            [since.0, added_at.0].into_iter().chain(flags).for_each(|number| row.number(number));
            row.received(received);
        }
    }
    xxh3_128(&row.0)
}

pub(crate) fn of_deadline(lease: LeaseId, deadline: ClusterTime) -> u128 {
    let mut row = [0; 16];
    row[..8].copy_from_slice(&lease.0.to_le_bytes());
    row[8..].copy_from_slice(&deadline.0.to_le_bytes());
    xxh3_128(&row)
}

pub(crate) fn of_definition(definition: &Definition) -> u128 {
    let Definition { tenant, content, edition, defined_at, updated_at } = definition;
    let mut row = Row(Vec::with_capacity(content.bytes()));
    row.text(tenant.as_str());
    match content {
        DefinitionContent::Event(EventDefinition { name, topic, document }) => {
            row.number(1);
            [name.as_str(), topic, document].into_iter().for_each(|text| row.text(text));
        }
        DefinitionContent::Schema(SchemaDefinition { name, version, owner, description, schema }) => {
            row.number(2);
            [name.as_str(), version.as_str(), schema].into_iter().for_each(|text| row.text(text));
            for optional in [owner, description] {
                row.number(u64::from(optional.is_some()));
                row.text(optional.as_deref().unwrap_or_default());
            }
        }
        DefinitionContent::Compatibility { name, mode } => {
            row.number(3);
            [name.as_str(), mode.as_str()].into_iter().for_each(|text| row.text(text));
        }
    }
    [edition.0, defined_at.0, updated_at.0].into_iter().for_each(|number| row.number(number));
    xxh3_128(&row.0)
}

/// One row as bytes: every text and list with its length before it, every number in eight bytes, so that no two rows
/// have the same bytes. Written out rather than left to `Hash`, which may differ from one compiler to the next: the
/// digest is kept on disk and compared between machines. Gathered first: hashing one piece of some hundred bytes costs a
/// third of hashing a dozen small ones.
struct Row(Vec<u8>);

/// What an instance's row takes beside its registration, if nothing seldom is in it: numbers, the tenant, the status.
const ROW_BYTES_BESIDE: usize = 11 * 8 + TENANT_BYTES_MAX + 16;

impl Row {
    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn optional(&mut self, number: Option<u64>) {
        self.number(u64::from(number.is_some()));
        self.number(number.unwrap_or(0));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn order(&mut self, order: Option<&Order>) {
        self.number(u64::from(order.is_some()));
        if let Some(Order { reason, since }) = order {
            self.number(u64::from(reason.is_some()));
            self.text(reason.as_deref().unwrap_or_default());
            self.number(since.0);
        }
    }

    fn texts<'a>(&mut self, count: usize, texts: impl Iterator<Item = &'a str>) {
        self.number(count as u64);
        texts.for_each(|text| self.text(text));
    }

    fn terms(&mut self, terms: &PeerTerms) {
        let PeerTerms { name, key, urls, ca, direction, tenants, offered, selector, trust, priority } = terms;
        self.text(name.as_str());
        self.0.extend_from_slice(&key.0);
        self.texts(urls.len(), urls.iter().map(|url| &**url));
        self.number(u64::from(ca.is_some()));
        [ca.as_deref().unwrap_or_default(), direction.as_str(), offered.as_str()]
            .into_iter()
            .for_each(|t| self.text(t));
        self.number(tenants.len() as u64);
        for TenantPair { local, remote } in tenants {
            [local, remote].into_iter().for_each(|tenant| self.text(tenant.as_str()));
        }
        self.number(selector.0.len() as u64);
        for requirement in &selector.0 {
            let (sort, key) = match requirement {
                Requirement::In { key, .. } => (1, key),
                Requirement::NotIn { key, .. } => (2, key),
                Requirement::Exists { key } => (3, key),
                Requirement::Missing { key } => (4, key),
            };
            self.number(sort);
            self.text(key);
            self.texts(requirement.values().len(), requirement.values().iter().map(|value| &**value));
        }
        [trust.hundredths().into(), u64::from(*priority)].into_iter().for_each(|number| self.number(number));
    }

    fn received(&mut self, received: &Received) {
        let Received { stream, position, resync, generation, sweep, heard_at, heard_wall, told_at, ttl_ms, lacking } =
            received;
        self.number(u64::from(stream.is_some()));
        if let Some(Stream { epoch, since }) = stream {
            [epoch.0, since.0].into_iter().for_each(|number| self.number(number));
        }
        self.number(u64::from(resync.is_some()));
        if let Some(Resync { at, next }) = resync {
            [at.0, *next].into_iter().for_each(|number| self.number(number));
        }
        self.number(u64::from(sweep.is_some()));
        if let Some(Sweep { after }) = sweep {
            self.number(u64::from(after.is_some()));
            let after = after.as_ref().map_or(["", ""], |(tenant, id)| [tenant.as_str(), id.as_str()]);
            after.into_iter().for_each(|text| self.text(text));
        }
        let numbers = [position.0, *generation, heard_at.0, heard_wall.0, told_at.0, *ttl_ms, *lacking];
        numbers.into_iter().for_each(|number| self.number(number));
    }
}
