//! Who checks whom. Every node works it out by itself from who is alive: no two need to agree for long, because twice is as
//! good as once, and a verdict that stands is not said again.

use std::collections::BTreeMap;
use std::sync::Arc;

use rollcall_registry::{FeatureLevel, TenantId};
use rollcall_replica::{ClusterStatus, MemberStatus, NodeId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Looks in a row at which a node must not answer before its share moves: one answer that came late moves nothing.
const MISSES_MAX: u32 = 3;

/// A node that is farther behind than this is told of by the roll too late to check what is on it.
const LAG_ENTRIES_MAX: u64 = 10_000;

/// From this level on a node checks.
const LEVEL: FeatureLevel = FeatureLevel(5);

/// A node that checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prober {
    pub(crate) node_id: NodeId,
    pub(crate) api_address: Box<str>,
}

/// The nodes that check, by id.
pub(super) type Probers = Arc<[Prober]>;

/// Who answered of late.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Looks in a row that a node missed; of one that never answered there is nothing.
    missed: BTreeMap<NodeId, u32>,
}

impl Roster {
    /// Takes in who answers now, and says who counts as alive.
    pub(super) fn note(&mut self, status: &ClusterStatus) -> Probers {
        self.missed.retain(|known, _| status.members.iter().any(|member| member.node_id == *known));
        let mut alive: Vec<_> = status.members.iter().filter_map(|member| self.look(member)).collect();
        alive.sort_by_key(|prober| prober.node_id);
        alive.into()
    }

    fn look(&mut self, member: &MemberStatus) -> Option<Prober> {
        let answers = member.reachable && member.lag_entries.is_some_and(|lag| lag <= LAG_ENTRIES_MAX);
        if answers {
            self.missed.insert(member.node_id, 0);
        }
        let missed = self.missed.get_mut(&member.node_id)?;
        if !answers {
            *missed = missed.saturating_add(1);
        }
        let prober = Prober { node_id: member.node_id, api_address: member.api_address.as_str().into() };
        (*missed < MISSES_MAX && member.feature_level >= LEVEL).then_some(prober)
    }
}

/// Who of those alive checks an instance: the one for whom the hash of both is highest. Where one goes, only what it
/// checked moves, to all others alike.
pub(super) fn prober<'p>(probers: &'p [Prober], tenant: &TenantId, id: &str) -> Option<&'p Prober> {
    let name = hash(0, tenant, id);
    probers.iter().max_by_key(|prober| (mix(name ^ mix(prober.node_id)), prober.node_id))
}

/// Of an instance's name, to spread what is done for it.
pub(super) fn hash(seed: u64, tenant: &TenantId, id: &str) -> u64 {
    xxh3_64_with_seed(id.as_bytes(), xxh3_64_with_seed(tenant.as_str().as_bytes(), seed))
}

/// SplitMix64's: a bijection in which every bit counts.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use rollcall_registry::{ClusterTime, Epoch, Revision};

    use super::*;

    fn probers(ids: &[NodeId]) -> Vec<Prober> {
        ids.iter().map(|id| Prober { node_id: *id, api_address: "a:1".into() }).collect()
    }

    fn shares(ids: &[NodeId]) -> Vec<NodeId> {
        let (probers, tenant) = (probers(ids), TenantId::parse("t").unwrap());
        (0..10_000).map(|n| prober(&probers, &tenant, &format!("web-{n}")).unwrap().node_id).collect()
    }

    #[test]
    fn shares_are_about_equal_and_only_the_share_of_who_goes_moves() {
        let (before, after) = (shares(&[1, 7, 9]), shares(&[1, 9]));
        for id in [1, 7, 9] {
            let share = before.iter().filter(|prober| **prober == id).count();
            assert!((3_000..3_700).contains(&share), "{id} has {share} of 10000");
        }
        let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
        assert!(moved.iter().all(|(before, _)| **before == 7), "others' shares moved");
        let inherited = moved.iter().filter(|(_, after)| **after == 1).count();
        assert!((1_450..1_900).contains(&inherited), "one inherited {inherited} of {}", moved.len());
    }

    #[test]
    fn tenants_are_spread_apart_and_nobody_checks_where_nobody_is() {
        let probers = probers(&[1, 2, 3]);
        let of = |tenant: &str| {
            let tenant = TenantId::parse(tenant).unwrap();
            (0..100).map(|n| prober(&probers, &tenant, &n.to_string()).unwrap().node_id).collect::<Vec<_>>()
        };
        assert_ne!(of("a"), of("b"));
        assert_eq!(prober(&[], &TenantId::parse("a").unwrap(), "x"), None);
    }

    fn status(members: &[(NodeId, bool, Option<u64>, u64)]) -> ClusterStatus {
        let member = |&(node_id, reachable, lag_entries, level): &(NodeId, bool, Option<u64>, u64)| MemberStatus {
            node_id,
            voter: true,
            api_address: format!("host-{node_id}:1"),
            peer_address: String::new(),
            replaces: None,
            reachable,
            applied_index: None,
            lag_entries,
            version: None,
            feature_level: FeatureLevel(level),
        };
        ClusterStatus {
            cluster_id: String::new(),
            epoch: Epoch(0),
            node_id: 1,
            leader_id: None,
            term: 1,
            revision: Revision(0),
            applied_index: 0,
            committed_index: 0,
            membership_index: 0,
            feature_level: FeatureLevel(level_of(members)),
            cluster_time: ClusterTime(0),
            autopilot: None,
            members: members.iter().map(member).collect(),
        }
    }

    fn level_of(members: &[(NodeId, bool, Option<u64>, u64)]) -> u64 {
        members.iter().map(|member| member.3).min().unwrap_or(0)
    }

    #[test]
    fn a_node_is_gone_when_it_was_missed_thrice_and_back_at_once() {
        let mut roster = Roster::default();
        let mut look = |answers: bool| {
            let members = [(1, true, Some(0), 5), (2, answers, answers.then_some(0), 5)];
            roster.note(&status(&members)).iter().map(|prober| prober.node_id).collect::<Vec<_>>()
        };
        assert_eq!(look(false), [1], "it never answered");
        assert_eq!(look(true), [1, 2]);
        assert_eq!((look(false), look(false), look(false)), (vec![1, 2], vec![1, 2], vec![1]));
        assert_eq!((look(true), look(false)), (vec![1, 2], vec![1, 2]));
    }

    #[test]
    fn older_nodes_and_those_that_lag_far_behind_check_nothing() {
        let mut roster = Roster::default();
        let members = [(3, true, Some(0), 5), (1, true, Some(0), 4), (2, true, Some(1 << 20), 5)];
        let probers = roster.note(&status(&members));
        assert_eq!(probers.iter().map(|prober| prober.node_id).collect::<Vec<_>>(), [3]);
    }
}
