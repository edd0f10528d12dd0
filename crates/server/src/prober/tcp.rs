//! A check by TCP: it connects, and says nothing.

use std::time::{Duration, Instant};

use super::dial::Dialer;
use super::finding::{Broken, Finding, Part};
use super::http::ms;
use super::plan::Plan;
use super::within;

pub(super) async fn check(dialer: &Dialer, plan: &Plan) -> Result<Finding, Broken> {
    let limit = Duration::from_millis(plan.timeout_ms.into());
    let looked_up = tokio::time::timeout(limit, dialer.resolve(&plan.target)).await;
    let addresses = looked_up.unwrap_or(Err(Broken::Unknown))?;
    let begun = Instant::now();
    let connected = within(plan, dialer.connect(&addresses)).await.map(drop);
    let took = connected.is_ok().then(|| ms(begun.elapsed()));
    Ok(Finding::of(&[(Part::Connectivity, connected)], took))
}
