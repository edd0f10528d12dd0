//! What a member tells the others of itself: where it is reached and what its program can do. The membership keeps it, so
//! that all know it, whether the member runs or not.
//!
//! A member that was started at another address cannot be reached by anybody, but reaches them: it asks around for the
//! leader. Whoever leads believes no address before it has dialled it and the member answered there, and nowhere else: a
//! copied directory that runs twice is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use rollcall_registry::NODE_ADDRESS_BYTES_MAX;
use rollcall_storage::{Member, NodeId};
use tokio::time::MissedTickBehavior;

use crate::core::Core;
use crate::membership::{INFO_TIMEOUT, ask_info, cluster_feature_level};
use crate::message::{AnnounceResponse, Announcement};
use crate::operate::{self, Objection, OperateError, refused};
use crate::peer::PeerRoute;

/// Between two rounds of asking around. Nobody reaches a member that has moved, so the first comes at once.
const ROUND_INTERVAL: Duration = Duration::from_millis(500);

/// How long the leader may take to dial the new address and have the members agree.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(12);

/// Tells the cluster what has changed of this member since it was last told, until the membership says so.
pub(crate) async fn drive(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(ROUND_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let metrics = core.metrics();
        let Some(known) = metrics.membership_config.membership().get_node(&core.node_id) else { continue };
        let own = own(&core);
        if own.is(known) {
            // What an old membership says proves nothing. From here on it is the operator's to change.
            if core.staleness().is_some() {
                return;
            }
            continue;
        }
        if told.is_none() {
            tracing::info!(was = %known, peer_address = own.peer_address, api_address = own.api_address,
                feature_level = %own.feature_level, "telling the cluster what is new of this node");
        }
        let answer = tokio::select! {
            () = core.stop.cancelled() => return,
            answer = ask_around(&core, &own) => answer,
        };
        if let Some(reason) = answer
            && told.as_ref() != Some(&reason)
        {
            tracing::warn!(reason, "the cluster does not take what is new of this node; it is told again and again");
            told = Some(reason);
        } else {
            told.get_or_insert_default();
        }
    }
}

/// What is to be known of this member.
fn own(core: &Core) -> Announcement {
    Announcement {
        api_address: core.options.api_address.clone(),
        peer_address: core.options.peer_address.clone(),
        feature_level: core.options.feature_level,
    }
}

impl Announcement {
    /// Whether the membership says the same.
    fn is(&self, known: &Member) -> bool {
        let Member { api_address, peer_address, feature_level, .. } = known;
        (api_address, peer_address, feature_level) == (&self.api_address, &self.peer_address, &self.feature_level)
    }
}

/// Tells whoever leads. Answers why it was refused, if it was.
async fn ask_around(core: &Core, own: &Announcement) -> Option<String> {
    if core.lead().is_some() {
        return refusal(note(core, core.node_id, own).await);
    }
    let membership = core.metrics().membership_config.membership().clone();
    let others = membership.nodes().filter(|(id, _)| **id != core.node_id);
    let mut to_ask: Vec<(NodeId, String)> = others.map(|(id, member)| (*id, member.peer_address.clone())).collect();
    let mut asked = BTreeSet::new();
    while let Some((id, address)) = to_ask.pop() {
        if !asked.insert((id, address.clone())) {
            continue;
        }
        let call = core.network.call(id, &address, PeerRoute::Announce, own.clone(), ANNOUNCE_TIMEOUT);
        match call.await {
            Ok(AnnounceResponse::NotLeader { leader: Some(leader) }) => to_ask.push(leader),
            Ok(AnnounceResponse::NotLeader { leader: None }) => {}
            Ok(answer) => return refusal(answer),
            Err(error) => tracing::debug!(%error, node = id, "a member does not hear what is new of this node"),
        }
    }
    None
}

fn refusal(answer: AnnounceResponse) -> Option<String> {
    match answer {
        AnnounceResponse::Refused { reason } => Some(reason),
        AnnounceResponse::Noted | AnnounceResponse::NotLeader { .. } => None,
    }
}

/// The leader's part: has the members agree on what a member says of itself.
pub(crate) async fn note(core: &Core, from: NodeId, news: &Announcement) -> AnnounceResponse {
    let _one_at_a_time = core.membership.lock().await;
    let not_leader = || {
        let leader = core.current_leader().filter(|leader| *leader != core.node_id);
        AnnounceResponse::NotLeader { leader: leader.and_then(|leader| Some((leader, core.peer_address(leader)?))) }
    };
    let metrics = core.metrics();
    // A change that is under way comes first.
    if core.lead().is_none() || !operate::is_settled(&metrics) {
        return not_leader();
    }
    let membership = metrics.membership_config.membership();
    let refused = |reason| AnnounceResponse::Refused { reason };
    let Some(known) = membership.get_node(&from) else {
        return refused(format!("node {from} is no member of this cluster"));
    };
    if news.is(known) {
        return AnnounceResponse::Noted;
    }
    let level = cluster_feature_level(core);
    if news.feature_level < level {
        return refused(format!(
            "its program has feature level {}, and the cluster is at {level}: run a version as new as the others'",
            news.feature_level
        ));
    }
    let member = Member {
        api_address: news.api_address.clone(),
        peer_address: news.peer_address.clone(),
        feature_level: news.feature_level,
        ..known.clone()
    };
    match change(core, from, known, member).await {
        Ok(()) => AnnounceResponse::Noted,
        Err(OperateError::Refused { reason, .. }) => refused(reason),
        Err(_) => not_leader(),
    }
}

/// Changes where a member is reached, for an operator who knows it before the member does.
pub(crate) async fn relocate(
    core: &Core,
    node_id: NodeId,
    peer_address: &str,
    api_address: Option<&str>,
    dry_run: bool,
) -> Result<(), OperateError> {
    let metrics = core.metrics();
    let membership = metrics.membership_config.membership();
    let known = membership.get_node(&node_id).ok_or(OperateError::NoSuchNode { node_id })?;
    let member = Member {
        peer_address: peer_address.to_owned(),
        api_address: api_address.unwrap_or(&known.api_address).to_owned(),
        ..known.clone()
    };
    match dry_run {
        _ if member == *known => Ok(()),
        true => check(core, node_id, known, &member).await,
        false => change(core, node_id, known, member).await,
    }
}

async fn change(core: &Core, node_id: NodeId, known: &Member, member: Member) -> Result<(), OperateError> {
    check(core, node_id, known, &member).await?;
    let set = ChangeMembers::SetNodes(BTreeMap::from([(node_id, member.clone())]));
    operate::commit(core, set, true).await?;
    // openraft keeps its way to a member that stays one.
    core.network.moved(node_id, member.peer_address);
    Ok(())
}

/// Whether a member is reached at another address, and there alone.
async fn check(core: &Core, node_id: NodeId, known: &Member, member: &Member) -> Result<(), OperateError> {
    let too_long = [&member.peer_address, &member.api_address].into_iter().any(|a| a.len() > NODE_ADDRESS_BYTES_MAX);
    if too_long {
        let reason = format!("an address has more than {NODE_ADDRESS_BYTES_MAX} bytes");
        return Err(refused(Objection::NodeUnreachable, reason));
    }
    let address = &member.peer_address;
    if node_id == core.node_id || *address == known.peer_address {
        return Ok(());
    }
    let metrics = core.metrics();
    let mut others = metrics.membership_config.membership().nodes().filter(|(id, _)| **id != node_id);
    if let Some((other, _)) = others.find(|(_, other)| other.peer_address == *address) {
        let reason = format!("{address} is the address of node {other}");
        return Err(refused(Objection::AlreadyMember, reason));
    }
    let there = ask_info(core, node_id, member, INFO_TIMEOUT).await.ok_or_else(|| {
        let reason = format!(
            "node {node_id} does not answer at {address}: is it started there, with this as its peer_advertise, and does \
             nothing stand between?"
        );
        refused(Objection::NodeUnreachable, reason)
    })?;
    // The same process may well be reached by two names.
    match ask_info(core, node_id, known, INFO_TIMEOUT).await {
        Some(here) if here.process != there.process => {
            let reason = format!(
                "node {node_id} answers at {address} and at {} as well: two processes run on copies of one directory; end \
                 one of them and remove its directory",
                known.peer_address
            );
            Err(refused(Objection::ForeignNode, reason))
        }
        _ => Ok(()),
    }
}
