//! The replicated state machine of Rollcall.
//!
//! Commands go in with a time, outcomes come out; equal commands in equal order make equal states on every node. The
//! crate does no I/O and knows no clock, no randomness, no task and no wire format but one: a registration is packed into
//! a text by the edge that checked it, and stays packed wherever it goes.
//!
//! - The revision moves by one with each visible change of the roll and by nothing else; a renewal changes a deadline only.
//! - What time causes is a command, and applying it checks again: a renewed lease or a newer incarnation survives.
//! - Nothing crosses tenants: ids, names, leases, indexes and counts are each tenant's own.
//! - A deterministic no is a [`Refusal`]; a broken invariant panics, and the node stops.
//!
//! Read in this order: [`registration`], `packed`, `instance`, [`command`], [`state`], then [`query`] over `filter`, `index`
//! and `slots`, [`rank`], and `interest` for watchers. [`health`] says what a status is worked out from,
//! `protection` what keeps suspects on the roll. [`definition`], [`access`], [`ruling`] and [`quota`] stand beside the roll,
//! and so do other clusters and what they tell ([`federation`]). `tally` counts for operators.

pub mod access;
mod alerting;
pub mod command;
pub mod definition;
pub mod digest;
pub mod federation;
mod filter;
pub mod health;
mod history;
pub mod ids;
mod index;
mod instance;
mod interest;
mod metadata;
mod packed;
mod place;
mod protection;
pub mod query;
pub mod quota;
pub mod rank;
pub mod registration;
pub mod ruling;
pub mod selector;
mod slots;
pub mod state;
mod tally;
pub mod visibility;

pub use access::{
    AccessDenied, AccessRole, AccessToken, AccessTokenCommand, AccessTokenId, AccessTokenRefusal, Actor,
    FormerSecret, Grant, NewAccessToken, Power, Reach, Scopes, SecretDigest, TokenIdError, Verb,
};
pub use alerting::{
    AlertForm, AlertSecret, AlertTarget, TARGET_INTERVAL_MS_MAX, TARGET_SECRET_BYTES, TARGET_URL_BYTES_MAX,
    TARGETS_MAX, ToldUpTo,
};
pub use command::{
    Beaten, Command, Condition, LeaseSet, Once, Origin, Outcome, Proposal, Refusal, Registered, Write,
};
pub use definition::{
    Compared, Compatibility, Defined, Definition, DefinitionChange, DefinitionContent, DefinitionKey,
    DefinitionRefusal, EventDefinition, SchemaDefinition,
};
pub use digest::Digest;
pub use federation::{
    ClusterKey, ClusterSeed, Direction, FederationCommand, FederationKey, FederationOutcome, FederationRefusal,
    FederationRow, Foreign, ForeignBatch, ForeignChange, ForeignKey, ForeignMessage, Offered, Peer, PeerTerms,
    Received, Reception, Resync, Stream, Sweep, TenantPair, Told, Unreadable,
};
pub use filter::{Filter, VersionRange};
pub use health::{CheckScope, Observed, Order, OrderKind, Orders, TenantChecks, Verdict};
pub use history::{Change, ChangeKind, HistoryLimits};
pub use ids::{
    ClusterTime, DefinitionName, Edition, Epoch, FEATURE_LEVEL, FeatureLevel, InstanceId, LeaseId, NameError,
    OwnerName, PeerName, PrincipalId, Revision, ServiceName, TargetName, TenantId, Term, WallTime,
};
pub use instance::{Instance, Presence, Seldom};
pub use interest::Interests;
pub use metadata::{Metadata, MetadataValue, Pair, Pairs};
pub use packed::{Parts, Texts};
pub use place::{Coordinates, CoordinatesError};
pub use protection::{Protecting, Protection, ProtectionError, Vigil};
pub use query::{
    Draw, FederatedPage, ForeignPage, Origin as ForeignOrigin, Page, Picked, Position, Query, Sort, View,
};
pub use quota::{Quota, QuotaKind, Usage};
pub use rank::{Place, RankWeights, RankWeightsError, Ranking, Score, Trust, TrustError};
pub use registration::{Kind, PackedRegistration, Protocol, Registration, RegistrationView, Status, Visibility};
pub use ruling::{Ruled, Ruling, RulingChange, RulingContent, RulingKey};
pub use state::{
    Admission, JoinToken, JoinTokenCommand, JoinTokenId, JoinTokenRefusal, NODE_ADDRESS_BYTES_MAX, Options, OwnerKey,
    PeerChange, PinnedKey, SignatureCommand, SignatureKey, SignatureMode, SignatureRefusal, SignatureRow, Signing,
    State,
};
pub use tally::{MARGIN_PARTS, Tally};
pub use visibility::Viewer;
