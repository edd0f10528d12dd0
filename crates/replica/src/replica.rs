//! The handle to one member: options in, tasks until shutdown, a cheap handle out.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use rollcall_registry::{ClusterTime, Command, Digest, FeatureLevel, Outcome, Revision};
use rollcall_storage::{
    Backup, ClusterId, DataDir, FailureWatch, Identity, Member, NodeId, NodeLog, OpenError, Release, Roll, Stores,
    WeakDataDir,
};
use tokio::sync::{Notify, SetOnce};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::Kept;
use crate::barrier::{self, BarrierError, Consistency, DigestError, Freshness};
use crate::core::{Core, Forgot, Raft};
use crate::failure::{Failure, StartError};
use crate::freshness::Stamps;
use crate::membership::{self, ClusterStatus};
use crate::message::{Greeting, JoinRequest, JoinResponse};
use crate::meters::{self, Meters, Observation};
use crate::network::{self, AnyTransport, Network};
use crate::operate::{OperateError, Operated, Operation, Terms};
use crate::options::{Options, StartMode};
use crate::peer::{ByteStream, PeerRefusal, PeerRoute, Sent, Transport};
use crate::proposer::{self, Course, Request, SubmitError};
use crate::wall_clocks::{self, WallClocks};
use crate::{announce, driver, handler, lead, operate, pacer, read_index, succession};

/// The founder's id. Later ones are indexes of log entries, and the founder's own entries come before the first of them.
pub(crate) const FOUNDER: NodeId = 1;

/// How long one attempt to join may take.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A node that was removed answers what is committed already within this; the rest it will never know.
const REMOVED_GRACE: Duration = Duration::from_millis(100);

/// How often a member that runs looks whether its raft task has died.
const FAILURE_INTERVAL: Duration = Duration::from_millis(100);

/// Between two rounds of asking everybody to be taken in.
const JOIN_PAUSE: Duration = Duration::from_millis(250);

/// What became of a command.
#[derive(Clone, Debug)]
pub struct Applied {
    pub outcome: Outcome,
    /// The roll's revision after the entry.
    pub revision: Revision,
    pub course: Course,
}

/// One named condition of readiness.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    pub detail: String,
}

/// A running member. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    core: Arc<Core>,
    failure: FailureWatch,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
    release: Arc<Mutex<Option<Release>>>,
    dir: WeakDataDir,
    broken: CancellationToken,
}

impl Replica {
    /// Opens the directory, founds or joins or resumes, and starts the member's tasks. Joining goes on until a member
    /// answers; drop the future to give up.
    pub async fn start<T: Transport>(options: Options, transport: T) -> Result<Self, StartError> {
        Self::start_on(options, transport, rollcall_storage::open).await
    }

    /// As [`Self::start`], on stores that `open` opens: a simulation brings a log of its own.
    pub async fn start_on<T: Transport, L: NodeLog>(
        options: Options,
        transport: T,
        open: impl FnOnce(&DataDir, rollcall_registry::Options) -> Result<Stores<L>, OpenError> + Send + 'static,
    ) -> Result<Self, StartError> {
        let config = options.consensus()?;
        let dir = DataDir::lock(&options.data_dir)?;
        let transport: Arc<dyn AnyTransport> = Arc::new(Arc::new(transport));
        let identity = match dir.identity() {
            Some(identity) => identity,
            None => {
                let (identity, kept) = first_identity(&options, &*transport).await?;
                dir.write_identity(identity)?;
                if let Some(kept) = kept {
                    kept.tell();
                }
                identity
            }
        };
        let Identity { cluster_id: cluster, node_id, .. } = identity;
        let registry = rollcall_registry::Options { seed: rand::random(), history: options.history };
        let (opened, start) = {
            let (dir, path) = (dir.clone(), options.data_dir.clone());
            let opening = tokio::task::spawn_blocking(move || {
                let opened =
                    open(&dir, registry).map_err(|source| StartError::Open { path: path.clone(), source })?;
                let start =
                    driver::count_start(&opened, node_id).map_err(|source| StartError::Count { path, source })?;
                Ok::<_, StartError>((opened, start))
            });
            opening.await.map_err(|error| StartError::Raft { source: error.into() })??
        };
        let cluster_level = membership::lowest_feature_level(opened.roll.membership().membership());
        if let Some(level) = cluster_level.filter(|level| *level > options.feature_level) {
            return Err(StartError::TooOld { own: options.feature_level, level });
        }
        let append_patience = Duration::from_millis(options.election_timeout_ms_max);
        let network = Network::new(transport.clone(), cluster, node_id, append_patience);
        let raft = Raft::new(node_id, config, network.clone(), opened.log, opened.state_machine)
            .await
            .map_err(|error| StartError::Raft { source: error.into() })?;
        // A founder that was cut short between its identity and its first entry is resumed like any other.
        if node_id == FOUNDER {
            found(&raft, &options).await?;
        }
        opened.roll.begin_tally();
        let (queue, waiting) = proposer::queue(options.trace.is_some());
        let (rounds, readers) = read_index::rounds();
        let meters = Meters::new(opened.flush_durations, network.snapshots_sent.clone());
        let core = Arc::new(Core {
            options,
            cluster,
            node_id,
            raft,
            roll: opened.roll,
            log_end: opened.log_end,
            snapshots: opened.receiver,
            backups: opened.backups,
            network,
            queue,
            rounds,
            stop: CancellationToken::new(),
            removed: CancellationToken::new(),
            forgot: SetOnce::new(),
            membership: tokio::sync::Mutex::new(()),
            leading: Mutex::default(),
            freshness: Mutex::default(),
            told: Mutex::new(None),
            stamps: Stamps::new(rand::random(), Instant::now()),
            contact_lost: Notify::new(),
            meters,
            wall_clocks: WallClocks::default(),
            autopilot: Mutex::default(),
        });
        let broken = CancellationToken::new();
        let watched = |task: JoinHandle<()>| {
            let broken = broken.clone();
            tokio::spawn(async move {
                if task.await.is_err_and(|error| error.is_panic()) {
                    broken.cancel();
                }
            })
        };
        let tasks = vec![
            watched(tokio::spawn(driver::drive(core.clone(), waiting, start))),
            watched(tokio::spawn(read_index::drive(core.clone(), readers))),
            watched(tokio::spawn(barrier::catch_up(core.clone()))),
            watched(tokio::spawn(pacer::drive(core.clone()))),
            watched(tokio::spawn(membership::promote(core.clone()))),
            watched(tokio::spawn(announce::drive(core.clone()))),
            watched(tokio::spawn(membership::watch_standing(core.clone()))),
            watched(tokio::spawn(succession::drive(core.clone()))),
            watched(tokio::spawn(wall_clocks::drive(core.clone()))),
        ];
        tracing::info!(%cluster, node = node_id, "the member runs");
        let (tasks, release) = (Arc::new(Mutex::new(tasks)), Arc::new(Mutex::new(Some(dir.release()))));
        Ok(Self { core, failure: opened.failure, tasks, release, dir: dir.downgrade(), broken })
    }

    /// Proposes one command and waits until it is applied here. It is held through elections until `deadline`.
    pub async fn submit(&self, command: Command, deadline: Instant) -> Result<Applied, SubmitError> {
        let needed = command.feature_level();
        // What every program can read is most of what there is, and is not held up by looking.
        if needed > FeatureLevel(1) {
            let cluster = membership::cluster_feature_level(&self.core);
            if needed > cluster {
                return Err(SubmitError::FeatureLevel { needed, cluster });
            }
        }
        let request = Request { commands: vec![command], ..Request::default() };
        let mut answer = tokio::select! {
            biased;
            answer = self.core.queue.submit(request, deadline) => answer?,
            () = self.cut_off() => return Err(SubmitError::Unknown),
        };
        match answer.outcomes.pop() {
            Some(outcome) => Ok(Applied { outcome, revision: answer.revision, course: answer.course }),
            None => Err(SubmitError::Unknown),
        }
    }

    /// Makes sure that what [`Self::roll`] shows next fulfils the requirement.
    pub async fn barrier(&self, wanted: Consistency, deadline: Instant) -> Result<Freshness, BarrierError> {
        tokio::select! {
            biased;
            reached = self.core.barrier(wanted, deadline) => reached,
            () = self.cut_off() => Err(BarrierError::NoLeader),
        }
    }

    /// Waits until this node was removed, and a moment for what is about to be answered: nothing more comes to it after that.
    async fn cut_off(&self) {
        self.core.removed.cancelled().await;
        tokio::time::sleep(REMOVED_GRACE).await;
    }

    pub fn roll(&self) -> &Roll {
        &self.core.roll
    }

    /// The term in which this node leads, if it does.
    pub fn leads(&self) -> Option<u64> {
        let (term, leader) = self.core.leadership()?;
        (leader == self.core.node_id).then_some(term)
    }

    pub fn cluster_id(&self) -> ClusterId {
        self.core.cluster
    }

    pub fn node_id(&self) -> NodeId {
        self.core.node_id
    }

    /// Whom this node believes to lead.
    pub fn leader(&self) -> Option<NodeId> {
        self.core.current_leader()
    }

    /// Cluster time as well as this node can tell. For showing what remains of a lease; it decides nothing.
    pub fn cluster_time(&self) -> ClusterTime {
        self.core.cluster_time()
    }

    /// Asks the other members how they are; those that do not answer within half a second count as out of reach.
    pub async fn status(&self) -> ClusterStatus {
        membership::status(&self.core).await
    }

    /// Has the leader do what an operator asks for, waiting for a leader until `deadline`.
    pub async fn operate(
        &self,
        operation: Operation,
        terms: Terms,
        deadline: Instant,
    ) -> Result<Operated, OperateError> {
        operate::bring(&self.core, operation, terms, deadline).await
    }

    /// How this member stands now, as far as it knows by itself.
    pub fn observe(&self) -> Observation {
        meters::observe(&self.core)
    }

    /// What this member has counted since it started.
    pub fn meters(&self) -> &Meters {
        &self.core.meters
    }

    /// How many bytes each store has on disk. Blocks for a moment.
    pub fn disk_usage(&self) -> [(&'static str, u64); 3] {
        DataDir::usage(&self.core.options.data_dir)
    }

    /// A digest of the whole state at exactly `index`, or where this node is now.
    pub async fn digest(&self, index: Option<u64>, deadline: Instant) -> Result<(u64, Digest), DigestError> {
        self.core.digest(index, deadline).await
    }

    /// Everything that is applied here, as it is now. Takes as long as writing a checkpoint does, and holds up nothing.
    ///
    /// # Errors
    /// When the member stopped, or the store fails, which breaks the member.
    pub async fn backup(&self) -> io::Result<Backup> {
        self.core.backups.take(self.core.cluster, self.core.node_id, self.core.options.version).await
    }

    /// What must hold for this node to be given work.
    pub fn readiness(&self) -> Vec<Check> {
        // A node that is cut off goes on believing in the leader it last heard of.
        let silence_max = Duration::from_millis(4 * self.core.options.election_timeout_ms_max);
        let staleness = self.core.staleness();
        let heard = staleness.is_none_or(|staleness| staleness <= silence_max);
        let leader = self.core.current_leader().filter(|_| heard);
        let failure = self.failure.get();
        vec![
            Check {
                name: "leader",
                ok: leader.is_some(),
                detail: leader.map_or("no leader is known".to_owned(), |leader| format!("node {leader} leads")),
            },
            Check {
                name: "caught_up",
                ok: staleness.is_some(),
                detail: staleness.map_or("not current since it started".to_owned(), |staleness| {
                    format!("current {} ms ago", staleness.as_millis())
                }),
            },
            Check {
                name: "disk",
                ok: failure.is_none(),
                detail: failure.map_or("writes succeed".to_owned(), |failure| failure.to_string()),
            },
        ]
    }

    /// Whether the member's own machinery runs. Does not depend on the quorum.
    pub fn is_alive(&self) -> bool {
        let metrics = self.core.raft.metrics();
        let runs = metrics.borrow_watched().running_state.is_ok();
        runs && self.failure.get().is_none() && !self.broken.is_cancelled()
    }

    /// Whether what begins with these bytes is a request of this cluster for this node. One without an envelope, to be
    /// taken in, is not.
    pub fn is_addressed(&self, route: PeerRoute, head: &[u8]) -> bool {
        handler::is_addressed(&self.core, route, head)
    }

    /// The peer address of whoever sends such a request, where it names somebody whom this node knows.
    pub fn sender_address(&self, route: PeerRoute, body: &[u8]) -> Option<String> {
        handler::sender_address(&self.core, route, body)
    }

    /// Answers a peer; every route but the snapshot's.
    pub async fn handle_peer(&self, route: PeerRoute, body: Bytes) -> Result<Bytes, PeerRefusal> {
        handler::handle(&self.core, route, body).await
    }

    /// A connection ended on which appends had come: the leader, or the way to it, may be gone.
    pub fn contact_lost(&self) {
        self.core.contact_lost.notify_one();
    }

    /// Takes in a snapshot that a leader streams.
    pub async fn handle_snapshot(&self, body: ByteStream) -> Result<Bytes, PeerRefusal> {
        handler::receive_snapshot(&self.core, body).await
    }

    /// Resolves when the member broke.
    pub async fn failed(&self) -> Failure {
        let mut store = self.failure.clone();
        let raft = async {
            // Not by waiting for the metrics to change: they do with every entry.
            let mut looks = tokio::time::interval(FAILURE_INTERVAL);
            loop {
                looks.tick().await;
                match self.core.raft.metrics().borrow_watched().running_state.clone() {
                    // A shutdown that was asked for is no failure.
                    Err(openraft::errors::Fatal::Stopped) | Ok(()) => {}
                    Err(fatal) => return fatal.to_string(),
                }
            }
        };
        tokio::select! {
            // Whatever broke, the store's own word names the cause.
            biased;
            failure = store.failed() => Failure::Store(failure),
            fatal = raft => self.failure.get().map_or(Failure::Raft(fatal), Failure::Store),
            () = self.broken.cancelled() => Failure::Task,
            () = self.core.removed.cancelled() => self.removed(),
            forgot = self.core.forgot.wait() => self.forgot(*forgot),
        }
    }

    fn forgot(&self, Forgot { acknowledged, last }: Forgot) -> Failure {
        Failure::Forgot { node_id: self.core.node_id, acknowledged, last, path: self.core.options.data_dir.clone() }
    }

    fn removed(&self) -> Failure {
        let marked = self.dir.upgrade().map(|dir| dir.mark_removed());
        if let Some(Err(error)) = marked {
            return Failure::Unmarked(error.to_string());
        }
        Failure::Removed {
            cluster_id: self.core.cluster,
            node_id: self.core.node_id,
            path: self.core.options.data_dir.clone(),
        }
    }

    /// Hands over the lead if this node has it, then stops the member and waits until its directory is free. Safe to
    /// call twice.
    pub async fn shutdown(&self) {
        if self.core.stop.is_cancelled() {
            return;
        }
        lead::leave(&self.core).await;
        self.halt().await;
    }

    /// Stops the member as it is, without handing over, and waits until its directory is free.
    pub async fn halt(&self) {
        if self.core.stop.is_cancelled() {
            return;
        }
        self.core.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // Only a panic makes this fail, and that was reported already.
            let _ = task.await;
        }
        if let Err(error) = self.core.raft.shutdown().await {
            tracing::warn!(%error, "the raft member did not stop cleanly");
        }
        // openraft does not wait for a checkpoint that is being written.
        let release = self.release.lock().take();
        if let Some(release) = release {
            release.released().await;
        }
    }
}

/// An identity for a directory without one, and whom to tell when it is written.
async fn first_identity(
    options: &Options,
    transport: &dyn AnyTransport,
) -> Result<(Identity, Option<Kept>), StartError> {
    match &options.start {
        StartMode::Wait(door) => {
            let (path, peer) = (options.data_dir.display(), &options.peer_address);
            tracing::warn!(
                "{path} belongs to no cluster yet: waiting for `rollcall cluster add {peer}` at a member; \
                 --bootstrap founds a cluster, --join joins one"
            );
            let greeting = Greeting {
                identity: None,
                api_address: options.api_address.clone(),
                learner: options.learner,
                feature_level: options.feature_level,
            };
            let (cluster_id, node_id, kept) = door.wait(greeting).await;
            tracing::info!(cluster = %cluster_id, node = node_id, "added to the cluster");
            Ok((Identity { cluster_id, node_id, removed: false }, Some(kept)))
        }
        StartMode::Bootstrap => {
            let cluster_id = ClusterId(rand::random());
            tracing::info!(cluster = %cluster_id, "founding a cluster");
            Ok((Identity { cluster_id, node_id: FOUNDER, removed: false }, None))
        }
        StartMode::Join { peers, token } => Ok((join(options, transport, peers, token.clone()).await?, None)),
    }
}

/// Asks one member after the other, following their word about the leader, until one takes this node in.
async fn join(
    options: &Options,
    transport: &dyn AnyTransport,
    peers: &[String],
    token: Option<String>,
) -> Result<Identity, StartError> {
    let request = JoinRequest {
        api_address: options.api_address.clone(),
        peer_address: options.peer_address.clone(),
        learner: options.learner,
        token,
        feature_level: options.feature_level,
    };
    let mut told: Option<String> = None;
    loop {
        let mut why = "no member leads".to_owned();
        for peer in peers {
            let mut address = peer.clone();
            // The address given, then the leader it names, then the one that names if the lead just changed.
            for _ in 0..3 {
                let join = PeerRoute::Join;
                let asked = network::call(transport, &address, join, &request, JOIN_TIMEOUT, Sent::default());
                match asked.await {
                    Ok(JoinResponse::Welcome { cluster, node_id }) => {
                        tracing::info!(%cluster, node = node_id, peer = address, "taken in by the cluster");
                        return Ok(Identity { cluster_id: cluster, node_id, removed: false });
                    }
                    Ok(JoinResponse::Refused { reason }) => {
                        return Err(StartError::JoinRefused { peer: address, reason });
                    }
                    Ok(JoinResponse::NotLeader { leader_peer_address: Some(leader) }) => address = leader,
                    Ok(JoinResponse::NotLeader { leader_peer_address: None }) => break,
                    Err(error) => {
                        why = in_one_line(&error);
                        break;
                    }
                }
            }
        }
        if told.as_ref() != Some(&why) {
            tracing::info!(?peers, why, "waiting for a member that takes this node in");
            told = Some(why);
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}

/// An error with its sources: what is wrong with a certificate, say, is in the last of them.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// The first membership: the founder alone. Does nothing when it was written already.
async fn found(raft: &Raft, options: &Options) -> Result<(), StartError> {
    let fatal = |source: Box<dyn std::error::Error + Send + Sync>| StartError::Raft { source };
    if raft.is_initialized().await.map_err(|error| fatal(error.into()))? {
        return Ok(());
    }
    let founder = Member {
        api_address: options.api_address.clone(),
        peer_address: options.peer_address.clone(),
        learner: false,
        replaces: None,
        feature_level: options.feature_level,
    };
    raft.initialize(BTreeMap::from([(FOUNDER, founder)])).await.map_err(|error| fatal(error.into()))
}
