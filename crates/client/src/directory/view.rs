//! One state of a directory, and how one instance of it is picked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rollcall_api::ServiceObject;

/// A failure older than this says nothing any more. Otherwise one that failed once would never be tried again for as
/// long as another did not.
const FAILURE_FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// How one of several instances is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// One after the other.
    RoundRobin,
    /// By lot, each as often as its `weight` says; one of weight 0 only where all are.
    Weighted,
    /// The one whose last failure is the longest ago; among those without one, one after the other.
    LeastRecentlyFailed,
}

/// When calls to one instance failed last, in milliseconds after the directory's start and one more; 0 when none did.
type FailedAt = Arc<AtomicU64>;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    service: Arc<ServiceObject>,
    failed_at: FailedAt,
}

impl Entry {
    /// With the failures of `before`, if that was the same incarnation.
    pub(super) fn new(service: ServiceObject, before: Option<&Self>) -> Self {
        let same = before.filter(|before| before.service.lease.id == service.lease.id);
        let failed_at = same.map(|before| Arc::clone(&before.failed_at)).unwrap_or_default();
        Self { service: Arc::new(service), failed_at }
    }
}

/// In the order of ids; the lists are of equal length.
#[derive(Debug, Default)]
pub(super) struct View {
    services: Arc<[Arc<ServiceObject>]>,
    failed_at: Vec<FailedAt>,
    /// The places of those that are picked from: all but those that operators want to be given no work, and suspects only
    /// where there are no others.
    candidates: Vec<usize>,
    /// The weights of all candidates up to and with this one.
    weights: Vec<u64>,
}

impl FromIterator<Entry> for View {
    /// The entries come in the order of their ids.
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let (services, failed_at): (Vec<_>, Vec<_>) =
            entries.into_iter().map(|entry| (entry.service, entry.failed_at)).unzip();
        let in_service = (0..services.len()).filter(|at| services[*at].operator.is_none());
        let (suspects, believed): (Vec<_>, Vec<_>) = in_service.partition(|at| services[*at].suspect);
        let candidates = if believed.is_empty() { suspects } else { believed };
        let mut sum = 0;
        let weights = candidates.iter().map(|at| {
            sum += u64::from(services[*at].weight);
            sum
        });
        let weights = weights.collect();
        Self { services: services.into(), failed_at, candidates, weights }
    }
}

impl View {
    pub(super) fn services(&self) -> Arc<[Arc<ServiceObject>]> {
        Arc::clone(&self.services)
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<ServiceObject>> {
        self.position(id).map(|at| Arc::clone(&self.services[at]))
    }

    /// Notes a failure at `failed_at`, or that there is none. Those that are not here are nobody's concern any more.
    pub(super) fn set_failed(&self, id: &str, failed_at: Option<Duration>) {
        if let Some(at) = self.position(id) {
            self.failed_at[at].store(failed_at.map_or(0, |failed_at| ms(failed_at) + 1), Ordering::Relaxed);
        }
    }

    pub(super) fn pick(&self, strategy: Strategy, turn: usize, now: Duration) -> Option<Arc<ServiceObject>> {
        if self.candidates.is_empty() {
            return None;
        }
        let nth = match strategy {
            Strategy::RoundRobin => turn % self.candidates.len(),
            Strategy::Weighted => match self.weights.last() {
                Some(&sum) if sum > 0 => self.at_weight(rand::random_range(0..sum)),
                _ => turn % self.candidates.len(),
            },
            Strategy::LeastRecentlyFailed => self.least_recently_failed(turn, now),
        };
        Some(Arc::clone(&self.services[self.candidates[nth]]))
    }

    /// The candidate whose share of the summed weights `drawn` falls into.
    fn at_weight(&self, drawn: u64) -> usize {
        self.weights.partition_point(|&sum| sum <= drawn)
    }

    /// A candidate. Looks at all only where all failed.
    fn least_recently_failed(&self, turn: usize, now: Duration) -> usize {
        let (count, forgotten) = (self.candidates.len(), ms(now.saturating_sub(FAILURE_FORGOTTEN_AFTER)));
        let mut least = (u64::MAX, 0);
        for nth in (0..count).map(|step| (turn % count + step) % count) {
            let failed_at = self.failed_at[self.candidates[nth]].load(Ordering::Relaxed);
            if failed_at <= forgotten {
                return nth;
            }
            least = least.min((failed_at, nth));
        }
        least.1
    }

    fn position(&self, id: &str) -> Option<usize> {
        self.services.binary_search_by(|service| service.id.as_str().cmp(id)).ok()
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    pub(in crate::directory) fn service(id: &str, lease: u64, weight: u32) -> ServiceObject {
        serde_json::from_value(json!({
            "id": id, "tenant": "default", "name": "web", "type": "service", "tags": [], "url": "http://a",
            "protocol": "http", "endpoints": [], "visibility": "private", "capabilities": [], "consumed_events": [],
            "produced_events": [], "metadata": {}, "weight": weight, "ttl_ms": 3_000, "reap_after_ms": 0,
            "status": "active", "lease": {"id": lease, "ttl_ms": 3_000, "expires_in_ms": 2_900}, "revision": lease,
            "created_revision": lease, "registered_at": "2026-01-01T00:00:00Z", "heartbeat": "2026-01-01T00:00:00Z",
        }))
        .expect("a service object")
    }

    fn view(weights: &[(&str, u32)]) -> View {
        weights.iter().map(|(id, weight)| Entry::new(service(id, 1, *weight), None)).collect()
    }

    fn picks(view: &View, strategy: Strategy, count: usize, now: Duration) -> Vec<String> {
        (0..count).map(|turn| view.pick(strategy, turn, now).expect("somebody").id.clone()).collect()
    }

    fn shares(picks: Vec<String>) -> BTreeMap<String, usize> {
        picks.into_iter().fold(BTreeMap::new(), |mut shares, id| {
            *shares.entry(id).or_default() += 1;
            shares
        })
    }

    #[test]
    fn nobody_is_picked_where_nobody_is() {
        for strategy in [Strategy::RoundRobin, Strategy::Weighted, Strategy::LeastRecentlyFailed] {
            assert!(View::default().pick(strategy, 7, NOW).is_none());
        }
    }

    #[test]
    fn whoever_an_operator_takes_out_is_not_picked() {
        let ordered = |id: &str| {
            let mut service = service(id, 1, 1);
            service.operator = Some(rollcall_api::OperatorOrders::default());
            Entry::new(service, None)
        };
        let plain = |id: &str| Entry::new(service(id, 1, 1), None);
        let view: View = [ordered("a"), plain("b"), ordered("c"), plain("d")].into_iter().collect();
        for strategy in [Strategy::RoundRobin, Strategy::Weighted, Strategy::LeastRecentlyFailed] {
            let shares = shares(picks(&view, strategy, 100, NOW));
            assert_eq!(shares.keys().collect::<Vec<_>>(), ["b", "d"], "{strategy:?}");
        }
        let view: View = [ordered("a")].into_iter().collect();
        assert!(view.pick(Strategy::RoundRobin, 0, NOW).is_none());
        assert_eq!(view.services().len(), 1);
    }

    #[test]
    fn suspects_are_picked_where_there_are_no_others() {
        let suspect = |id: &str| Entry::new(ServiceObject { suspect: true, ..service(id, 1, 1) }, None);
        let view: View = [suspect("a"), Entry::new(service("b", 1, 1), None)].into_iter().collect();
        assert_eq!(picks(&view, Strategy::RoundRobin, 2, NOW), ["b", "b"]);
        let view: View = [suspect("a"), suspect("c")].into_iter().collect();
        assert_eq!(picks(&view, Strategy::RoundRobin, 2, NOW), ["a", "c"]);
    }

    #[test]
    fn round_robin_takes_one_after_the_other() {
        let view = view(&[("a", 1), ("b", 9), ("c", 0)]);
        assert_eq!(picks(&view, Strategy::RoundRobin, 5, NOW), ["a", "b", "c", "a", "b"]);
    }

    #[test]
    fn each_weight_is_a_share_and_zero_is_none() {
        let weighted = view(&[("a", 0), ("b", 1), ("c", 0), ("d", 3), ("e", 0)]);
        let drawn: Vec<_> = (0..4).map(|drawn| weighted.services[weighted.at_weight(drawn)].id.as_str()).collect();
        assert_eq!(weighted.candidates, [0, 1, 2, 3, 4]);
        assert_eq!(drawn, ["b", "d", "d", "d"]);

        let shares_of = |view: &View| shares(picks(view, Strategy::Weighted, 8_000, NOW));
        let shares = shares_of(&weighted);
        assert_eq!(shares.keys().collect::<Vec<_>>(), ["b", "d"]);
        // 2,000 expected, and one standard deviation is 39.
        assert!((1_700..2_300).contains(&shares["b"]), "{shares:?}");
        assert_eq!(
            shares_of(&view(&[("a", 0), ("b", 0)])),
            BTreeMap::from([("a".into(), 4_000), ("b".into(), 4_000)])
        );
    }

    #[test]
    fn whose_failure_is_the_longest_ago_is_taken_and_before_them_who_has_none() {
        let view = view(&[("a", 1), ("b", 1), ("c", 1)]);
        let pick = |count, now| picks(&view, Strategy::LeastRecentlyFailed, count, now);
        assert_eq!(pick(4, NOW), ["a", "b", "c", "a"]);
        view.set_failed("a", Some(NOW));
        view.set_failed("nobody", Some(NOW));
        assert_eq!(pick(4, NOW), ["b", "b", "c", "b"]);
        view.set_failed("c", Some(NOW - Duration::from_secs(2)));
        view.set_failed("b", Some(NOW - Duration::from_secs(1)));
        assert_eq!(pick(3, NOW), ["c", "c", "c"]);
        view.set_failed("b", None);
        assert_eq!(pick(3, NOW), ["b", "b", "b"]);
        let later = NOW + FAILURE_FORGOTTEN_AFTER + Duration::from_millis(1);
        assert_eq!(pick(3, later), ["a", "b", "c"], "failures are forgotten");
    }

    #[test]
    fn failures_stay_with_the_incarnation_that_failed() {
        let before = Entry::new(service("a", 1, 1), None);
        let view: View = [before.clone()].into_iter().collect();
        view.set_failed("a", Some(NOW));
        let changed = Entry::new(service("a", 1, 5), Some(&before));
        assert!(Arc::ptr_eq(&changed.failed_at, &before.failed_at));
        let anew = Entry::new(service("a", 2, 1), Some(&before));
        assert_eq!(anew.failed_at.load(Ordering::Relaxed), 0);
    }
}
