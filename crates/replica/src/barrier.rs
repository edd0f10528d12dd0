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

/// What a read still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The leader's read index, applied here.
    Confirmation,
    Revision(Revision),
    Nothing(Freshness),
}

impl Consistency {
    /// What is needed yet, by a read that was confirmed already or not, at a node that is as it says now. A `staleness` of
    /// none is a node's that was never current since it started: it does not know what it lacks.
    pub fn need(&self, confirmed: bool, staleness: Option<Duration>, at: Revision) -> Result<Need, BarrierError> {
        if self.linearizable && !confirmed {
            return Ok(Need::Confirmation);
        }
        let staleness_ms = match staleness {
            _ if confirmed => 0,
            Some(staleness) => to_ms(staleness),
            None => return Err(BarrierError::NotReady),
        };
        if let Some(revision) = self.min_revision.filter(|revision| at < *revision) {
            return Ok(Need::Revision(revision));
        }
        match self.max_staleness_ms {
            Some(max) if staleness_ms > max => Ok(Need::Confirmation),
            _ => Ok(Need::Nothing(Freshness { staleness_ms })),
        }
    }
}

fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Core {
    pub(crate) async fn barrier(&self, wanted: Consistency, deadline: Instant) -> Result<Freshness, BarrierError> {
        let mut confirmed = false;
        loop {
            let (staleness, at) = (self.staleness(), self.roll.read(|state| state.revision()));
            match wanted.need(confirmed, staleness, at)? {
                Need::Nothing(freshness) => return Ok(freshness),
                Need::Revision(revision) => self.reach(revision, deadline).await?,
                Need::Confirmation if wanted.linearizable => {
                    self.confirm(deadline).await?;
                    confirmed = true;
                }
                Need::Confirmation => {
                    // The leader may be there and merely idle: ask it, but no longer than an election takes.
                    let patience = Instant::now() + Duration::from_millis(self.options.election_timeout_ms_max);
                    if self.confirm(deadline.min(patience)).await.is_err() {
                        let staleness_ms = staleness.map_or(u64::MAX, to_ms);
                        return Err(BarrierError::TooStale { staleness_ms });
                    }
                    confirmed = true;
                }
            }
        }
    }

    /// Takes a read index and waits until it is applied here.
    async fn confirm(&self, deadline: Instant) -> Result<(), BarrierError> {
        let index = self.rounds.read_index(deadline).await.ok_or(BarrierError::NoLeader)?;
        if self.wait_applied(index, deadline).await { Ok(()) } else { Err(BarrierError::NotReady) }
    }

    async fn reach(&self, revision: Revision, deadline: Instant) -> Result<(), BarrierError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Option<Duration> = Some(Duration::from_millis(30));

    fn wanted(linearizable: bool, min_revision: Option<u64>, max_staleness_ms: Option<u64>) -> Consistency {
        Consistency { linearizable, min_revision: min_revision.map(Revision), max_staleness_ms }
    }

    #[test]
    fn p8_a_node_that_was_never_current_answers_nothing() {
        for wanted in [wanted(false, None, None), wanted(false, Some(1), None), wanted(false, None, Some(1_000))] {
            assert_eq!(wanted.need(false, None, Revision(7)), Err(BarrierError::NotReady));
        }
        // The leader's word is worth more than what the node knows by itself.
        assert_eq!(wanted(true, None, None).need(false, None, Revision(7)), Ok(Need::Confirmation));
        let confirmed = wanted(true, None, None).need(true, None, Revision(7));
        assert_eq!(confirmed, Ok(Need::Nothing(Freshness { staleness_ms: 0 })));
    }

    #[test]
    fn p8_a_read_waits_for_what_it_asks_for_and_for_nothing_else() {
        let at_once = Ok(Need::Nothing(Freshness { staleness_ms: 30 }));
        for (wanted, need) in [
            (wanted(false, None, None), at_once),
            (wanted(true, None, None), Ok(Need::Confirmation)),
            (wanted(false, Some(7), None), at_once),
            (wanted(false, Some(8), None), Ok(Need::Revision(Revision(8)))),
            (wanted(false, None, Some(30)), at_once),
            (wanted(false, None, Some(29)), Ok(Need::Confirmation)),
            (wanted(false, Some(8), Some(29)), Ok(Need::Revision(Revision(8)))),
        ] {
            assert_eq!(wanted.need(false, FRESH, Revision(7)), need, "{wanted:?}");
        }
        let confirmed = wanted(true, Some(8), Some(0)).need(true, FRESH, Revision(7));
        assert_eq!(confirmed, Ok(Need::Revision(Revision(8))), "an index says nothing of revisions asked for");
    }
}
