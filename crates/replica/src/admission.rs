//! How a node comes into the cluster: it asks by itself to be taken in, or an operator names it and it is fetched.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::ChangeMembers;
use parking_lot::Mutex;
use rollcall_registry::{
    Admission, Command, FeatureLevel, JoinTokenCommand, JoinTokenRefusal, NODE_ADDRESS_BYTES_MAX, Outcome, Refusal,
};
use rollcall_storage::codec::{self, Kind};
use rollcall_storage::{ClusterId, Member, NodeId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::core::Core;
use crate::join_secret::JoinSecret;
use crate::membership::cluster_feature_level;
use crate::message::{Adoption, Greeting, JoinRequest, JoinResponse};
use crate::network;
use crate::operate::{Objection, OperateError, commit, refused};
use crate::peer::{PeerRefusal, PeerRoute, Sent};
use crate::proposer::Request;

/// How long a node may take to say who it is, and to write down who it has become.
const GREET_TIMEOUT: Duration = Duration::from_secs(2);
const ADOPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the members may take to note that a token was used.
const SPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes in a node that has no identity yet and asks for one: an id from the log, then a learner.
pub(crate) async fn take_in(core: &Core, request: JoinRequest) -> JoinResponse {
    // Said by whichever member was asked, so that a rule that not all of them were told is kept by most.
    if core.options.join_token_required && request.token.is_none() {
        let reason = "this cluster takes in nobody without a join token: make one by `rollcall cluster join-token` and \
                      give it to the node by --join-token or ROLLCALL_JOIN_TOKEN";
        return JoinResponse::Refused { reason: reason.to_owned() };
    }
    let _one_at_a_time = core.membership.lock().await;
    let not_leader = || JoinResponse::NotLeader {
        leader_peer_address: core
            .current_leader()
            .filter(|leader| *leader != core.node_id)
            .and_then(|leader| core.peer_address(leader)),
    };
    if core.lead().is_none() {
        return not_leader();
    }
    // Before anything about the members is told.
    let admission = match admission(core, &request) {
        Ok(admission) => admission,
        Err(reason) => return JoinResponse::Refused { reason },
    };
    if let Some(reason) = too_old(core, request.feature_level) {
        return JoinResponse::Refused { reason };
    }
    let membership = core.metrics().membership_config;
    let voters: BTreeSet<NodeId> = membership.membership().voter_ids().collect();
    for (id, member) in membership.membership().nodes() {
        if member.peer_address != request.peer_address {
            continue;
        }
        if voters.contains(id) {
            let reason = format!(
                "node {id} is a voter at {}; if its data directory is lost, remove node {id} from the cluster first",
                member.peer_address
            );
            return JoinResponse::Refused { reason };
        }
        if core.answers(*id, 4 * core.quorum_lease()) {
            let reason = format!("node {id} at {} is a member and answers", member.peer_address);
            return JoinResponse::Refused { reason };
        }
        // A join that was cut short: its id is spent, and nothing ever ran under it as a voter.
        if commit(core, ChangeMembers::RemoveNodes(BTreeSet::from([*id])), true).await.is_err() {
            return not_leader();
        }
    }
    if let Some(admission) = admission {
        match spend(core, admission).await {
            Ok(()) => {}
            Err(Some(refusal)) => return JoinResponse::Refused { reason: advised(refusal) },
            Err(None) => return not_leader(),
        }
    }
    let JoinRequest { api_address, peer_address, learner, token: _, feature_level } = request;
    match enrol(core, Member { api_address, peer_address, learner, replaces: None, feature_level }).await {
        Ok(node_id) => JoinResponse::Welcome { cluster: core.cluster, node_id },
        Err(_) => not_leader(),
    }
}

/// Why a program of this feature level cannot take part: it could not read the log.
fn too_old(core: &Core, feature_level: FeatureLevel) -> Option<String> {
    let level = cluster_feature_level(core);
    (feature_level < level).then(|| {
        format!(
            "its program has feature level {feature_level}, and the cluster is at {level}: run a version as new as that of \
             the members"
        )
    })
}

/// What a node that asks to be taken in proves by its token; none if it brought none.
fn admission(core: &Core, request: &JoinRequest) -> Result<Option<Admission>, String> {
    for address in [&request.peer_address, &request.api_address] {
        if address.len() > NODE_ADDRESS_BYTES_MAX {
            let bytes = address.len();
            return Err(format!("an address of {bytes} bytes; at most {NODE_ADDRESS_BYTES_MAX} are allowed"));
        }
    }
    let Some(token) = &request.token else { return Ok(None) };
    let secret = JoinSecret::parse(token)
        .ok_or_else(|| "what it brings is no join token; `rollcall cluster join-token` makes one".to_owned())?;
    let admission = secret.admission(&request.peer_address, request.learner);
    let now = core.cluster_time();
    core.roll.read(|state| state.check_admission(&admission, now)).map_err(advised)?;
    Ok(Some(admission))
}

/// Notes in the log that a token was used, where it is judged once more. None of a refusal: it was not noted.
async fn spend(core: &Core, admission: Admission) -> Result<(), Option<JoinTokenRefusal>> {
    let id = admission.id;
    let spend = Command::JoinToken(JoinTokenCommand::Spend(admission));
    let request = Request { commands: vec![spend], ..Request::default() };
    let answer = core.queue.submit(request, Instant::now() + SPEND_TIMEOUT).await.map_err(|error| {
        tracing::warn!(%error, token = %id, "cannot note that a join token was used");
        None
    })?;
    match answer.outcomes.as_slice() {
        [Outcome::JoinToken(token)] => {
            tracing::info!(token = %id, uses = token.uses, "a join token was used");
            Ok(())
        }
        [Outcome::Refused(Refusal::JoinToken(refusal))] => Err(Some(*refusal)),
        outcomes => unreachable!("a join token was answered by {outcomes:?}"),
    }
}

/// A refusal with what the operator can do.
fn advised(refusal: JoinTokenRefusal) -> String {
    let step = match refusal {
        JoinTokenRefusal::LearnersOnly => "start the node with --node-role learner, or make a token for voters",
        _ => "make a new one by `rollcall cluster join-token`",
    };
    format!("{refusal}; {step}")
}

/// Gives a new member an id and makes it a learner.
async fn enrol(core: &Core, member: Member) -> Result<NodeId, OperateError> {
    // An entry's index is never given twice, so it makes an id that was never used before.
    let written = core.raft.write_blank().await;
    let node_id = written.map(|written| written.log_id.index).map_err(|error| {
        tracing::warn!(%error, "cannot allot a node id");
        OperateError::NoLeader
    })?;
    match core.raft.add_learner(node_id, member.clone(), false).await {
        Ok(_) => {
            tracing::info!(node = node_id, %member, "a node was taken in as a learner");
            Ok(node_id)
        }
        Err(error) => {
            tracing::warn!(%error, node = node_id, "cannot take in a node");
            Err(OperateError::Unknown)
        }
    }
}

/// Asks whoever listens at a peer address who it is; refuses all but a node that waits to be added.
pub(crate) async fn greet(core: &Core, peer_address: &str) -> Result<Greeting, OperateError> {
    let transport = core.network.transport();
    let greeted = network::call(transport, peer_address, PeerRoute::Greet, &(), GREET_TIMEOUT, Sent::default());
    let greeting: Greeting = greeted.await.map_err(|error| {
        tracing::info!(%error, peer = peer_address, "a node that is to be added does not answer");
        let reason = format!(
            "nobody waits at {peer_address} to be added: start `rollcall serve` there on an empty directory, with neither \
             --bootstrap nor --join, then try again"
        );
        refused(Objection::NodeUnreachable, reason)
    })?;
    match greeting.identity {
        None => match too_old(core, greeting.feature_level) {
            Some(reason) => Err(refused(Objection::FeatureLevel, format!("the node at {peer_address}: {reason}"))),
            None => Ok(greeting),
        },
        Some((cluster, node_id)) if cluster == core.cluster => {
            let reason = format!(
                "the node at {peer_address} is node {node_id} of this cluster by its directory; an id is never given \
                 twice, so that one that was removed starts again on an empty directory"
            );
            Err(refused(Objection::AlreadyMember, reason))
        }
        Some((cluster, node_id)) => {
            let reason = format!("the node at {peer_address} is node {node_id} of another cluster, {cluster}");
            Err(refused(Objection::ForeignNode, reason))
        }
    }
}

/// Takes in a node that waits to be added, and tells it who it is now.
pub(crate) async fn adopt(core: &Core, member: Member) -> Result<NodeId, OperateError> {
    let peer_address = member.peer_address.clone();
    let node_id = enrol(core, member).await?;
    let adoption = Adoption { cluster: core.cluster, node_id };
    let transport = core.network.transport();
    let told = network::call(transport, &peer_address, PeerRoute::Adopt, &adoption, ADOPT_TIMEOUT, Sent::default());
    match told.await {
        Ok(()) => Ok(node_id),
        Err(error) => {
            tracing::warn!(%error, peer = peer_address, node = node_id, "a node did not take its id; it is forgotten");
            // It may have: then it finds out as every removed node does.
            commit(core, ChangeMembers::RemoveNodes(BTreeSet::from([node_id])), true).await?;
            let reason = format!("the node at {peer_address} was not told in time that it was added; try again");
            Err(refused(Objection::NodeUnreachable, reason))
        }
    }
}

/// Where a node without an identity waits until an operator adds it. Cheap to clone; clones are one door.
#[derive(Clone, Debug)]
pub struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Set while somebody waits behind it.
    greeting: Mutex<Option<Greeting>>,
    knocks: mpsc::Sender<Knock>,
    waiting: tokio::sync::Mutex<mpsc::Receiver<Knock>>,
}

/// An adoption, and where to say that it is kept.
#[derive(Debug)]
struct Knock {
    adoption: Adoption,
    kept: oneshot::Sender<()>,
}

/// Says to the leader that the identity is written down.
#[derive(Debug)]
pub(crate) struct Kept(oneshot::Sender<()>);

impl Kept {
    pub(crate) fn tell(self) {
        // The leader may have given up; then the node finds out that it is no member.
        let _ = self.0.send(());
    }
}

impl Default for Door {
    fn default() -> Self {
        let (knocks, waiting) = mpsc::channel(1);
        Self(Arc::new(Inner { greeting: Mutex::default(), knocks, waiting: tokio::sync::Mutex::new(waiting) }))
    }
}

impl Door {
    /// Waits until a leader takes this node in.
    pub(crate) async fn wait(&self, greeting: Greeting) -> (ClusterId, NodeId, Kept) {
        *self.0.greeting.lock() = Some(greeting);
        let knock = self.0.waiting.lock().await.recv().await.expect("the door keeps a sender");
        *self.0.greeting.lock() = None;
        let Adoption { cluster, node_id } = knock.adoption;
        (cluster, node_id, Kept(knock.kept))
    }

    /// Answers a peer before the member runs; none if there is nobody behind the door.
    pub async fn answer(&self, route: PeerRoute, body: Bytes) -> Option<Result<Bytes, PeerRefusal>> {
        let greeting = self.0.greeting.lock().clone()?;
        match route {
            PeerRoute::Greet => Some(Ok(codec::encode(Kind::PeerResponse, &greeting).into())),
            PeerRoute::Adopt => Some(self.adopted(&body).await),
            _ => None,
        }
    }

    async fn adopted(&self, body: &[u8]) -> Result<Bytes, PeerRefusal> {
        let adoption =
            codec::decode(Kind::PeerRequest, body).map_err(|error| PeerRefusal::Malformed(error.to_string()))?;
        let (kept, is_kept) = oneshot::channel();
        let taken = || PeerRefusal::Unavailable("another leader was faster".to_owned());
        self.0.knocks.try_send(Knock { adoption, kept }).map_err(|_| taken())?;
        is_kept.await.map_err(|_| taken())?;
        Ok(codec::encode(Kind::PeerResponse, &()).into())
    }
}
