//! What operators say: orders for instances, trust in owners, how results are ranked, who is checked, when leases are held,
//! where alerts go, how much a tenant may have. And picking one by rank.

use reqwest::Method;
use rollcall_api::{
    AlertTargetRequest, AlertTargetsResponse, ChecksRequest, ChecksResponse, OrderRequest, OrderResponse,
    OrdersResponse, PickResponse, ProtectionRequest, ProtectionResponse, QuotaLimits, QuotaResponse, RankWeights,
    RankingRequest, RankingResponse, RemoveAlertTargetResponse, SetAlertTargetResponse, TestAlertResponse, TrustInfo,
    TrustRequest, TrustsResponse,
};

use crate::client::{Client, addressable};
use crate::error::Error;
use crate::query::{Consistency, PickQuery};
use crate::request::{Repeat, Request};

/// What can be ordered for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Out of service until it is lifted; outlives the instance.
    Maintenance,
    /// No new work until it goes; over when it has gone.
    Drain,
}

impl Order {
    fn segment(self) -> &'static str {
        match self {
            Self::Maintenance => "maintenance",
            Self::Drain => "drain",
        }
    }
}

const RANKING: [&str; 2] = ["api", "ranking"];
const QUOTA: [&str; 2] = ["api", "quota"];
const CHECKS: [&str; 2] = ["api", "checks"];
const PROTECTION: [&str; 2] = ["api", "protection"];

impl Client {
    /// Gives an order for an instance, or another reason for one that stands.
    ///
    /// # Errors
    /// 404 `not_found` when the instance is not on the roll; 409 `too_many_rulings`.
    pub async fn order(&self, id: &str, order: Order, reason: Option<&str>) -> Result<OrderResponse, Error> {
        let path = ["api", "services", addressable(id)?, order.segment()];
        let body = OrderRequest { reason: reason.map(str::to_owned) };
        self.send(&Request::new(Method::PUT, &path, Repeat::Safe).json(&body)?).await
    }

    /// Takes an order back.
    ///
    /// # Errors
    /// 404 `not_found` when neither the instance nor an order for it is there.
    pub async fn lift(&self, id: &str, order: Order) -> Result<OrderResponse, Error> {
        let path = ["api", "services", addressable(id)?, order.segment()];
        self.send(&Request::new(Method::DELETE, &path, Repeat::IfNotApplied)).await
    }

    /// All orders that stand, those for ids that are off the roll among them.
    ///
    /// # Errors
    /// 503 and 504 when the wanted consistency cannot be had in time.
    pub async fn orders(&self, consistency: Consistency) -> Result<OrdersResponse, Error> {
        let request = Request::new(Method::GET, &["api", "orders"], Repeat::Safe);
        self.send(&request.query(consistency.parameters())).await
    }

    /// Says how far an owner is trusted, 0 to 10; `None` forgets it.
    ///
    /// # Errors
    /// 400 for a number beyond the bounds; 409 `too_many_rulings`.
    pub async fn set_trust(&self, owner: &str, trust: Option<f64>) -> Result<TrustInfo, Error> {
        let path = ["api", "trust", addressable(owner)?];
        let request = match trust {
            Some(trust) => Request::new(Method::PUT, &path, Repeat::Safe).json(&TrustRequest { trust })?,
            None => Request::new(Method::DELETE, &path, Repeat::Safe),
        };
        self.send(&request).await
    }

    /// All owners of whom it is known how far they are trusted.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn trust(&self) -> Result<TrustsResponse, Error> {
        self.send(&Request::new(Method::GET, &["api", "trust"], Repeat::Safe)).await
    }

    /// By what the tenant's results are ranked.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn ranking(&self) -> Result<RankingResponse, Error> {
        self.send(&Request::new(Method::GET, &RANKING, Repeat::Safe)).await
    }

    /// Says by what the tenant's results are ranked; `None` is the default again.
    ///
    /// # Errors
    /// 400 for weights beyond the bounds.
    pub async fn set_ranking(&self, weights: Option<RankWeights>) -> Result<RankingResponse, Error> {
        let request = match weights {
            Some(weights) => Request::new(Method::PUT, &RANKING, Repeat::Safe).json(&RankingRequest { weights })?,
            None => Request::new(Method::DELETE, &RANKING, Repeat::Safe),
        };
        self.send(&request).await
    }

    /// How much the tenant may have, and has.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn quota(&self) -> Result<QuotaResponse, Error> {
        self.send(&Request::new(Method::GET, &QUOTA, Repeat::Safe)).await
    }

    /// Says how much the tenant may have, in the place of what was said before; `None` is as much as it will.
    ///
    /// # Errors
    /// 400 for limits beyond the bounds, or none at all; 409 `too_many_quotas`.
    pub async fn set_quota(&self, limits: Option<QuotaLimits>) -> Result<QuotaResponse, Error> {
        let request = match limits {
            Some(limits) => Request::new(Method::PUT, &QUOTA, Repeat::Safe).json(&limits)?,
            None => Request::new(Method::DELETE, &QUOTA, Repeat::Safe),
        };
        self.send(&request).await
    }
    /// How the tenant's protection from a mass expiry stands.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn protection(&self) -> Result<ProtectionResponse, Error> {
        self.send(&Request::new(Method::GET, &PROTECTION, Repeat::Safe)).await
    }

    /// Says when the tenant's leases are held; `None` is never.
    ///
    /// # Errors
    /// 400 for numbers beyond the bounds.
    pub async fn set_protection(&self, rule: Option<ProtectionRequest>) -> Result<ProtectionResponse, Error> {
        let request = match rule {
            Some(rule) => Request::new(Method::PUT, &PROTECTION, Repeat::Safe).json(&rule)?,
            None => Request::new(Method::DELETE, &PROTECTION, Repeat::Safe),
        };
        self.send(&request).await
    }

    /// Which of the tenant's instances are checked.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn checks(&self) -> Result<ChecksResponse, Error> {
        self.send(&Request::new(Method::GET, &CHECKS, Repeat::Safe)).await
    }

    /// Says which of the tenant's instances are checked; `None`: those that ask.
    ///
    /// # Errors
    /// 400 for an interval beyond the bounds.
    pub async fn set_checks(&self, checks: Option<ChecksRequest>) -> Result<ChecksResponse, Error> {
        let request = match checks {
            Some(checks) => Request::new(Method::PUT, &CHECKS, Repeat::Safe).json(&checks)?,
            None => Request::new(Method::DELETE, &CHECKS, Repeat::Safe),
        };
        self.send(&request).await
    }
    /// Ends protection that is in force, and has those struck off that are held.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn release_suspects(&self) -> Result<ProtectionResponse, Error> {
        let path = ["api", "protection", "release"];
        self.send(&Request::new(Method::POST, &path, Repeat::IfNotApplied)).await
    }

    /// Where the tenant's alerts go.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn alert_targets(&self) -> Result<AlertTargetsResponse, Error> {
        self.send(&Request::new(Method::GET, &["api", "alerts"], Repeat::Safe)).await
    }

    /// Has alerts sent somewhere. A secret that is made up is told in the answer and nowhere else.
    ///
    /// # Errors
    /// 400 for an address to which alerts may not go; 409 `too_many_rulings`.
    pub async fn set_alert_target(
        &self,
        name: &str,
        target: &AlertTargetRequest,
    ) -> Result<SetAlertTargetResponse, Error> {
        let path = ["api", "alerts", addressable(name)?];
        // Repeated, a secret that was made up is no longer told.
        let repeat = if target.secret.is_some() { Repeat::Safe } else { Repeat::IfNotApplied };
        self.send(&Request::new(Method::PUT, &path, repeat).json(target)?).await
    }

    /// Sends alerts there no more.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn remove_alert_target(&self, name: &str) -> Result<RemoveAlertTargetResponse, Error> {
        let path = ["api", "alerts", addressable(name)?];
        self.send(&Request::new(Method::DELETE, &path, Repeat::IfNotApplied)).await
    }

    /// Sends a test alert, once.
    ///
    /// # Errors
    /// 404 `not_found` when there is no such target.
    pub async fn test_alert_target(&self, name: &str) -> Result<TestAlertResponse, Error> {
        let path = ["api", "alerts", addressable(name)?, "test"];
        self.send(&Request::new(Method::POST, &path, Repeat::IfNotApplied)).await
    }

    /// One of those that fit. For one per call, with nothing to ask meanwhile, see [`Directory`](crate::Directory).
    ///
    /// # Errors
    /// 404 `nobody_fits`; 400 for a malformed filter; 503 and 504 when the wanted consistency cannot be had in time.
    pub async fn pick(&self, query: &PickQuery) -> Result<PickResponse, Error> {
        let request = Request::new(Method::GET, &["api", "services", "pick"], Repeat::Safe);
        self.send(&request.query(query.parameters())).await
    }
}
