//! What an instance's shown status is worked out from, beside what it says of itself: what checks observed of it, and
//! what operators ordered for it. Each is kept apart from the others, so that none undoes another.

use serde::{Deserialize, Serialize};

use crate::ids::WallTime;
use crate::registration::{Status, words};

/// Longest reason of an order: a sentence or two, and ten thousand of them make an answer of a few megabytes.
pub const REASON_BYTES_MAX: usize = 256;

words! {
    /// What checks found of an instance.
    Verdict { Healthy = "healthy", Degraded = "degraded", Error = "error" }
}
words! {
    /// Which instances of a tenant are checked.
    CheckScope { Nobody = "none", Asked = "asked", All = "all" }
}
words! {
    /// What operators can order for an instance.
    OrderKind { Maintenance = "maintenance", Drain = "drain" }
}

/// An order that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub reason: Option<Box<str>>,
    /// When it was given first.
    pub since: WallTime,
}

/// The orders for one instance, of each kind one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Out of service until an operator says otherwise, whatever becomes of the instance meanwhile.
    pub maintenance: Option<Order>,
    /// No new work until it goes; over when it has gone.
    pub drain: Option<Order>,
}

impl Orders {
    pub const NONE: &'static Self = &Self { maintenance: None, drain: None };

    pub fn is_empty(&self) -> bool {
        *self == *Self::NONE
    }

    pub fn get(&self, kind: OrderKind) -> Option<&Order> {
        match kind {
            OrderKind::Maintenance => self.maintenance.as_ref(),
            OrderKind::Drain => self.drain.as_ref(),
        }
    }

    /// As they stand for an id that is off the roll.
    pub fn of_absent(maintenance: Order) -> Self {
        Self { maintenance: Some(maintenance), drain: None }
    }

    pub(crate) fn with(mut self, kind: OrderKind, order: Option<Order>) -> Self {
        match kind {
            OrderKind::Maintenance => self.maintenance = order,
            OrderKind::Drain => self.drain = order,
        }
        self
    }

    pub(crate) fn bytes(&self) -> usize {
        let orders = [&self.maintenance, &self.drain].into_iter().flatten();
        orders.filter_map(|order| order.reason.as_ref()).map(|reason| reason.len()).sum()
    }
}

/// What an operator says of the checks of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantChecks {
    pub scope: CheckScope,
    /// How often those are checked that do not say it themselves.
    pub interval_ms: Option<u32>,
}

/// What checks last found, and since when they find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    pub verdict: Verdict,
    pub since: WallTime,
}

/// The status that others see. The first that holds:
///
/// 1. the lease ran out: offline, because nobody is known to be there;
/// 2. an operator ordered maintenance or drain: maintenance, whatever anybody else says;
/// 3. the instance says that it is offline, in maintenance or in error: that, because it knows best what is wrong with it;
/// 4. checks found an error: error;
/// 5. checks found it degraded, or it says so: degraded;
/// 6. active.
pub(crate) fn status(lapsed: bool, orders: &Orders, reported: Status, observed: Option<Verdict>) -> Status {
    if lapsed {
        return Status::Offline;
    }
    if !orders.is_empty() {
        return Status::Maintenance;
    }
    match (reported, observed) {
        (Status::Offline | Status::Maintenance | Status::Error, _) => reported,
        (Status::Active | Status::Degraded, Some(Verdict::Error)) => Status::Error,
        (Status::Active, Some(Verdict::Degraded)) => Status::Degraded,
        (Status::Active | Status::Degraded, _) => reported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_check_and_no_heartbeat_undoes_an_operator() {
        let order = Some(Order { reason: None, since: WallTime(1) });
        for kind in OrderKind::ALL {
            let orders = Orders::default().with(*kind, order.clone());
            for reported in Status::ALL {
                for observed in [None, Some(Verdict::Healthy), Some(Verdict::Degraded), Some(Verdict::Error)] {
                    assert_eq!(status(false, &orders, *reported, observed), Status::Maintenance);
                    assert_eq!(status(true, &orders, *reported, observed), Status::Offline);
                }
            }
        }
    }

    #[test]
    fn the_worse_of_what_is_said_and_what_is_seen_is_shown() {
        use Status::{Active, Degraded, Error, Maintenance, Offline};
        // Reported, then shown with each verdict: none, healthy, degraded, error.
        let table = [
            (Active, [Active, Active, Degraded, Error]),
            (Degraded, [Degraded, Degraded, Degraded, Error]),
            (Maintenance, [Maintenance; 4]),
            (Error, [Error; 4]),
            (Offline, [Offline; 4]),
        ];
        let verdicts = [None, Some(Verdict::Healthy), Some(Verdict::Degraded), Some(Verdict::Error)];
        for (reported, shown) in table {
            let worked_out = verdicts.map(|verdict| status(false, Orders::NONE, reported, verdict));
            assert_eq!(worked_out, shown, "reported {reported}");
        }
    }
}
