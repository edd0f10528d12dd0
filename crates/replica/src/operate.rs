//! What operators ask for: who belongs to the cluster, who votes, and who leads. The rules are the leader's, wherever the
//! request came in.
//!
//! One change runs at a time. Voters change in two steps (the old and the new set both agree, then the new one alone);
//! where a leader dies between them, the next one takes the second step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use openraft::ChangeMembers;
use rollcall_storage::{Member, NodeId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::core::{Core, Metrics};
use crate::membership::{INFO_TIMEOUT, LAG_ENTRIES_MAX, ask_info};
use crate::message::OperateRequest;
use crate::peer::PeerRoute;
use crate::{admission, announce, lead};

/// How long the members may take to agree on a change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a removed node may take to hear of it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// One step of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Takes in the node that waits at this peer address. It becomes a voter once it has caught up, or stays a learner.
    Add {
        peer_address: String,
        api_address: Option<String>,
        learner: bool,
    },
    /// Makes a voter of a learner that has caught up.
    Promote {
        node_id: NodeId,
    },
    /// Makes a learner of a voter, for good.
    Demote {
        node_id: NodeId,
    },
    Remove {
        node_id: NodeId,
    },
    /// Takes in the node at this peer address; once it has caught up it takes the place of the other in one change.
    Replace {
        node_id: NodeId,
        peer_address: String,
        api_address: Option<String>,
    },
    /// A member is reached at another address from now on.
    Relocate {
        node_id: NodeId,
        peer_address: String,
        api_address: Option<String>,
    },
    /// Hands the lead to this voter, or to the one whose log reaches furthest.
    Transfer {
        to: Option<NodeId>,
    },
}

/// How an operation is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Check everything and change nothing.
    pub dry_run: bool,
    /// Even if too few of the voters that would remain can be reached.
    pub force: bool,
    /// Only if the membership is still the one that this log entry set.
    pub if_membership: Option<u64>,
}

/// What came of an operation, or would come of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operated {
    /// The node it was about; none of a dry run that would add one.
    pub node_id: Option<NodeId>,
    pub leader_id: NodeId,
    /// The log entry that set the membership.
    pub membership_index: u64,
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    pub warnings: Vec<String>,
}

/// Why nothing was done, or why that is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OperateError {
    #[error("no leader was found in time; nothing was changed")]
    NoLeader,
    #[error("the change was begun, but not confirmed in time; the cluster's status shows what came of it")]
    Unknown,
    #[error("the cluster has no node {node_id}")]
    NoSuchNode { node_id: NodeId },
    #[error("{reason}")]
    Refused { objection: Objection, reason: String },
}

/// What stands in the way of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Objection {
    MembershipChanged,
    ChangeInProgress,
    AlreadyMember,
    ForeignNode,
    NodeUnreachable,
    NotCaughtUp,
    NotAVoter,
    QuorumAtRisk,
    LastVoter,
    FeatureLevel,
}

pub(crate) fn refused(objection: Objection, reason: impl Into<String>) -> OperateError {
    OperateError::Refused { objection, reason: reason.into() }
}

/// Brings an operation to whoever leads, until `deadline`.
pub(crate) async fn bring(
    core: &Core,
    operation: Operation,
    terms: Terms,
    deadline: Instant,
) -> Result<Operated, OperateError> {
    loop {
        let leader = core.current_leader();
        let answer = match leader {
            Some(leader) if leader == core.node_id => run(core, &operation, terms).await,
            Some(leader) => forward(core, leader, &operation, terms, deadline).await,
            None => Err(OperateError::NoLeader),
        };
        match answer {
            Err(OperateError::NoLeader) if Instant::now() < deadline => core.before_retry(leader).await,
            answer => return answer,
        }
    }
}

async fn forward(
    core: &Core,
    leader: NodeId,
    operation: &Operation,
    terms: Terms,
    deadline: Instant,
) -> Result<Operated, OperateError> {
    let address = core.peer_address(leader).ok_or(OperateError::NoLeader)?;
    let request = OperateRequest { operation: operation.clone(), terms };
    let patience = deadline.saturating_duration_since(Instant::now());
    match core.network.call(leader, &address, PeerRoute::Operate, request, patience).await {
        Ok(answer) => answer,
        Err(error) if error.was_not_sent() => Err(OperateError::NoLeader),
        Err(error) => {
            tracing::warn!(%error, leader, "an operator's request was not answered");
            Err(OperateError::Unknown)
        }
    }
}

/// The leader's part.
pub(crate) async fn run(core: &Core, operation: &Operation, terms: Terms) -> Result<Operated, OperateError> {
    let _one_at_a_time = core.membership.lock().await;
    if core.lead().is_none() {
        return Err(OperateError::NoLeader);
    }
    let metrics = core.metrics();
    let membership_index = index(&metrics);
    if let Some(seen) = terms.if_membership.filter(|seen| *seen != membership_index) {
        let reason = format!(
            "the membership was changed meanwhile: it is that of log entry {membership_index}, not {seen}; look again"
        );
        return Err(refused(Objection::MembershipChanged, reason));
    }
    if let Operation::Transfer { to } = operation {
        return lead::transfer(core, *to, terms).await;
    }
    if !is_settled(&metrics) {
        let reason = "another change of the membership is under way; try again when it is done";
        return Err(refused(Objection::ChangeInProgress, reason));
    }
    let change = Change { core, terms, nodes: nodes(&metrics), voters: voters(&metrics) };
    match operation {
        Operation::Add { peer_address, api_address, learner } => {
            change.add(peer_address, api_address.as_deref(), *learner).await
        }
        Operation::Promote { node_id } => change.promote(*node_id, &metrics).await,
        Operation::Demote { node_id } => change.demote(*node_id).await,
        Operation::Remove { node_id } => change.remove(*node_id).await,
        Operation::Replace { node_id, peer_address, api_address } => {
            change.replace(*node_id, peer_address, api_address.as_deref()).await
        }
        Operation::Relocate { node_id, peer_address, api_address } => {
            announce::relocate(core, *node_id, peer_address, api_address.as_deref(), terms.dry_run).await?;
            Ok(change.done(*node_id, Vec::new()))
        }
        Operation::Transfer { .. } => unreachable!("it was done above"),
    }
}

pub(crate) fn index(metrics: &Metrics) -> u64 {
    metrics.membership_config.log_id().as_ref().map_or(0, |log_id| log_id.index)
}

pub(crate) fn nodes(metrics: &Metrics) -> BTreeMap<NodeId, Member> {
    metrics.membership_config.membership().nodes().map(|(id, member)| (*id, member.clone())).collect()
}

pub(crate) fn voters(metrics: &Metrics) -> BTreeSet<NodeId> {
    metrics.membership_config.membership().voter_ids().collect()
}

/// Whether no change of the membership is under way.
pub(crate) fn is_settled(metrics: &Metrics) -> bool {
    metrics.membership_config == metrics.committed_membership_config
        && metrics.membership_config.membership().get_joint_config().len() == 1
}

/// The cluster as an operation would change it.
struct Change<'a> {
    core: &'a Core,
    terms: Terms,
    nodes: BTreeMap<NodeId, Member>,
    voters: BTreeSet<NodeId>,
}

impl Change<'_> {
    fn member(&self, node_id: NodeId) -> Result<&Member, OperateError> {
        self.nodes.get(&node_id).ok_or(OperateError::NoSuchNode { node_id })
    }

    async fn add(
        &self,
        peer_address: &str,
        api_address: Option<&str>,
        learner: bool,
    ) -> Result<Operated, OperateError> {
        if let Some((id, member)) = self.at(peer_address) {
            let reason = format!("node {id} ({member}) is a member already");
            return Err(refused(Objection::AlreadyMember, reason));
        }
        let greeting = admission::greet(self.core, peer_address).await?;
        let api_address = api_address.map_or(greeting.api_address, str::to_owned);
        let warnings = if learner || greeting.learner { Vec::new() } else { even(self.voters.len() + 1) };
        if self.terms.dry_run {
            return Ok(self.would(None, self.voters.clone(), warnings));
        }
        let member = Member {
            api_address,
            peer_address: peer_address.to_owned(),
            learner: learner || greeting.learner,
            replaces: None,
            feature_level: greeting.feature_level,
        };
        let node_id = admission::adopt(self.core, member).await?;
        Ok(self.done(node_id, warnings))
    }

    /// The member at a peer address.
    fn at(&self, peer_address: &str) -> Option<(NodeId, &Member)> {
        self.nodes.iter().map(|(id, member)| (*id, member)).find(|(_, member)| member.peer_address == peer_address)
    }

    async fn promote(&self, node_id: NodeId, metrics: &Metrics) -> Result<Operated, OperateError> {
        let member = self.member(node_id)?;
        if self.voters.contains(&node_id) {
            return Ok(self.done(node_id, vec![format!("node {node_id} is a voter already")]));
        }
        let lag = lag(metrics, node_id);
        if lag.is_none_or(|lag| lag > LAG_ENTRIES_MAX) {
            let behind = lag.map_or("does not answer".to_owned(), |lag| format!("is {lag} entries behind"));
            let reason = format!(
                "node {node_id} {behind}; it can vote once it lacks no more than {LAG_ENTRIES_MAX}, or commits would wait for it"
            );
            return Err(refused(Objection::NotCaughtUp, reason));
        }
        let mut after = self.voters.clone();
        after.insert(node_id);
        let mut warnings = even(after.len());
        warnings.extend(self.check_quorum(&after, None).await?);
        if self.terms.dry_run {
            return Ok(self.would(Some(node_id), after, warnings));
        }
        let member = Member { learner: false, ..member.clone() };
        let set = ChangeMembers::SetNodes(BTreeMap::from([(node_id, member)]));
        let promote = ChangeMembers::AddVoterIds(BTreeSet::from([node_id]));
        commit(self.core, ChangeMembers::Batch(vec![set, promote]), true).await?;
        Ok(self.done(node_id, warnings))
    }

    async fn demote(&self, node_id: NodeId) -> Result<Operated, OperateError> {
        let member = self.member(node_id)?;
        if !self.voters.contains(&node_id) && member.learner {
            return Ok(self.done(node_id, vec![format!("node {node_id} is a learner already")]));
        }
        let (after, warnings) = self.without(node_id).await?;
        if self.terms.dry_run {
            return Ok(self.would(Some(node_id), after, warnings));
        }
        self.give_up_lead(node_id, &after).await?;
        let member = Member { learner: true, ..member.clone() };
        let set = ChangeMembers::SetNodes(BTreeMap::from([(node_id, member)]));
        let demote = ChangeMembers::RemoveVoters(BTreeSet::from([node_id]));
        commit(self.core, ChangeMembers::Batch(vec![set, demote]), true).await?;
        Ok(self.done(node_id, warnings))
    }

    async fn remove(&self, node_id: NodeId) -> Result<Operated, OperateError> {
        let member = self.member(node_id)?;
        let (after, warnings) = self.without(node_id).await?;
        if self.terms.dry_run {
            let mut would = self.would(Some(node_id), after, warnings);
            would.learners.remove(&node_id);
            return Ok(would);
        }
        self.give_up_lead(node_id, &after).await?;
        let change = if self.voters.contains(&node_id) {
            ChangeMembers::RemoveVoters(BTreeSet::from([node_id]))
        } else {
            ChangeMembers::RemoveNodes(BTreeSet::from([node_id]))
        };
        commit(self.core, change, false).await?;
        farewell(self.core, node_id, member).await;
        Ok(self.done(node_id, warnings))
    }

    async fn replace(
        &self,
        node_id: NodeId,
        peer_address: &str,
        api_address: Option<&str>,
    ) -> Result<Operated, OperateError> {
        self.member(node_id)?;
        if let Some((successor, member)) = self.at(peer_address) {
            if successor == node_id {
                let reason = format!(
                    "{peer_address} is the address of node {node_id} itself; start the new node at another one"
                );
                return Err(refused(Objection::AlreadyMember, reason));
            }
            if self.voters.contains(&successor) {
                // It was taken in and promoted before: what is left to do is to let the other go.
                return self.remove(node_id).await;
            }
            let mut warnings = self.check_replacement(node_id, successor).await?;
            if self.terms.dry_run {
                return Ok(self.would(Some(successor), self.voters.clone(), warnings));
            }
            let member = Member { learner: false, replaces: Some(node_id), ..member.clone() };
            let set = ChangeMembers::SetNodes(BTreeMap::from([(successor, member)]));
            commit(self.core, set, true).await?;
            warnings.push(when_caught_up(successor, node_id));
            return Ok(self.done(successor, warnings));
        }
        let greeting = admission::greet(self.core, peer_address).await?;
        let mut warnings = self.check_replacement(node_id, 0).await?;
        if self.terms.dry_run {
            return Ok(self.would(None, self.voters.clone(), warnings));
        }
        let api_address = api_address.map_or(greeting.api_address, str::to_owned);
        let member = Member {
            api_address,
            peer_address: peer_address.to_owned(),
            learner: false,
            replaces: Some(node_id),
            feature_level: greeting.feature_level,
        };
        let successor = admission::adopt(self.core, member).await?;
        warnings.push(when_caught_up(successor, node_id));
        Ok(self.done(successor, warnings))
    }

    /// Whether a quorum is left with the successor, which answers, in the place of another.
    async fn check_replacement(&self, node_id: NodeId, successor: NodeId) -> Result<Vec<String>, OperateError> {
        let mut after = self.voters.clone();
        after.remove(&node_id);
        after.insert(successor);
        self.check_quorum(&after, Some(successor)).await
    }

    /// The voters without one of them, if that is possible.
    async fn without(&self, node_id: NodeId) -> Result<(BTreeSet<NodeId>, Vec<String>), OperateError> {
        let mut after = self.voters.clone();
        if !after.remove(&node_id) {
            return Ok((after, Vec::new()));
        }
        if after.is_empty() {
            let reason = format!("node {node_id} is the last voter; without it there is no cluster");
            return Err(refused(Objection::LastVoter, reason));
        }
        let mut warnings = even(after.len());
        warnings.extend(self.check_quorum(&after, None).await?);
        Ok((after, warnings))
    }

    /// Refuses voters of which too few answer, or warns if it is forced.
    async fn check_quorum(
        &self,
        after: &BTreeSet<NodeId>,
        answers: Option<NodeId>,
    ) -> Result<Vec<String>, OperateError> {
        let asked = after.iter().map(|id| async move {
            let known = *id == self.core.node_id || answers == Some(*id);
            match self.nodes.get(id) {
                _ if known => Ok(()),
                Some(member) => ask_info(self.core, *id, member, INFO_TIMEOUT).await.map(drop).ok_or(*id),
                None => Err(*id),
            }
        });
        let silent: Vec<NodeId> = join_all(asked).await.into_iter().filter_map(Result::err).collect();
        let (reachable, quorum) = (after.len() - silent.len(), after.len() / 2 + 1);
        if reachable >= quorum {
            return Ok(Vec::new());
        }
        let silent = silent.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
        let loss = format!(
            "of the {} voters there would be, {quorum} must answer and {reachable} do (silent: {silent}): \
             until others are back nothing could be written, and no further change made",
            after.len()
        );
        if self.terms.force {
            return Ok(vec![loss]);
        }
        let reason = format!("{loss}. Bring them back first, or force it if that is understood");
        Err(refused(Objection::QuorumAtRisk, reason))
    }

    /// A leader that is to go hands over first; whoever leads then is asked again.
    async fn give_up_lead(&self, node_id: NodeId, after: &BTreeSet<NodeId>) -> Result<(), OperateError> {
        if node_id != self.core.node_id {
            return Ok(());
        }
        let Some(successor) = lead::best(self.core, after) else {
            let reason = format!("node {node_id} leads, and no other voter answers that could take over");
            return Err(refused(Objection::QuorumAtRisk, reason));
        };
        lead::hand_over(self.core, successor).await;
        Err(OperateError::NoLeader)
    }

    fn would(&self, node_id: Option<NodeId>, voters: BTreeSet<NodeId>, warnings: Vec<String>) -> Operated {
        let metrics = self.core.metrics();
        let learners = self.nodes.keys().filter(|id| !voters.contains(id)).copied().collect();
        Operated {
            node_id,
            leader_id: self.core.node_id,
            membership_index: index(&metrics),
            voters,
            learners,
            warnings,
        }
    }

    fn done(&self, node_id: NodeId, warnings: Vec<String>) -> Operated {
        let metrics = self.core.metrics();
        let voters = voters(&metrics);
        let learners = nodes(&metrics).into_keys().filter(|id| !voters.contains(id)).collect();
        Operated {
            node_id: Some(node_id),
            leader_id: self.core.node_id,
            membership_index: index(&metrics),
            voters,
            learners,
            warnings,
        }
    }
}

fn when_caught_up(successor: NodeId, node_id: NodeId) -> String {
    format!("node {successor} takes the place of node {node_id} as soon as it has caught up")
}

fn even(voters: usize) -> Vec<String> {
    if voters.is_multiple_of(2) {
        vec![format!("{voters} voters bear the loss of no more nodes than {} do", voters - 1)]
    } else {
        Vec::new()
    }
}

/// How many entries a member lacks; none if it does not answer.
pub(crate) fn lag(metrics: &Metrics, node_id: NodeId) -> Option<u64> {
    let matched = metrics.replication.as_ref()?.get(&node_id)?.as_ref()?.index;
    Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matched))
}

/// Has the members agree on a change.
pub(crate) async fn commit(
    core: &Core,
    change: ChangeMembers<NodeId, Member>,
    retain: bool,
) -> Result<(), OperateError> {
    let agreed = tokio::time::timeout(CHANGE_TIMEOUT, core.raft.change_membership(change.clone(), retain)).await;
    match agreed {
        Ok(Ok(_)) => {
            tracing::info!(?change, "the membership changed");
            Ok(())
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, ?change, "the membership did not change");
            Err(OperateError::Unknown)
        }
        Err(_) => {
            tracing::warn!(?change, "the members do not agree on the change yet");
            Err(OperateError::Unknown)
        }
    }
}

/// Tells a node that it was removed. One that is out of reach finds out by itself when it is back.
pub(crate) async fn farewell(core: &Core, node_id: NodeId, member: &Member) {
    let telling = core.network.call(node_id, &member.peer_address, PeerRoute::Farewell, (), FAREWELL_TIMEOUT);
    let told: Result<(), _> = telling.await;
    if let Err(error) = told {
        tracing::info!(%error, node = node_id, "a removed node was not told; it will ask when it is back");
    }
}
