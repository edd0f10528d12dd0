//! What the leader does about members on its own: removes one that was out of reach for too long, if it was told to, and
//! lets a learner vote only when it has kept up for a while.
//!
//! It begins to count anew with each lead, so that no leader judges by what another saw. It removes one at a time, and
//! through the same door as an operator ([`operate::run`]), which asks the remaining voters once more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rollcall_storage::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::core::{Core, LeaderId, Metrics};
use crate::membership::LAG_ENTRIES_MAX;
use crate::operate::{self, Operation, Terms};

/// After a removal that was refused, or whose end is not known, nothing is removed for so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// What the leader may do. All nodes should be told the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Autopilot {
    /// A member that was out of reach for so long is removed. None: never.
    pub removal: Option<Duration>,
    /// No removal leaves fewer voters than this.
    pub voters_min: usize,
    /// How long a learner must have kept up before it votes.
    pub learner_stable: Duration,
}

/// Why a member that is out of reach for too long stays one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// Fewer voters than the minimum would be left.
    VotersMin,
    /// Of those who would be left too few answer.
    QuorumAtRisk,
    /// Another is about to take its place.
    BeingReplaced,
}

/// What is thought of a member that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub node_id: NodeId,
    pub silent_ms: u64,
    /// Until it is removed; none if it is not going to be.
    pub removal_in_ms: Option<u64>,
    /// Why it is not removed although its time is over.
    pub kept: Option<Kept>,
}

/// What a leader says of its own doings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutopilotReport {
    /// None: it removes nobody.
    pub removal_ms: Option<u64>,
    pub voters_min: u64,
    pub learner_stable_ms: u64,
    pub findings: Vec<Finding>,
    /// Whom it removed since its process started, the last of them.
    pub last_removed: Option<NodeId>,
}

/// Another member as the leader sees it at a moment.
#[derive(Clone, Copy, Debug)]
struct Peer {
    id: NodeId,
    voter: bool,
    answers: bool,
    caught_up: bool,
    being_replaced: bool,
}

/// Since when a member has been as it is.
#[derive(Clone, Copy, Debug)]
struct Seen {
    answered_at: Instant,
    /// None while it lags or is silent.
    kept_up_since: Option<Instant>,
}

/// What a leader has seen of the others since it leads.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    lead: Option<LeaderId>,
    seen: BTreeMap<NodeId, Seen>,
    paused_until: Option<Instant>,
    last_removed: Option<NodeId>,
}

impl Watch {
    fn note(&mut self, lead: LeaderId, at: Instant, peers: &[Peer]) {
        if self.lead != Some(lead) {
            self.lead = Some(lead);
            self.seen.clear();
        }
        self.seen.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
        for peer in peers {
            let seen = self.seen.entry(peer.id).or_insert(Seen { answered_at: at, kept_up_since: None });
            if peer.answers {
                seen.answered_at = at;
            }
            let keeps_up = peer.answers && peer.caught_up;
            seen.kept_up_since = keeps_up.then(|| seen.kept_up_since.unwrap_or(at));
        }
    }

    fn silence(&self, id: NodeId, at: Instant) -> Duration {
        self.seen.get(&id).map_or(Duration::ZERO, |seen| at.saturating_duration_since(seen.answered_at))
    }

    /// Whether a learner has kept up for so long.
    fn is_stable(&self, id: NodeId, at: Instant, wanted: Duration) -> bool {
        let since = self.seen.get(&id).and_then(|seen| seen.kept_up_since);
        since.is_some_and(|since| at.saturating_duration_since(since) >= wanted)
    }

    /// What is to be thought of those who are silent, who has been so for longest first.
    fn findings(&self, options: Autopilot, at: Instant, peers: &[Peer]) -> Vec<Finding> {
        // The leader itself votes and answers.
        let voters = 1 + peers.iter().filter(|peer| peer.voter).count();
        let answering = 1 + peers.iter().filter(|peer| peer.voter && peer.answers).count();
        let silent = peers.iter().filter(|peer| !peer.answers);
        let mut findings: Vec<Finding> = silent
            .map(|peer| {
                let silence = self.silence(peer.id, at);
                let kept = if peer.being_replaced {
                    Some(Kept::BeingReplaced)
                } else if peer.voter && voters - 1 < options.voters_min {
                    Some(Kept::VotersMin)
                } else if peer.voter && answering < (voters - 1) / 2 + 1 {
                    Some(Kept::QuorumAtRisk)
                } else {
                    None
                };
                let left = options.removal.map(|removal| ms(removal.saturating_sub(silence)));
                Finding {
                    node_id: peer.id,
                    silent_ms: ms(silence),
                    removal_in_ms: left.filter(|_| kept.is_none()),
                    kept: kept.filter(|_| left == Some(0)),
                }
            })
            .collect();
        findings.sort_by_key(|finding| (std::cmp::Reverse(finding.silent_ms), finding.node_id));
        findings
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn peers(core: &Core, metrics: &Metrics) -> Vec<Peer> {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let replaced: BTreeSet<NodeId> = membership.nodes().filter_map(|(_, member)| member.replaces).collect();
    let lately = Duration::from_millis(core.options.election_timeout_ms_max);
    let others = membership.nodes().map(|(id, _)| *id).filter(|id| *id != core.node_id);
    others
        .map(|id| Peer {
            id,
            voter: voters.contains(&id),
            answers: core.answers(id, lately),
            caught_up: operate::lag(metrics, id).is_some_and(|lag| lag <= LAG_ENTRIES_MAX),
            being_replaced: replaced.contains(&id),
        })
        .collect()
}

/// Looks at the others, where this node leads.
pub(crate) fn look(core: &Core) {
    let Some(lead) = core.lead() else { return };
    let peers = peers(core, &core.metrics());
    core.autopilot.lock().note(lead.leader, Instant::now(), &peers);
}

/// Whether a learner that has caught up may vote.
pub(crate) fn is_stable(core: &Core, learner: NodeId) -> bool {
    let wanted = core.options.autopilot.learner_stable;
    wanted.is_zero() || core.autopilot.lock().is_stable(learner, Instant::now(), wanted)
}

/// Removes whoever has been out of reach for too long, one at most.
pub(crate) async fn remove_the_dead(core: &Core) {
    let options = core.options.autopilot;
    let Some(lead) = core.lead().filter(|_| options.removal.is_some()) else { return };
    let metrics = core.metrics();
    if !operate::is_settled(&metrics) {
        return;
    }
    let due = {
        let (watch, at) = (core.autopilot.lock(), Instant::now());
        if watch.lead != Some(lead.leader) || watch.paused_until.is_some_and(|until| at < until) {
            return;
        }
        let findings = watch.findings(options, at, &peers(core, &metrics));
        findings.into_iter().find(|finding| finding.removal_in_ms == Some(0))
    };
    let Some(Finding { node_id, silent_ms, .. }) = due else { return };
    // The membership that was judged, and no other.
    let if_membership = metrics.membership_config.log_id().as_ref().map(|log_id| log_id.index);
    let terms = Terms { if_membership, ..Terms::default() };
    match operate::run(core, &Operation::Remove { node_id }, terms).await {
        Ok(_) => {
            core.meters.autopilot_removals.add(1);
            core.autopilot.lock().last_removed = Some(node_id);
            tracing::warn!(node = node_id, silent_ms, "removed a node that was out of reach for too long");
        }
        Err(error) => {
            core.autopilot.lock().paused_until = Some(Instant::now() + REFUSED_PAUSE);
            tracing::warn!(%error, node = node_id, silent_ms, "a node that is out of reach for too long was not removed");
        }
    }
}

/// What this leader would say of its doings; none where another leads.
pub(crate) fn report(core: &Core) -> Option<AutopilotReport> {
    core.lead()?;
    let options = core.options.autopilot;
    let peers = peers(core, &core.metrics());
    let watch = core.autopilot.lock();
    Some(AutopilotReport {
        removal_ms: options.removal.map(ms),
        voters_min: options.voters_min as u64,
        learner_stable_ms: ms(options.learner_stable),
        findings: watch.findings(options, Instant::now(), &peers),
        last_removed: watch.last_removed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Autopilot =
        Autopilot { removal: Some(Duration::from_secs(60)), voters_min: 3, learner_stable: Duration::from_secs(5) };

    fn voter(id: NodeId, answers: bool) -> Peer {
        Peer { id, voter: true, answers, caught_up: answers, being_replaced: false }
    }

    fn lead(term: u64) -> LeaderId {
        *openraft::testing::log_id::<rollcall_storage::TypeConfig>(term, 1, 1).committed_leader_id()
    }

    /// Node 1 leads `peers`, all of whom answered when it began, for `seconds`.
    fn after(seconds: u64, options: Autopilot, peers: &[Peer]) -> Vec<(NodeId, Option<u64>, Option<Kept>)> {
        let (mut watch, begun) = (Watch::default(), Instant::now());
        let well: Vec<Peer> = peers.iter().map(|peer| Peer { answers: true, caught_up: true, ..*peer }).collect();
        watch.note(lead(1), begun, &well);
        let at = begun + Duration::from_secs(seconds);
        watch.note(lead(1), at, peers);
        let findings = watch.findings(options, at, peers);
        findings.into_iter().map(|finding| (finding.node_id, finding.removal_in_ms, finding.kept)).collect()
    }

    #[test]
    fn who_is_silent_for_long_enough_is_due_and_not_before() {
        let peers = [voter(2, true), voter(3, true), voter(4, false)];
        assert_eq!(after(59, OPTIONS, &peers), [(4, Some(1_000), None)]);
        assert_eq!(after(60, OPTIONS, &peers), [(4, Some(0), None)]);
        let off = Autopilot { removal: None, ..OPTIONS };
        assert_eq!(after(3_600, off, &peers), [(4, None, None)]);
    }

    #[test]
    fn the_minimum_of_voters_stays() {
        let peers = [voter(2, true), voter(3, false)];
        assert_eq!(after(60, OPTIONS, &peers), [(3, None, Some(Kept::VotersMin))]);
        let two = Autopilot { voters_min: 2, ..OPTIONS };
        assert_eq!(after(60, two, &peers), [(3, Some(0), None)]);
        // A learner is no voter less.
        let learner = Peer { voter: false, ..voter(3, false) };
        assert_eq!(after(60, OPTIONS, &[voter(2, true), learner]), [(3, Some(0), None)]);
    }

    #[test]
    fn who_is_left_must_have_a_quorum_that_answers() {
        let one = Autopilot { voters_min: 1, ..OPTIONS };
        // Of six voters three answer: of the five that would be left too.
        let half = [voter(2, true), voter(3, true), voter(4, false), voter(5, false), voter(6, false)];
        assert!(after(60, one, &half).iter().all(|finding| finding.1 == Some(0)));
        // Of five voters two answer, and of four that would be left three must.
        let fewer = [voter(2, true), voter(3, false), voter(4, false), voter(5, false)];
        assert!(after(60, one, &fewer).iter().all(|finding| finding.2 == Some(Kept::QuorumAtRisk)));
        let replaced = Peer { being_replaced: true, ..voter(4, false) };
        let peers = [voter(2, true), voter(3, true), replaced];
        assert_eq!(after(60, one, &peers), [(4, None, Some(Kept::BeingReplaced))]);
    }

    #[test]
    fn a_new_lead_counts_anew_and_so_does_a_lapse() {
        let (mut watch, begun) = (Watch::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        watch.note(lead(1), at(0), &[voter(2, false)]);
        watch.note(lead(1), at(50), &[voter(2, false)]);
        assert_eq!(watch.silence(2, at(50)), Duration::from_secs(50));
        watch.note(lead(2), at(55), &[voter(2, false)]);
        assert_eq!(watch.silence(2, at(60)), Duration::from_secs(5));

        let learner = |caught_up| Peer { voter: false, caught_up, ..voter(3, true) };
        for (seconds, caught_up, stable) in
            [(60, true, false), (64, true, false), (65, true, true), (66, false, false), (70, true, false)]
        {
            watch.note(lead(2), at(seconds), &[learner(caught_up)]);
            assert_eq!(watch.is_stable(3, at(seconds), OPTIONS.learner_stable), stable, "after {seconds} s");
        }
        // It was gone for a moment, and may be another by now.
        watch.note(lead(2), at(80), &[]);
        assert!(watch.seen.is_empty());
    }
}
