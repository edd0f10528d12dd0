//! What a read may ask for, and how it is made sure of.

use std::sync::Arc;
use std::time::Duration;

use rollcall_registry::{Digest, Revision};
use tokio::time::Instant;

use crate::core::Core;

/// What a read must show. The default asks for nothing: it is answered at once from what this node has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consistency {
    /// Everything acknowledged anywhere before the read began.
    pub linearizable: bool,
    /// At least this revision: one's own write, read at another node.
    pub min_revision: Option<Revision>,
    /// Nothing older than this.
    pub max_staleness_ms: Option<u64>,
}

/// How fresh the read that follows is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Time since the contact with the leader that showed this node current; 0 for a linearizable read.
    pub staleness_ms: u64,
}

/// Why a requirement could not be met in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    #[error("this node has not caught up with the cluster since it started")]
    NotReady,
    #[error("no leader confirmed the read in time")]
    NoLeader,
    #[error("this node is {staleness_ms} ms behind at most, and no leader answered in time")]
    TooStale { staleness_ms: u64 },
    #[error("this node is at revision {at} and did not reach the one asked for in time")]
    RevisionNotReached { at: Revision },
}

/// Why there is no digest of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("this node is at index {applied} and no longer keeps the digest asked for")]
    Gone { applied: u64 },
    #[error("this node is at index {applied} and did not reach the one asked for in time")]
    NotReached { applied: u64 },
}

/// How long a member that starts waits for the leader to say what it lacks, before it leaves that to the appends.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(60);

/// Learns from the leader, once, what a member that starts has to apply to be current. Appends tell it too, but not
/// before the second: the first shows the leader no stamp of this process yet.
pub(crate) async fn catch_up(core: Arc<Core>) {
    let asked_at = Instant::now();
    let index = tokio::select! {
        () = core.stop.cancelled() => return,
        index = core.rounds.read_index(asked_at + CATCH_UP_PATIENCE) => index,
    };
    if let Some(index) = index {
        core.freshness.lock().note(asked_at, index, core.roll.applied_index());
    }
}

impl Core {
    pub(crate) async fn barrier(&self, wanted: Consistency, deadline: Instant) -> Result<Freshness, BarrierError> {
        if wanted.linearizable {
            self.confirm(deadline).await?;
            self.reach(wanted.min_revision, deadline).await?;
            return Ok(Freshness { staleness_ms: 0 });
        }
        // A node that was never current does not know what it lacks.
        self.staleness().ok_or(BarrierError::NotReady)?;
        self.reach(wanted.min_revision, deadline).await?;
        let staleness_ms = self.staleness_ms().ok_or(BarrierError::NotReady)?;
        match wanted.max_staleness_ms {
            Some(max) if staleness_ms > max => {
                // The leader may be there and merely idle: ask it, but no longer than an election takes.
                let patience = Instant::now() + Duration::from_millis(self.options.election_timeout_ms_max);
                match self.confirm(deadline.min(patience)).await {
                    Ok(()) => Ok(Freshness { staleness_ms: 0 }),
                    Err(_) => Err(BarrierError::TooStale { staleness_ms }),
                }
            }
            _ => Ok(Freshness { staleness_ms }),
        }
    }

    fn staleness_ms(&self) -> Option<u64> {
        self.staleness().map(|staleness| u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX))
    }

    /// Takes a read index and waits until it is applied here.
    async fn confirm(&self, deadline: Instant) -> Result<(), BarrierError> {
        let index = self.rounds.read_index(deadline).await.ok_or(BarrierError::NoLeader)?;
        if self.wait_applied(index, deadline).await { Ok(()) } else { Err(BarrierError::NotReady) }
    }

    async fn reach(&self, revision: Option<Revision>, deadline: Instant) -> Result<(), BarrierError> {
        let Some(revision) = revision else { return Ok(()) };
        let at = || self.roll.read(|state| state.revision());
        let mut applied = self.roll.subscribe();
        let reached = applied.wait_for(|_| at() >= revision);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(BarrierError::RevisionNotReached { at: at() }),
        }
    }

    pub(crate) async fn digest(&self, index: Option<u64>, deadline: Instant) -> Result<(u64, Digest), DigestError> {
        let applied = || self.roll.applied_index();
        let Some(index) = index else {
            // The state may move on between the two looks; the second is then asked for by its index.
            loop {
                let at = applied();
                if let Some(digest) = self.roll.digest_at(at) {
                    return Ok((at, digest));
                }
                if applied() == at {
                    return Err(DigestError::Gone { applied: at });
                }
            }
        };
        if !self.wait_applied(index, deadline).await {
            return Err(DigestError::NotReached { applied: applied() });
        }
        self.roll.digest_at(index).map(|digest| (index, digest)).ok_or(DigestError::Gone { applied: applied() })
    }
}
