//! One node: its two ports, its replica, and how they begin and end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use rollcall_registry::{FEATURE_LEVEL, HistoryLimits, SignatureMode};
use rollcall_replica::{Autopilot, Door, Failure, Options, Replica, StartError, StartMode};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::alerts;
use crate::alerts::webhook::Poster;
use crate::auth::{self, Attendance, Auth, FirstToken, FirstTokenSender, Gate, JwtConfigError};
use crate::config::{Checks, Config, Founding, NodeRole, Signatures};
use crate::edge::Edge;
use crate::faces::soorma;
use crate::federation;
use crate::limits::{self, CONNECTIONS_MAX};
use crate::listener;
use crate::metrics::EdgeMetrics;
use crate::native::{Ends, Faces, Native, Surroundings};
use crate::parse::TtlLimits;
use crate::peer::{self, PeerEdge, Wires};
use crate::probe::Probe;
use crate::prober::CheckTerms;
use crate::slow::SlowLog;
use crate::telemetry;
use crate::tls::{Reload, Tls, TlsError};
use crate::watch::WatcherLimits;

/// Handing over the lead takes an election at most; a replica that is broken is not waited for.
const REPLICA_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether clients have left.
const CLIENTS_LEFT_INTERVAL: Duration = Duration::from_millis(10);

/// Why a node did not run, or ceased to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("listen at {address}")]
    Bind {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("load the keys that tokens are checked with")]
    Jwt(#[source] JwtConfigError),
    #[error("secure the ports")]
    Tls(#[from] TlsError),
    #[error("start the replica")]
    Start(#[source] StartError),
    #[error("the replica ended")]
    Broke(#[source] Failure),
    #[error("peers are answered no more because of a bug; the log has the panic")]
    Peers,
    #[error("watchers are told nothing any more because of a bug; the log has the panic")]
    Watches,
}

impl RunError {
    /// The node was removed from its cluster, now or earlier: on this directory none will run again.
    pub fn is_removed(&self) -> bool {
        match self {
            Self::Start(error) => error.is_removed(),
            Self::Broke(failure) => failure.is_removed(),
            Self::Bind { .. } | Self::Jwt(_) | Self::Tls(_) | Self::Peers | Self::Watches => false,
        }
    }
}

/// Runs a node until `shutdown` resolves or the node breaks. `traced` is whether spans are collected.
pub async fn run(config: Config, traced: bool, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    Server::bind(config).await?.traced(traced).serve(shutdown).await
}

/// A node that has its ports and does not serve yet: clients that connect wait.
pub struct Server {
    config: Config,
    clients: TcpListener,
    client_address: SocketAddr,
    peers: TcpListener,
    peer_address: SocketAddr,
    tls: Tls,
    probe: Probe,
    /// Where the first token is told.
    first_token: Option<FirstTokenSender>,
    traced: bool,
    consensus: Handle,
}

impl Server {
    /// Takes both ports.
    pub async fn bind(config: Config) -> Result<Self, RunError> {
        limits::raise_open_files();
        let tls = Tls::load(config.tls.as_ref(), config.peer_tls.as_ref())?;
        let (clients, client_address) = bind(&config.listen).await?;
        let (peers, peer_address) = bind(&config.peer_listen).await?;
        let (probe, consensus) = (Probe::default(), Handle::current());
        let first_token = None;
        Ok(Self {
            config,
            clients,
            client_address,
            peers,
            peer_address,
            tls,
            probe,
            first_token,
            traced: false,
            consensus,
        })
    }

    /// The token of the first administrator, which a founder makes once if requests must say who asks. None is made unless
    /// somebody takes this, so that none is there whose secret nobody knows.
    pub fn first_token(&mut self) -> FirstToken {
        let (sender, token) = auth::first_token();
        self.first_token = Some(sender);
        token
    }

    /// Has the replica and what its peers ask answered by another runtime. One with a single thread hands the steps of a
    /// write on without waking anybody, and what blocks there for a moment, a flush, holds up no reader.
    #[must_use]
    pub fn consensus_on(self, consensus: Handle) -> Self {
        Self { consensus, ..self }
    }

    /// Whether spans are collected. Without it none is made for batches.
    #[must_use]
    pub fn traced(self, traced: bool) -> Self {
        Self { traced, ..self }
    }

    /// Where clients connect, with the real port.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where peers connect, with the real port.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// How the node is, from now on until it has ended.
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Has the node read its certificates again.
    pub fn reload(&self) -> Reload {
        self.tls.reload()
    }

    /// Serves until `shutdown` resolves or the node breaks. On shutdown requests in work may finish for a few seconds,
    /// and a leader hands over before it leaves.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let peer_edge = PeerEdge::default();
        let mut options = options(&self.config, self.client_address, self.peer_address, peer_edge.door());
        options.trace = self.traced.then_some(telemetry::LINK);
        let metrics = Arc::<EdgeMetrics>::default();
        let edge = Arc::new(Edge::new(metrics.clone(), SlowLog::new(self.config.slow_ms)));
        let data_dir = self.config.data_dir.clone();
        let client_address = self.config.advertise.clone().unwrap_or_else(|| self.client_address.to_string());
        let scheme = if self.tls.clients.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{client_address}");
        let (tls, notices) = (self.tls.clone(), OnceLock::new());
        let auth = Auth::new(self.config.jwt.as_ref(), self.config.auth).map_err(RunError::Jwt)?;
        let tell_tenants = auth.is_enforced() && !self.config.metrics_open;
        let surroundings = Surroundings { data_dir, url, metrics: metrics.clone(), tls, tell_tenants, notices };
        let surroundings = Arc::new(surroundings);
        let poster = Poster::new(&self.config.alert_allow);
        let faces = Faces {
            poster: poster.clone(),
            auth: auth.clone(),
            protolink_ttl_ms: self.config.protolink_ttl_ms,
            signatures: signatures(&self.config),
            checks: checks(&self.config),
            soorma: soorma::Terms {
                ttl_ms: self.config.soorma_ttl_ms,
                reap_after_ms: self.config.soorma_reap_after_ms,
                origins: self.config.soorma_origins.clone().into(),
            },
        };
        let chores = TaskTracker::new();
        let (draining, stop_clients, clients_gone, stop_peers) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        tracing::info!(clients = %self.client_address, peers = %self.peer_address, "listening");

        let peers = {
            let (gate, open) = (self.tls.peer_gate(), metrics.peer_connections.clone());
            let (stop, edge) = (stop_peers.clone(), peer_edge.clone());
            moved(&self.consensus, self.peers, move |peers| peer::serve(peers, gate, open, stop, edge))?
        };
        let answer_client = {
            let (edge, draining) = (edge.clone(), draining.clone());
            move |request, crowded| {
                let (edge, draining) = (edge.clone(), draining.clone());
                async move {
                    let mut response = edge.handle(request, crowded).await;
                    if draining.is_cancelled() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    response
                }
            }
        };
        let clients = async {
            let (open, stop) = (metrics.client_connections.clone(), stop_clients.clone());
            let gate = self.tls.client_gate();
            listener::serve_http(self.clients, gate, CONNECTIONS_MAX, open, stop, answer_client).await;
            clients_gone.cancel();
        };
        let life = async {
            let broken = CancellationToken::new();
            let sockets = TaskTracker::new();
            let native = |replica| {
                Native::new(
                    replica,
                    &self.config.tenants,
                    faces.clone(),
                    ttl(&self.config),
                    watchers(&self.config),
                    surroundings.clone(),
                    Ends { draining: draining.clone(), sockets: sockets.clone(), broken: broken.clone() },
                )
            };
            let open = |replica: &Replica| {
                peer_edge.open(replica.clone());
                let native = native(replica.clone());
                self.probe.open(native.clone());
                let gate = auth.is_enforced().then(|| Gate::new(auth, replica.clone(), self.config.metrics_open));
                let is_founder = self.config.auth && self.config.founding == Founding::Bootstrap;
                let attendance = Attendance {
                    replica: replica.clone(),
                    leashes: native.leashes.clone(),
                    gate: gate.clone(),
                    first: self.first_token.filter(|_| is_founder),
                    data_dir: surroundings.data_dir.clone(),
                };
                let (alerts, ends) = (native.alert_metrics(), draining.clone());
                chores.spawn(alerts::run(replica.clone(), poster, alerts, ends));
                chores.spawn(auth::attend(attendance, stop_peers.clone()));
                chores.spawn(federation::attend(replica.clone(), native.links.clone(), stop_peers.clone()));
                chores.spawn(native.checker.clone().run(draining.clone()));
                edge.open(native, gate);
                let surroundings = surroundings.clone();
                chores.spawn_blocking(move || surroundings.look());
            };
            let mut shutdown = pin!(shutdown);
            let wires = Wires::new(self.tls.peers.clone());
            let (replica, ended) = live(&self.consensus, options, wires, open, shutdown.as_mut(), &broken).await;
            tracing::info!("shutting down");
            draining.cancel();
            if ended.is_ok() {
                let open = || metrics.client_connections.get();
                clients_left(Duration::from_millis(self.config.drain_ms), open).await;
            }
            stop_clients.cancel();
            clients_gone.cancelled().await;
            sockets.close();
            sockets.wait().await;
            if let Some(replica) = replica {
                // Peers are still answered: handing over the lead needs them.
                if tokio::time::timeout(REPLICA_STOP_TIMEOUT, replica.shutdown()).await.is_err() {
                    tracing::warn!("the replica does not stop; leaving without it");
                }
            }
            stop_peers.cancel();
            chores.close();
            chores.wait().await;
            ended
        };
        let fresh = self.tls.keep_fresh(stop_peers.clone());
        let (peers, (), (), ended) = tokio::join!(peers, clients, fresh, life);
        peers.map_err(|_| RunError::Peers)?;
        ended
    }
}

/// Waits until no client is connected any more, `patience` at most. A listener that closes at once resets whoever connected
/// and was not accepted yet, and a request that comes as its idle connection is closed has no answer.
async fn clients_left(patience: Duration, open: impl Fn() -> i64) {
    let left = async {
        while open() > 0 {
            tokio::time::sleep(CLIENTS_LEFT_INTERVAL).await;
        }
    };
    // Whoever stays is a watcher of nothing, or sends no request.
    let _ = tokio::time::timeout(patience, left).await;
}

/// Starts the replica, opens the ports to it, and waits for the end: asked for, or of its own.
async fn live(
    consensus: &Handle,
    options: Options,
    wires: Wires,
    open: impl FnOnce(&Replica),
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
    broken: &CancellationToken,
) -> (Option<Replica>, Result<(), RunError>) {
    let starting = AbortOnDropHandle::new(consensus.spawn(Replica::start(options, wires)));
    let started = tokio::select! {
        started = starting => started,
        () = shutdown.as_mut() => return (None, Ok(())),
    };
    let replica = match started {
        Ok(Ok(replica)) => replica,
        Ok(Err(error)) => return (None, Err(RunError::Start(error))),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    open(&replica);
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        failure = replica.failed() => Err(RunError::Broke(failure)),
        () = broken.cancelled() => Err(RunError::Watches),
    };
    (Some(replica), ended)
}

/// Serves a listener on another runtime: sockets belong to the one on which they were made.
fn moved<F>(
    runtime: &Handle,
    listener: TcpListener,
    serve: impl FnOnce(TcpListener) -> F,
) -> Result<AbortOnDropHandle<()>, RunError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let address = listener.local_addr().map_or_else(|_| "the peer port".to_owned(), |address| address.to_string());
    let _there = runtime.enter();
    let moved = listener.into_std().and_then(TcpListener::from_std);
    let listener = moved.map_err(|source| RunError::Bind { address, source })?;
    Ok(AbortOnDropHandle::new(runtime.spawn(serve(listener))))
}

fn ttl(config: &Config) -> TtlLimits {
    TtlLimits { ttl_ms_min: config.ttl_ms_min, ttl_ms_default: config.ttl_ms_default, ttl_ms_max: config.ttl_ms_max }
}

fn signatures(config: &Config) -> SignatureMode {
    match config.signatures {
        Signatures::Off => SignatureMode::Off,
        Signatures::Accepted => SignatureMode::Accepted,
        Signatures::Required => SignatureMode::Required,
    }
}

fn checks(config: &Config) -> CheckTerms {
    let (allowed, ca) = (config.check_allow.clone(), config.check_ca.clone());
    CheckTerms { enabled: config.checks == Checks::On, allowed, ca }
}

fn watchers(config: &Config) -> WatcherLimits {
    WatcherLimits { node_max: config.watchers_max, tenant_max: config.tenant_watchers_max }
}

fn autopilot(config: &Config) -> Autopilot {
    let removal = Duration::from_millis(config.dead_node_removal_ms);
    Autopilot {
        removal: (!removal.is_zero()).then_some(removal),
        voters_min: config.voters_min,
        learner_stable: Duration::from_millis(config.learner_stable_ms),
    }
}

async fn bind(address: &str) -> Result<(TcpListener, SocketAddr), RunError> {
    let fail = |source| RunError::Bind { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

fn options(config: &Config, client_address: SocketAddr, peer_address: SocketAddr, door: Door) -> Options {
    let start = match &config.founding {
        Founding::Bootstrap => StartMode::Bootstrap,
        Founding::Join { peers, token } => {
            StartMode::Join { peers: peers.clone(), token: token.as_ref().map(|token| token.expose().to_owned()) }
        }
        Founding::Existing => StartMode::Wait(door),
    };
    Options {
        data_dir: config.data_dir.clone(),
        api_address: config.advertise.clone().unwrap_or_else(|| client_address.to_string()),
        peer_address: config.peer_advertise.clone().unwrap_or_else(|| peer_address.to_string()),
        start,
        learner: config.node_role == NodeRole::Learner,
        feature_level: FEATURE_LEVEL,
        join_token_required: config.join_token_required,
        autopilot: autopilot(config),
        heartbeat_interval_ms: config.heartbeat_interval_ms,
        election_timeout_ms_min: config.election_timeout_ms_min,
        election_timeout_ms_max: config.election_timeout_ms_max,
        snapshot_entries: config.snapshot_entries,
        log_entries_kept: config.log_entries_kept,
        history: HistoryLimits { changes_max: config.history_changes_max, bytes_max: config.history_bytes_max },
        version: env!("CARGO_PKG_VERSION"),
        trace: None,
    }
}
