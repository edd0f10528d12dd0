//! What the leader does about other clusters: it tells them what is offered to them, and clears away what is no longer so
//! of theirs. Whoever leads without knowing that it does no more does no harm: what is told twice counts once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rollcall_registry::federation::SWEEP_MAX;
use rollcall_registry::federation::teller;
use rollcall_registry::{ClusterTime, Command, FederationCommand, FederationOutcome, Outcome, PeerName, PeerTerms};
use rollcall_replica::Replica;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::link::{Link, Links};
use super::message::Own;

/// How often it is looked who leads, whom there is to tell, and what lapsed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Parts that are cleared away in a row.
const SWEEPS_MAX: usize = 8;

/// Goes on until the node ends.
pub(crate) async fn attend(replica: Replica, links: Links, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut running: BTreeMap<(PeerName, ClusterTime), CancellationToken> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = looks.tick() => {}
        }
        while tasks.try_join_next().is_some() {}
        let leads = replica.leader() == Some(replica.node_id());
        let mut wanted: BTreeMap<(PeerName, ClusterTime), Arc<PeerTerms>> = BTreeMap::new();
        let own = leads.then(|| {
            replica.roll().read(|state| {
                let told = state.peers().filter(|peer| teller::is_told(peer));
                wanted.extend(told.map(|peer| (teller::telling_of(peer), peer.terms.clone())));
                state.cluster_seed()
            })
        });
        running.retain(|telling, stop| {
            let goes_on = wanted.contains_key(telling);
            if !goes_on {
                stop.cancel();
                links.end(&telling.0);
            }
            goes_on
        });
        if let Some(seed) = own.flatten() {
            let new: Vec<_> = wanted.into_iter().filter(|(telling, _)| !running.contains_key(telling)).collect();
            if !new.is_empty() {
                let own = Arc::new(Own::of(&seed));
                for (telling, terms) in new {
                    let stop = stop.child_token();
                    links.begin(&telling.0);
                    let link = Link {
                        replica: replica.clone(),
                        own: own.clone(),
                        terms,
                        since: telling.1,
                        links: links.clone(),
                    };
                    tasks.spawn(link.run(stop.clone()));
                    running.insert(telling, stop);
                }
            }
        }
        if leads {
            sweep(&replica).await;
        }
    }
    running.into_values().for_each(|stop| stop.cancel());
    while tasks.join_next().await.is_some() {}
}

async fn sweep(replica: &Replica) {
    for _ in 0..SWEEPS_MAX {
        let now = replica.cluster_time();
        if !replica.roll().read(|state| state.is_sweep_due(now.max(state.now()))) {
            return;
        }
        let command = Command::Federation(FederationCommand::Sweep { limit: SWEEP_MAX });
        match replica.submit(command, Instant::now() + PATIENCE).await.map(|applied| applied.outcome) {
            Ok(Outcome::Federation(outcome)) if matches!(*outcome, FederationOutcome::Swept { more: true }) => {}
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%error, "what other clusters took back cannot be cleared away yet");
                return;
            }
        }
    }
}
