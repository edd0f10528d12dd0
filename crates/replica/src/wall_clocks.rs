//! How far the members' wall clocks are apart. They decide nothing; people who read two logs side by side care.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rollcall_storage::NodeId;
use tokio::time::{Instant, MissedTickBehavior};

use crate::core::{Core, wall};
use crate::membership::INFO_TIMEOUT;
use crate::message::InfoResponse;
use crate::peer::PeerRoute;

/// How often the others are asked. Clocks drift slowly.
const INTERVAL: Duration = Duration::from_secs(10);

/// From here on a clock is said to be off.
pub(crate) const OFF_MS: i64 = 1_000;

/// Each peer's wall clock against this one's.
#[derive(Debug, Default)]
pub(crate) struct WallClocks(Mutex<BTreeMap<NodeId, i64>>);

impl WallClocks {
    /// Of the peer whose clock is farthest off, in ms; positive if that is ahead.
    pub(crate) fn farthest(&self) -> Option<i64> {
        self.0.lock().values().copied().max_by_key(|offset| offset.abs())
    }

    /// Takes in a measurement; true when the peer's clock is off and was not before.
    fn note(&self, peer: NodeId, offset_ms: i64) -> bool {
        let before = self.0.lock().insert(peer, offset_ms);
        offset_ms.abs() > OFF_MS && before.is_none_or(|before| before.abs() <= OFF_MS)
    }

    fn keep(&self, peers: &[(NodeId, String)]) {
        self.0.lock().retain(|known, _| peers.iter().any(|(peer, _)| peer == known));
    }
}

/// What is certain of a clock's offset: the answer was given at some moment between `asked_ms` and `answered_ms`.
fn offset_ms(peer_ms: u64, asked_ms: u64, answered_ms: u64) -> i64 {
    let behind = peer_ms.saturating_sub(answered_ms);
    let ahead = asked_ms.saturating_sub(peer_ms);
    i64::try_from(behind).unwrap_or(i64::MAX) - i64::try_from(ahead).unwrap_or(i64::MAX)
}

pub(crate) async fn drive(core: Arc<Core>) {
    let mut ticks = tokio::time::interval_at(Instant::now() + Duration::from_secs(1), INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = compare(&core) => {}
        }
    }
}

async fn compare(core: &Core) {
    let membership = core.metrics().membership_config;
    let others = membership.membership().nodes().filter(|(id, _)| **id != core.node_id);
    let peers: Vec<_> = others.map(|(id, member)| (*id, member.peer_address.clone())).collect();
    core.wall_clocks.keep(&peers);
    for (peer, address) in peers {
        let asked = wall();
        let info = core.network.call(peer, &address, PeerRoute::Info, (), INFO_TIMEOUT).await;
        // Whoever is out of reach is told of elsewhere.
        let Ok(InfoResponse { wall: answer, .. }) = info else { continue };
        let offset_ms = offset_ms(answer.0, asked.0, wall().0);
        if core.wall_clocks.note(peer, offset_ms) {
            tracing::warn!(peer, offset_ms, "a peer's wall clock is far off this node's; is time kept on both?");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_within_the_time_on_the_way_is_none() {
        assert_eq!(offset_ms(1_000, 990, 1_010), 0);
        assert_eq!(offset_ms(1_011, 990, 1_010), 1);
        assert_eq!(offset_ms(5_000, 990, 1_000), 4_000);
        assert_eq!(offset_ms(980, 990, 1_010), -10);
    }

    #[test]
    fn a_clock_that_goes_off_is_told_of_once() {
        let clocks = WallClocks::default();
        assert_eq!(clocks.farthest(), None);
        let told: Vec<bool> =
            [0, 1_001, 2_000, 10, -1_500].into_iter().map(|offset| clocks.note(2, offset)).collect();
        assert_eq!(told, [false, true, false, false, true]);
        clocks.note(3, 700);
        assert_eq!(clocks.farthest(), Some(-1_500));
        clocks.keep(&[(3, String::new())]);
        assert_eq!(clocks.farthest(), Some(700));
    }
}
