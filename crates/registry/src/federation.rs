//! Other clusters: whom operators named, and what of theirs is known here.
//!
//! A cluster is known by its key, whatever its nodes are called. It tells its changes in the order of its revisions, in a
//! *stream*: one life of its roll, offered under one set of terms. The receiver alone knows how far it has come, so that
//! neither side's restart, failover or restored backup makes the other believe what is not so.

pub mod teller;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterTime, Epoch, InstanceId, PeerName, Revision, TenantId, WallTime};
use crate::instance::Instance;
use crate::rank::Trust;
use crate::registration::{PackedRegistration, Status, Visibility, words};
use crate::selector::{Requirement, Selector};

/// Clusters that may be named. Each is sent to by a task of its own.
pub const PEERS_MAX: usize = 64;

/// Addresses of one: as many as a large cluster has voters.
pub const PEER_URLS_MAX: usize = 9;

/// Longest address.
pub const PEER_URL_BYTES_MAX: usize = 2_048;

/// Longest bundle of authorities: some thirty certificates.
pub const PEER_CA_BYTES_MAX: usize = 64 << 10;

/// Tenants of one that stand for tenants of ours.
pub const PEER_TENANTS_MAX: usize = 256;

/// Instances of all others that are kept.
pub const FOREIGN_MAX: usize = 400_000;

/// What they may take together.
pub const FOREIGN_BYTES_MAX: usize = 512 << 20;

/// As [`FOREIGN_MAX`] and [`FOREIGN_BYTES_MAX`], of one: whoever runs full leaves room for others.
pub const FOREIGN_MAX_OF_PEER: usize = FOREIGN_MAX / 2;
pub const FOREIGN_BYTES_MAX_OF_PEER: usize = FOREIGN_BYTES_MAX / 2;

/// What one is told in one command: applying it takes a few milliseconds, for which readers wait at most.
pub const FOREIGN_MESSAGES_MAX: usize = 256;

/// How long what a cluster told may be believed without another word from it: what it may ask for at most.
pub const FOREIGN_TTL_MS_MAX: u64 = 7 * 24 * 3_600_000;

/// Without a word for so long a cluster is out of reach: it says something every ten seconds.
pub const STALE_AFTER_MS: u64 = 30_000;

/// Instances that one [`FederationCommand::Sweep`] looks at.
pub const SWEEP_MAX: u32 = 1_024;

/// Whoever is trusted less is neither told anything nor believed: 6 of 10 points.
pub const TRUST_MIN_HUNDREDTHS: u16 = 600;

words! {
    /// Who tells whom.
    Direction { Send = "send", Receive = "receive", Both = "both" }
}

words! {
    /// Who of a tenant is offered. What is restricted or private never is.
    Offered { Public = "public", Internal = "internal" }
}

impl Direction {
    pub fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }

    pub fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }
}

/// A cluster's Ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterKey(pub [u8; 32]);

/// What the cluster's own key is made of: a secret.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterSeed(pub [u8; 32]);

impl fmt::Debug for ClusterSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSeed(..)")
    }
}

/// A tenant of ours and the one of theirs that it is shared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantPair {
    pub local: TenantId,
    pub remote: TenantId,
}

/// What an operator says of another cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTerms {
    pub name: PeerName,
    pub key: ClusterKey,
    /// Any of its nodes, in the order in which they are tried.
    pub urls: Box<[Box<str>]>,
    /// Whose certificates its nodes have, in PEM; none where the machine's authorities will do.
    pub ca: Option<Box<str>>,
    pub direction: Direction,
    /// No tenant of ours and none of theirs comes twice.
    pub tenants: Box<[TenantPair]>,
    pub offered: Offered,
    /// Of those, whoever fits.
    pub selector: Selector,
    pub trust: Trust,
    /// Where several know an instance by the same id, the one of the highest is shown.
    pub priority: u32,
}

impl PeerTerms {
    /// What an edge checks by name.
    pub(crate) fn is_within_bounds(&self) -> bool {
        let Self { name: _, key: _, urls, ca, direction: _, tenants, offered: _, selector, trust: _, priority: _ } =
            self;
        let distinct = |name: fn(&TenantPair) -> &TenantId| {
            let names: std::collections::BTreeSet<_> = tenants.iter().map(name).collect();
            names.len() == tenants.len()
        };
        let labels = selector.0.iter().flat_map(Requirement::values).map(|value| value.len()).sum::<usize>();
        (1..=PEER_URLS_MAX).contains(&urls.len())
            && urls.iter().all(|url| url.len() <= PEER_URL_BYTES_MAX)
            && ca.as_ref().is_none_or(|ca| ca.len() <= PEER_CA_BYTES_MAX)
            && (1..=PEER_TENANTS_MAX).contains(&tenants.len())
            && distinct(|pair| &pair.local)
            && distinct(|pair| &pair.remote)
            && selector.0.len() <= crate::selector::REQUIREMENTS_MAX
            && labels <= PEER_CA_BYTES_MAX
    }

    pub fn is_trusted(&self) -> bool {
        self.trust.hundredths() >= TRUST_MIN_HUNDREDTHS
    }

    /// Whether it is told of an instance.
    pub fn offers(&self, instance: &Instance) -> bool {
        let is_shown = match instance.registration().visibility {
            Visibility::Public => true,
            Visibility::Internal => self.offered == Offered::Internal,
            Visibility::Restricted | Visibility::Private => false,
        };
        is_shown
            && self.shares(&instance.tenant)
            && self.selector.0.iter().all(|requirement| requirement.matches(instance))
    }

    fn shares(&self, local: &TenantId) -> bool {
        self.tenants.iter().any(|pair| pair.local == *local)
    }

    /// The tenant of ours that one of theirs stands for.
    pub fn local(&self, remote: &TenantId) -> Option<&TenantId> {
        self.tenants.iter().find(|pair| pair.remote == *remote).map(|pair| &pair.local)
    }
}

/// One life of a roll, offered under one set of terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub epoch: Epoch,
    /// When the sender's operator laid down the terms, by the sender's cluster time.
    pub since: ClusterTime,
}

/// All of what is offered, told anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// What comes after this revision is told as changes, once this has ended.
    pub at: Revision,
    /// The number of the next instance.
    pub next: u64,
}

/// What is being cleared away: instances that are not of the present generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// Up to here it was looked.
    pub after: Option<(TenantId, InstanceId)>,
}

/// How far another cluster has been heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// None: it has to tell everything.
    pub stream: Option<Stream>,
    /// Everything up to here is known.
    pub position: Revision,
    pub resync: Option<Resync>,
    /// Counts how often everything was told anew, or forgotten.
    pub generation: u64,
    pub sweep: Option<Sweep>,
    /// When it was last heard, by our time; both stand still at nothing until then.
    pub heard_at: ClusterTime,
    pub heard_wall: WallTime,
    /// The latest time it gave to its words. What is older is somebody's repetition.
    pub told_at: WallTime,
    /// So long after it was heard it is still believed.
    pub ttl_ms: u64,
    /// Instances that it told since it began and that were not taken.
    pub lacking: u64,
}

/// Another cluster as it is known here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub terms: Arc<PeerTerms>,
    /// When the terms were laid down.
    pub since: ClusterTime,
    pub added_at: WallTime,
    pub paused: bool,
    /// It is gone as soon as nothing of it is left.
    pub leaving: bool,
    pub received: Received,
}

impl Peer {
    pub fn name(&self) -> &PeerName {
        &self.terms.name
    }

    /// Nothing was heard for so long that what is known may not be so any more.
    pub fn is_stale(&self, now: ClusterTime) -> bool {
        now > self.stale_after()
    }

    /// As long as this it counts as heard.
    pub fn stale_after(&self) -> ClusterTime {
        self.received.heard_at.plus_ms(STALE_AFTER_MS)
    }

    /// Until when it is believed.
    pub fn expires_at(&self) -> ClusterTime {
        self.received.heard_at.plus_ms(self.received.ttl_ms)
    }
}

/// A row of the table. Variants are only ever added at the end: the position is the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FederationRow {
    Seed(ClusterSeed),
    Peer(Box<Peer>),
}

/// What names a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FederationKey {
    Seed,
    Peer(PeerName),
}

impl FederationRow {
    pub fn key(&self) -> FederationKey {
        match self {
            Self::Seed(_) => FederationKey::Seed,
            Self::Peer(peer) => FederationKey::Peer(peer.name().clone()),
        }
    }
}

/// An instance of another cluster. It is on that cluster's roll and not on this one: it has no lease here, and is passed
/// on to nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    pub peer: PeerName,
    /// Of what was told, to which telling it belongs.
    pub generation: u64,
    /// In the tenant of ours that it is shown to. Revisions are its cluster's.
    pub instance: Arc<Instance>,
}

/// What names one.
pub type ForeignKey = (PeerName, TenantId, InstanceId);

impl Foreign {
    pub fn key(&self) -> ForeignKey {
        (self.peer.clone(), self.instance.tenant.clone(), InstanceId::kept(self.instance.id()))
    }
}

/// An instance as its cluster tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub registration: PackedRegistration,
    /// As it is shown there.
    pub status: Status,
    /// Of its last change.
    pub revision: Revision,
    pub registered_at: WallTime,
}

/// One thing that a cluster tells. Tenants are named as it names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForeignMessage {
    /// A change. Between `after` and `revision` there was nothing to tell.
    Change { after: Revision, revision: Revision, tenant: TenantId, change: ForeignChange },
    /// All that is offered follows.
    Begin { at: Revision },
    /// One of them.
    Entry { at: Revision, number: u64, tenant: TenantId, told: Result<Told, Unreadable> },
    /// That was all.
    End { at: Revision, count: u64 },
    /// There was nothing to tell between the two.
    Bookmark { after: Revision, at: Revision },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForeignChange {
    /// It is new, or as it was not before.
    Put(Told),
    /// It is gone, or offered no more.
    Remove(InstanceId),
    /// It is as this cluster cannot have it.
    Unreadable(Unreadable),
}

/// What was told of an instance, and is none of this cluster's. What was known of it is not so any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    pub id: Option<InstanceId>,
}

/// What a cluster tells at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignBatch {
    pub peer: PeerName,
    /// Who signed it: the peer may have been named anew meanwhile, with another key.
    pub key: ClusterKey,
    pub stream: Stream,
    pub told_at: WallTime,
    pub ttl_ms: u64,
    pub messages: Vec<ForeignMessage>,
}

impl ForeignBatch {
    /// About what it takes in a log entry.
    pub fn bytes(&self) -> usize {
        let told = |told: &Told| told.registration.bytes();
        let each = self.messages.iter().map(|message| match message {
            ForeignMessage::Change { change: ForeignChange::Put(put), .. } => told(put),
            ForeignMessage::Change { change: ForeignChange::Remove(id), .. } => id.as_str().len(),
            ForeignMessage::Change { change: ForeignChange::Unreadable(_), .. } => 0,
            ForeignMessage::Entry { told: entry, .. } => entry.as_ref().map_or(0, told),
            ForeignMessage::Begin { .. } | ForeignMessage::End { .. } | ForeignMessage::Bookmark { .. } => 0,
        });
        each.map(|bytes| bytes + 64).sum()
    }
}

words! {
    /// What became of one message.
    Reception {
        Applied = "applied",
        /// It was known.
        Already = "already_known",
        /// Something before it was not told.
        OutOfOrder = "out_of_order",
        /// Everything has to be told anew.
        ResyncNeeded = "resync_needed",
        /// No tenant of this cluster stands for that one.
        TenantNotMapped = "tenant_not_mapped",
        /// This cluster cannot have it as it is.
        Unreadable = "unreadable",
        /// It is not meant for other clusters.
        NotOffered = "not_offered",
        /// As much is kept of that cluster, or of all, as may be.
        Full = "foreign_full",
    }
}

/// What is asked of the table. Variants are only ever added at the end: the position is the wire format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FederationCommand {
    /// Gives this cluster a key, unless it has one.
    Found(ClusterSeed),
    Add(Box<PeerTerms>),
    Pause {
        name: PeerName,
        paused: bool,
    },
    Remove {
        name: PeerName,
    },
    Receive(ForeignBatch),
    /// Clears away what is no longer so, a part of it.
    Sweep {
        limit: u32,
    },
}

impl FederationCommand {
    /// About what it takes in a log entry.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Found(_) | Self::Pause { .. } | Self::Remove { .. } | Self::Sweep { .. } => 64,
            Self::Add(terms) => {
                let urls: usize = terms.urls.iter().map(|url| url.len()).sum();
                urls + terms.ca.as_ref().map_or(0, |ca| ca.len()) + terms.tenants.len() * 128
            }
            Self::Receive(batch) => batch.bytes(),
        }
    }
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FederationOutcome {
    /// This cluster has a key.
    Founded,
    /// The peer as it is now, or was.
    Peer(Box<Peer>),
    Received {
        /// Of each message.
        results: Vec<Reception>,
        received: Received,
    },
    Swept {
        /// There is more to do.
        more: bool,
    },
}

/// Why nothing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FederationRefusal {
    #[error("no such peer is known")]
    Unknown,
    #[error("a peer of that name, or with that key, is known already")]
    Exists,
    #[error("what is left of the peer that was removed is being cleared away; try again in a moment")]
    Leaving,
    #[error("there are {max} peers already")]
    TooMany { max: u32 },
    #[error("what was said of the peer is out of bounds")]
    OutOfBounds,
    #[error("the peer is paused")]
    Paused,
    #[error("nothing is taken from this peer")]
    NotReceived,
    #[error("the peer is trusted less than is asked for")]
    NotTrusted,
    #[error("the message is older than the last one of its cluster: somebody repeats it")]
    Replayed,
}
