//! Wire types of Rollcall's native HTTP API, shared by the server and its clients.
//!
//! The crate holds data and nothing else: it validates nothing, knows no transport and none of the state machine's
//! types. What a server accepts beyond the shapes given here (limits, allowed characters) is the server's to check, so
//! that every fault of a request is named in one answer.
//!
//! - Field names are the contract. Fields are added, never renamed or given another meaning.
//! - Units stand last in a name: `ttl_ms` is milliseconds. Instants for people are RFC 3339 text in UTC.
//! - Optional request fields that are absent are not sent at all, because a server refuses fields it does not know.
//!
//! Read in this order: [`service`], [`lease`], [`discovery`], [`ranking`], [`operator`], [`check`], [`protection`],
//! [`alert`], [`quota`], [`watch`], [`cluster`], [`signature`], [`federation`], then [`problem`] and [`header`].

pub mod access_token;
pub mod alert;
pub mod check;
pub mod cluster;
pub mod discovery;
pub mod federation;
pub mod header;
pub mod join_token;
pub mod lease;
pub mod operator;
pub mod problem;
pub mod protection;
pub mod quota;
pub mod ranking;
pub mod service;
pub mod signature;
pub mod watch;

pub use access_token::{
    AccessRole, CreateTokenRequest, CreatedToken, RevokeTokenResponse, RotateTokenRequest, TokenInfo, TokenStatus,
    TokensResponse, Verb,
};
pub use alert::{
    AlertForm, AlertInfo, AlertKind, AlertTargetInfo, AlertTargetRequest, AlertTargetsResponse, AlertsMessage,
    RemoveAlertTargetResponse, SetAlertTargetResponse, TestAlertResponse,
};
pub use check::{
    CheckInfo, CheckPart, CheckResult, CheckScope, CheckType, ChecksRequest, ChecksResponse, HealthCheck,
};
pub use cluster::{
    AddMemberRequest, AutopilotFinding, AutopilotInfo, ClusterChangeResponse, ClusterStatusResponse, DigestResponse,
    KeptBecause, MemberInfo, RelocateMemberRequest, ReplaceMemberRequest, Role, TransferLeaderRequest,
};
pub use discovery::{DiscoverResponse, FederatedAnswer, FederatedSource};
pub use federation::{
    AddPeerRequest, Direction, FederationKeyResponse, FederationResponse, KlpChanges, KlpMessage, KlpMetadata,
    KlpReceived, KlpRequest, KlpResponse, KlpResult, KlpResync, KlpStream, Offered, PeerInfo, PropagationRecord,
    PropagationResult, ReceivingInfo, RemovePeerResponse, ResyncInfo, SendingInfo, SendingState, TrustRequirements,
};
pub use join_token::{
    CreateJoinTokenRequest, CreatedJoinToken, JoinTokenInfo, JoinTokensResponse, RevokeJoinTokenResponse,
};
pub use lease::{
    HeartbeatRequest, HeartbeatResponse, HeartbeatsRequest, HeartbeatsResponse, LeaseGrant, LeaseInfo, RenewedLease,
};
pub use operator::{
    HealthInfo, OperatorOrders, OrderInfo, OrderRequest, OrderResponse, OrdersResponse, StandingOrders, Verdict,
};
pub use problem::{Fault, Problem, WriteOutcome};
pub use protection::{ProtectionRequest, ProtectionResponse, ProtectionRule};
pub use quota::{QuotaExceeded, QuotaKind, QuotaLimits, QuotaResponse, QuotaUsage};
pub use ranking::{
    PickResponse, RankInfo, RankWeights, RankingRequest, RankingResponse, Strategy, TrustInfo, TrustRequest,
    TrustsResponse,
};
pub use service::{
    Auth, AuthType, Capability, CapabilityDetail, DeregisterRequest, DeregisterResponse, Endpoint, Kind, Locality,
    Method, Protocol, RegisterRequest, RegisterResponse, ServiceObject, Status, Visibility,
};
pub use signature::{
    OwnerKeyInfo, OwnerKeysResponse, PutOwnerKeyRequest, RemoveOwnerKeyResponse, ServiceSignatureResponse,
    SetSignaturesRequest, SignatureMode, SignaturesResponse,
};
pub use watch::{Reached, ResumePoint, ServiceUpdate, UpdateType, WsRequest, WsResponse};

/// Port that clients use unless told otherwise.
pub const CLIENT_PORT: u16 = 7900;

/// Port that nodes use among themselves unless told otherwise.
pub const PEER_PORT: u16 = 7901;
