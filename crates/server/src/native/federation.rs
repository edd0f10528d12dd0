//! Other clusters, for operators: whom this cluster tells and from whom it takes.

use std::collections::BTreeMap;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{
    AddPeerRequest, Direction as ApiDirection, FederationKeyResponse, FederationResponse, Offered as ApiOffered,
    PeerInfo, Problem, ReceivingInfo, RemovePeerResponse,
};
use rollcall_registry::federation::{PEER_CA_BYTES_MAX, PEER_TENANTS_MAX, PEER_URL_BYTES_MAX, PEER_URLS_MAX};
use rollcall_registry::selector::Selector;
use rollcall_registry::{
    ClusterKey, ClusterSeed, ClusterTime, Command, Direction, FederationCommand, FederationOutcome, Offered, Outcome,
    Peer, PeerName, PeerTerms, TenantId, TenantPair, Trust,
};
use rollcall_replica::Consistency;
use rollcall_signature::PublicKey;
use serde_json::Value;

use super::{Native, body_missing, json};
use crate::fault::{Faults, Fields};
use crate::federation::{self, Own, Source};
use crate::limits::CARD_BYTES_MAX;
use crate::params::Federated;
use crate::render::rfc3339;
use crate::reply::Failure;
use crate::request::Context;
use crate::{params, parse, translate};

const TENANT_DEFAULT: &str = "default";

/// How far a peer is trusted of whom nothing is said: far enough.
const TRUST_DEFAULT: f64 = 6.0;

/// Other clusters, and how it goes with them
#[utoipa::path(
    get, path = "/api/federation", tag = "federation", operation_id = "federation",
    responses(
        (status = 200, description = "The peers by name; how they are told only the leader knows", body = FederationResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn status(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    // Whoever looks whether a peer is gone must not be shown an old list.
    let wanted = Consistency { linearizable: true, ..Consistency::default() };
    native.replica.barrier(wanted, context.deadline).await?;
    let (now, links) = (native.replica.cluster_time(), native.links.all());
    let (own, peers) = native.replica.roll().read(|state| {
        let now = now.max(state.now());
        let peers = state.peers().map(|peer| {
            let mut info = info(peer, state.foreign_count(peer.name()), now);
            info.sending = links.get(peer.name()).map(|link| link.info(state.revision()));
            info
        });
        (state.cluster_seed().map(|seed| Own::of(&seed)), peers.collect())
    });
    let (node_id, leader_id) = (native.replica.node_id(), native.replica.leader());
    let answer = FederationResponse {
        public_key: own.as_ref().map(|own| own.public_key.to_string()),
        did: own.map(|own| own.did),
        node_id,
        leader_id,
        peers,
        propagation: (leader_id == Some(node_id)).then(|| federation::record(&links)),
    };
    Ok(json(StatusCode::OK, &answer))
}

/// This cluster's key
///
/// It is made if there is none yet, and stays. Others name this cluster by it.
#[utoipa::path(
    post, path = "/api/federation/key", tag = "federation", operation_id = "federationKey",
    responses(
        (status = 200, description = "Its public half", body = FederationKeyResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: one may have been made", body = Problem),
    ),
)]
pub(super) async fn key(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    let own = native.own(&context).await?;
    Ok(json(StatusCode::OK, &FederationKeyResponse { public_key: own.public_key.to_string(), did: own.did }))
}

/// Name another cluster
///
/// It is told what is offered to it, and believed, from then on. Terms are not changed: a peer is removed and named again.
#[utoipa::path(
    post, path = "/api/federation/peers", tag = "federation", operation_id = "addPeer",
    request_body = AddPeerRequest,
    responses(
        (status = 201, description = "It is a peer", body = PeerInfo),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`peer_exists`: by that name or key; `peer_leaving`, `too_many_peers`; `feature_level_too_low`", body = Problem),
        (status = 413, description = "`body_too_large`", body = Problem),
        (status = 415, description = "`unsupported_media_type`: not JSON", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been added", body = Problem),
    ),
)]
pub(super) async fn add(
    State(native): State<Native>,
    context: Context,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let body = native.body(request, CARD_BYTES_MAX, context.deadline).await?.ok_or_else(body_missing)?;
    let terms = terms(body.value).map_err(Failure::faulty)?;
    let own = native.own(&context).await?;
    if terms.key.0 == *own.public_key.as_bytes() {
        return Err(Failure::fault("public_key", "is this cluster's own"));
    }
    let peer = native.change(FederationCommand::Add(Box::new(terms)), &context).await?;
    tracing::info!(peer = %peer.name(), "another cluster was named");
    Ok(json(StatusCode::CREATED, &native.shown(&peer)))
}

/// Have nothing more to do with another cluster
///
/// What is known of it is forgotten.
#[utoipa::path(
    delete, path = "/api/federation/peers/{name}", tag = "federation", operation_id = "removePeer",
    params(("name" = String, Path, description = "The peer")),
    responses(
        (status = 200, description = "It is none any more", body = RemovePeerResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`peer_not_found`", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been removed", body = Problem),
    ),
)]
pub(super) async fn remove(
    State(native): State<Native>,
    context: Context,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Failure> {
    params::none(&uri)?;
    let name = peer_name(name)?;
    let peer = native.change(FederationCommand::Remove { name }, &context).await?;
    tracing::info!(peer = %peer.name(), "another cluster was removed");
    Ok(json(StatusCode::OK, &RemovePeerResponse { name: peer.name().to_string(), removed: true }))
}

/// Have a rest from another cluster
///
/// It is told nothing, and nothing is taken from it. What is known of it stays until it is believed no longer.
#[utoipa::path(
    post, path = "/api/federation/peers/{name}/pause", tag = "federation", operation_id = "pausePeer",
    params(("name" = String, Path, description = "The peer")),
    responses(
        (status = 200, description = "It is paused", body = PeerInfo),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`peer_not_found`", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been paused", body = Problem),
    ),
)]
pub(super) async fn pause(
    State(native): State<Native>,
    context: Context,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Failure> {
    set_paused(&native, &context, name, &uri, true).await
}

/// Go on with another cluster
///
/// What it missed it is told, and what was missed of it is taken.
#[utoipa::path(
    post, path = "/api/federation/peers/{name}/resume", tag = "federation", operation_id = "resumePeer",
    params(("name" = String, Path, description = "The peer")),
    responses(
        (status = 200, description = "It is not paused", body = PeerInfo),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`peer_not_found`", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been resumed", body = Problem),
    ),
)]
pub(super) async fn resume(
    State(native): State<Native>,
    context: Context,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Failure> {
    set_paused(&native, &context, name, &uri, false).await
}

async fn set_paused(
    native: &Native,
    context: &Context,
    name: Result<Path<String>, PathRejection>,
    uri: &Uri,
    paused: bool,
) -> Result<Response, Failure> {
    params::none(uri)?;
    let name = peer_name(name)?;
    let peer = native.change(FederationCommand::Pause { name, paused }, context).await?;
    tracing::info!(peer = %peer.name(), paused, "another cluster was paused or resumed");
    Ok(json(StatusCode::OK, &native.shown(&peer)))
}

impl Native {
    /// Where it is asked for, sees to it that what is known of other clusters is as fresh as their rolls are now, and says
    /// which of them answered.
    pub(crate) async fn refresh(&self, federated: Federated, tenant: &TenantId) -> Option<Vec<Source>> {
        match federated {
            Federated::Live(patience) => Some(self.pulls.refresh(&self.replica, tenant, patience).await),
            Federated::No | Federated::Copy => None,
        }
    }

    /// This cluster as one that signs; it is given a key if it has none.
    async fn own(&self, context: &Context) -> Result<Own, Failure> {
        let seed = || self.replica.roll().read(|state| state.cluster_seed());
        if seed().is_none() {
            let command = FederationCommand::Found(ClusterSeed(rand::random()));
            match self.submit(Command::Federation(command), context).await?.outcome {
                Outcome::Federation(_) => {}
                Outcome::Refused(refusal) => return Err(refusal.into()),
                other => unreachable!("a key was answered by {other:?}"),
            }
        }
        Ok(Own::of(&seed().expect("it has a key once that was applied here")))
    }

    async fn change(&self, command: FederationCommand, context: &Context) -> Result<Peer, Failure> {
        match self.submit(Command::Federation(command), context).await?.outcome {
            Outcome::Federation(outcome) => match *outcome {
                FederationOutcome::Peer(peer) => Ok(*peer),
                other => unreachable!("a change of peers was answered by {other:?}"),
            },
            Outcome::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a change of peers was answered by {other:?}"),
        }
    }

    fn shown(&self, peer: &Peer) -> PeerInfo {
        let now = self.replica.cluster_time();
        self.replica.roll().read(|state| info(peer, state.foreign_count(peer.name()), now.max(state.now())))
    }
}

fn peer_name(name: Result<Path<String>, PathRejection>) -> Result<PeerName, Failure> {
    let Path(name) = name.map_err(|rejection| Failure::fault("name", rejection.body_text()))?;
    PeerName::parse(&name).map_err(|error| Failure::fault("name", error.to_string()))
}

fn info(peer: &Peer, (instances, bytes): (usize, usize), now: ClusterTime) -> PeerInfo {
    let Peer { terms, since: _, added_at, paused, leaving, received } = peer;
    let key = PublicKey::from_bytes(terms.key.0).map_or_else(|error| error.to_string(), |key| key.to_string());
    let receives = terms.direction.receives() || instances > 0;
    let heard = received.heard_at > ClusterTime(0);
    PeerInfo {
        name: terms.name.to_string(),
        public_key: key,
        urls: terms.urls.iter().map(|url| String::from(&**url)).collect(),
        ca: terms.ca.is_some(),
        direction: match terms.direction {
            Direction::Send => ApiDirection::Send,
            Direction::Receive => ApiDirection::Receive,
            Direction::Both => ApiDirection::Both,
        },
        tenants: terms.tenants.iter().map(|pair| (pair.local.to_string(), pair.remote.to_string())).collect(),
        offered: match terms.offered {
            Offered::Public => ApiOffered::Public,
            Offered::Internal => ApiOffered::Internal,
        },
        selector: (!terms.selector.0.is_empty()).then(|| terms.selector.to_string()),
        trust: translate::trust_out(terms.trust),
        priority: terms.priority,
        paused: *paused,
        leaving: *leaving,
        added_at: rfc3339(*added_at),
        receiving: receives.then(|| ReceivingInfo {
            instances: instances as u64,
            bytes: bytes as u64,
            revision: received.stream.filter(|_| received.resync.is_none()).map(|_| received.position.0),
            resync_received: received.resync.map(|resync| resync.next),
            lacking: received.lacking,
            heard_at: heard.then(|| rfc3339(received.heard_wall)),
            stale: peer.is_stale(now),
            expires_in_ms: now.ms_until(peer.expires_at()),
        }),
        sending: None,
    }
}

/// The body that names a peer, and what holds where it says nothing.
fn terms(body: Value) -> Result<PeerTerms, Faults> {
    let mut faults = Faults::default();
    let terms = Fields::open("", body, &mut faults).and_then(|mut fields| {
        let name = fields.required("name", |text| PeerName::parse(text).map(drop));
        let key = fields.required("public_key", |text| PublicKey::parse(text).map(drop));
        let urls = fields.texts("urls", PEER_URLS_MAX, |text| {
            let is_url = text.len() <= PEER_URL_BYTES_MAX && federation::klp_url(text).is_some();
            is_url.then_some(()).ok_or("must be the http or https URL of a node, as `https://host:7900`")
        });
        if urls.as_ref().is_none_or(Vec::is_empty) {
            fields.fault("urls", "is required: one URL at least");
        }
        let ca = fields.checked("ca", |pem| {
            if pem.len() > PEER_CA_BYTES_MAX {
                return Err(format!("is longer than {PEER_CA_BYTES_MAX} bytes"));
            }
            federation::check_authorities(pem).map_err(|error| format!("holds no certificates in PEM: {error}"))
        });
        let direction = fields.word::<ApiDirection>("direction").unwrap_or(ApiDirection::Both);
        let tenants = tenants(&mut fields);
        let offered = fields.word::<ApiOffered>("offered").unwrap_or(ApiOffered::Public);
        let selector = fields.checked("selector", |text| text.parse::<Selector>().map(drop));
        let trust = match fields.take("trust") {
            None => Some(TRUST_DEFAULT),
            Some(trust) => {
                let trust = trust.as_f64().filter(|trust| parse::is_stepped(*trust, 10, 100));
                if trust.is_none() {
                    fields.fault("trust", parse::stepped_rule(10, 100));
                }
                trust
            }
        };
        let priority = fields.number("priority", 0, u32::MAX).unwrap_or(0);
        fields.finish();
        Some(PeerTerms {
            name: PeerName::parse(&name?).ok()?,
            key: ClusterKey(*PublicKey::parse(&key?).ok()?.as_bytes()),
            urls: urls?.into_iter().map(Into::into).collect(),
            ca: ca.map(Into::into),
            direction: match direction {
                ApiDirection::Send => Direction::Send,
                ApiDirection::Receive => Direction::Receive,
                ApiDirection::Both => Direction::Both,
            },
            tenants: tenants?,
            offered: match offered {
                ApiOffered::Public => Offered::Public,
                ApiOffered::Internal => Offered::Internal,
            },
            selector: selector.map_or(Some(Selector::default()), |text| text.parse().ok())?,
            trust: Trust::try_from((trust? * 100.0).round() as u16).ok()?,
            priority,
        })
    });
    terms.filter(|_| faults.is_empty()).ok_or(faults)
}

/// Tenants of this cluster with the names that they have in the other; each once on either side.
fn tenants(fields: &mut Fields<'_>) -> Option<Box<[TenantPair]>> {
    let tenant = |name: &str| TenantId::parse(name);
    let Some(members) = fields.object("tenants") else {
        let default = tenant(TENANT_DEFAULT).ok()?;
        return Some([TenantPair { local: default.clone(), remote: default }].into());
    };
    if members.is_empty() || members.len() > PEER_TENANTS_MAX {
        fields.fault("tenants", format!("must have 1 to {PEER_TENANTS_MAX} members"));
    }
    let mut pairs = BTreeMap::new();
    for (local, remote) in members {
        let member = format!("tenants.{}", local.escape_debug());
        match (tenant(&local), remote.as_str().map(tenant)) {
            (Ok(local), Some(Ok(remote))) => {
                if pairs.insert(remote.clone(), local).is_some() {
                    fields.fault(&member, format!("is the second to be `{remote}` in the other cluster"));
                }
            }
            (Err(error), _) => fields.fault(&member, format!("name {error}")),
            (_, Some(Err(error))) => fields.fault(&member, error.to_string()),
            (_, None) => fields.fault(&member, "must be the tenant's name in the other cluster"),
        }
    }
    let mut pairs: Vec<_> = pairs.into_iter().map(|(remote, local)| TenantPair { local, remote }).collect();
    pairs.sort_by(|a, b| a.local.cmp(&b.local));
    Some(pairs.into())
}
