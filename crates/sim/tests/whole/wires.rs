//! The network between members: requests and answers that take their time, get lost, or lie unread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use rollcall_replica::{ByteStream, PeerRefusal, PeerRoute, Replica, Sent, Transport, TransportError};
use rollcall_sim::random::Random;
use tokio_util::sync::CancellationToken;

use crate::until;

/// How long a forwarded batch may lie unread at a leader.
const HELD_UP_MS_MAX: u64 = 6_000;

/// How long a stream that does not move is waited for.
const STALLED_MAX: Duration = Duration::from_secs(5);

/// A running process: what it answers with, and whether it still lives.
#[derive(Clone)]
pub(crate) struct Process {
    pub replica: Replica,
    pub life: CancellationToken,
}

#[derive(Clone)]
pub(crate) struct Wires(Arc<Mutex<Net>>);

struct Net {
    random: Random,
    processes: BTreeMap<String, Process>,
    /// Who does not reach whom.
    cut: BTreeSet<(String, String)>,
    lossy: bool,
    counts: BTreeMap<&'static str, u64>,
}

/// One member's end of it.
pub(crate) struct Wire {
    pub wires: Wires,
    pub from: String,
    pub life: CancellationToken,
}

impl Wires {
    pub(crate) fn new(random: Random) -> Self {
        let (processes, cut, counts) = Default::default();
        Self(Arc::new(Mutex::new(Net { random, processes, cut, lossy: false, counts })))
    }

    pub(crate) fn connect(&self, address: &str, process: Process) {
        self.0.lock().processes.insert(address.to_owned(), process);
    }

    /// Nobody listens there any more.
    pub(crate) fn disconnect(&self, address: &str) {
        self.0.lock().processes.remove(address);
    }

    pub(crate) fn process(&self, address: &str) -> Option<Process> {
        self.0.lock().processes.get(address).cloned()
    }

    pub(crate) fn cut(&self, from: &str, to: &str) {
        self.0.lock().cut.insert((from.to_owned(), to.to_owned()));
    }

    pub(crate) fn heal(&self) {
        let mut net = self.0.lock();
        net.cut.clear();
        net.lossy = false;
    }

    pub(crate) fn set_lossy(&self) {
        self.0.lock().lossy = true;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().counts.clone()
    }

    /// How long a message is on its way; none if it does not arrive.
    fn way(&self, from: &str, to: &str) -> Option<Duration> {
        let mut net = self.0.lock();
        let (lost, late_us) = if net.lossy { (150, 80_000) } else { (1, 600) };
        if net.cut.contains(&(from.to_owned(), to.to_owned())) || net.random.permille(lost) {
            *net.counts.entry("messages lost").or_default() += 1;
            return None;
        }
        let late = if net.random.permille(300) { late_us } else { late_us / 20 };
        Some(Duration::from_micros(100 + net.random.below(late)))
    }

    /// How long a forwarded batch lies unread, if it does, and after what its sender gives up.
    fn hold_up(&self) -> Option<(Duration, Duration)> {
        let mut net = self.0.lock();
        if !net.random.permille(10) {
            return None;
        }
        *net.counts.entry("held up").or_default() += 1;
        let (late, patience) = (net.random.between(1_000, HELD_UP_MS_MAX), net.random.between(50, 1_000));
        Some((Duration::from_millis(late), Duration::from_millis(patience)))
    }
}

impl Wire {
    fn lost(address: &str, why: &'static str) -> TransportError {
        TransportError::Lost { address: address.to_owned(), source: why.into() }
    }

    fn unreachable(address: &str, why: &'static str) -> TransportError {
        TransportError::Unreachable { address: address.to_owned(), source: why.into() }
    }

    /// There and back. Whoever answers goes on with it whatever becomes of the caller.
    async fn ask<F>(
        &self,
        address: &str,
        timeout: Duration,
        sent: &Sent,
        handle: impl FnOnce(Replica) -> F + Send + 'static,
    ) -> Result<Bytes, TransportError>
    where
        F: Future<Output = Result<Bytes, PeerRefusal>> + Send + 'static,
    {
        if self.life.is_cancelled() {
            return Err(Self::unreachable(address, "this process has ended"));
        }
        sent.set();
        let Some(way) = self.wires.way(&self.from, address) else {
            until(timeout).await;
            return Err(Self::lost(address, "the request was lost"));
        };
        until(way).await;
        let Some(Process { replica, life }) = self.wires.process(address) else {
            return Err(Self::unreachable(address, "nobody listens"));
        };
        let handled = tokio::spawn(handle(replica));
        let answer = tokio::select! {
            () = life.cancelled() => return Err(Self::lost(address, "the process has ended")),
            answer = tokio::time::timeout(timeout, handled) => answer,
        };
        let Some(way) = self.wires.way(address, &self.from) else {
            until(timeout).await;
            return Err(Self::lost(address, "the answer was lost"));
        };
        until(way).await;
        let Ok(Ok(answer)) = answer else { return Err(Self::lost(address, "no answer came in time")) };
        answer.map_err(|refusal| TransportError::Refused { address: address.to_owned(), reason: refusal.to_string() })
    }
}

impl Transport for Wire {
    async fn call(
        &self,
        address: &str,
        route: PeerRoute,
        body: Bytes,
        timeout: Duration,
        sent: &Sent,
    ) -> Result<Bytes, TransportError> {
        if route == PeerRoute::Propose
            && let Some((late, patience)) = self.wires.hold_up()
        {
            sent.set();
            let (wires, to) = (self.wires.clone(), address.to_owned());
            tokio::spawn(async move {
                until(late).await;
                if let Some(process) = wires.process(&to) {
                    // Nobody waits for the answer any more.
                    drop(process.replica.handle_peer(route, body).await);
                }
            });
            until(patience).await;
            return Err(Self::lost(address, "it lies unread"));
        }
        let handle = move |replica: Replica| async move { replica.handle_peer(route, body).await };
        self.ask(address, timeout, sent, handle).await
    }

    async fn is_gone(&self, address: &str) -> bool {
        let reached = self.wires.way(&self.from, address).is_some() && self.wires.way(address, &self.from).is_some();
        reached && self.wires.process(address).is_none()
    }

    async fn call_streaming(
        &self,
        address: &str,
        _: PeerRoute,
        body: ByteStream,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        // What was lost on a real wire is sent again, or the connection ends: nobody waits for the longest that a snapshot
        // may take.
        let timeout = timeout.min(STALLED_MAX);
        // Taken in at once: whoever makes it does so on a thread, and while one works no time passes here.
        let chunks: Vec<_> = body.collect().await;
        let handle = move |replica: Replica| async move {
            replica.handle_snapshot(Box::pin(futures_util::stream::iter(chunks))).await
        };
        self.ask(address, timeout, &Sent::default(), handle).await
    }
}
