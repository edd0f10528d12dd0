//! Streams last longer than the credentials that opened them. Each is on a leash, which ends it when what was shown is good
//! no more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rollcall_registry::{ClusterTime, State};
use tokio_util::sync::CancellationToken;

use super::principal::{Credential, Identity};

/// All streams that are under way on somebody's behalf. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Leashes(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    last: u64,
    streams: BTreeMap<u64, (Credential, CancellationToken)>,
}

/// Let go when it is dropped.
pub(crate) struct Leash {
    stop: CancellationToken,
    held: Option<(Leashes, u64)>,
}

impl Leashes {
    /// For a stream that also ends with `parent`.
    pub(crate) fn hold(&self, identity: &Identity, parent: &CancellationToken) -> Leash {
        let stop = parent.child_token();
        let held = identity.0.as_ref().map(|principal| {
            let mut held = self.0.lock();
            held.last += 1;
            let number = held.last;
            held.streams.insert(number, (principal.credential, stop.clone()));
            (self.clone(), number)
        });
        Leash { stop, held }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().streams.is_empty()
    }

    /// Ends those whose credentials are good no more.
    pub(super) fn pull(&self, state: &State, now: ClusterTime) {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        for (credential, stop) in self.0.lock().streams.values() {
            let is_good = match credential {
                Credential::Token { id, secret } => state.check_access(*id, secret, now.max(state.now())).is_ok(),
                Credential::Jwt { expires_at_s } => now_s < *expires_at_s,
            };
            if !is_good {
                stop.cancel();
            }
        }
    }
}

impl Leash {
    /// Cancelled when the stream must end.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some((leashes, number)) = &self.held {
            leashes.0.lock().streams.remove(number);
        }
    }
}
