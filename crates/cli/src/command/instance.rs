//! `rollcall heartbeat | deregister | get | discover`: one request each.

use rollcall_api::{CheckResult, HeartbeatRequest, OrderInfo, ServiceObject};
use rollcall_client::{Consistency, DiscoverQuery, Federated};
use serde_json::Value;

use super::operator::rank;
use super::{attempt, client, sign};
use crate::args::{Deregister, Discover, Get, Global, Heartbeat};
use crate::failure::Failure;
use crate::output::{self, Table};

pub(super) async fn heartbeat(global: &Global, args: Heartbeat) -> Result<(), Failure> {
    let metadata = (!args.metadata.is_empty()).then(|| args.metadata.into_iter().collect());
    let beat = HeartbeatRequest { lease_id: args.lease_id, status: args.status, metadata };
    let answer = attempt(format!("renew `{}`", args.id), client(global)?.heartbeat(&args.id, &beat).await)?;
    output::show(global.output, &answer, |answer| {
        let (lease, due) = (answer.lease, answer.next_heartbeat_in_ms);
        format!(
            "renewed {}, lease {} for {} ms; beat again within {due} ms\n",
            answer.service_id, lease.id, lease.ttl_ms
        )
    })
}

pub(super) async fn deregister(global: &Global, args: &Deregister) -> Result<(), Failure> {
    let answer = sign::client(global, &args.key)?.deregister(&args.id, args.lease_id).await;
    let answer = attempt(format!("deregister `{}`", args.id), answer)?;
    output::show(global.output, &answer, |answer| {
        format!("deregistered {} at revision {}\n", output::printable(&answer.service_id), answer.revision)
    })
}

pub(super) async fn get(global: &Global, args: &Get) -> Result<(), Failure> {
    let (consistency, federated) = (Consistency::from(&args.freshness), Federated::from(&args.federated));
    let service = client(global)?.get_federated(&args.id, consistency, federated).await;
    let service = attempt(format!("get `{}`", args.id), service)?;
    output::show(global.output, &service, describe)
}

pub(super) async fn discover(global: &Global, args: Discover) -> Result<(), Failure> {
    let found = client(global)?.discover(&DiscoverQuery::from(args)).await;
    let found = attempt("discover", found)?;
    output::show(global.output, &found, |found| {
        let explained = found.services.iter().any(|service| service.rank.is_some());
        let federated = found.services.iter().any(|service| service.origin.is_some());
        let mut head = vec!["ID", "NAME", "TYPE", "STATUS", "URL", "CAPABILITIES", "LEASE LEFT"];
        head.extend(federated.then_some("ORIGIN"));
        head.extend(explained.then_some("RANK"));
        let mut table = Table::new(&head);
        for service in &found.services {
            let mut row = vec![
                service.id.clone(),
                service.name.clone(),
                service.kind.to_string(),
                service.status.to_string(),
                service.url.clone(),
                capabilities(service),
                seconds(service.lease.expires_in_ms),
            ];
            row.extend(federated.then(|| origin(service)));
            row.extend(service.rank.as_ref().map(rank));
            table.row(row);
        }
        let mut text = table.render();
        text.push_str(&format!("{} of {} at revision {}", found.services.len(), found.total_count, found.revision));
        let copies = found.federated_sources.iter().flatten();
        let copies = copies.filter_map(|source| Some(format!("{} ({})", source.peer, source.reason.as_ref()?)));
        let copies: Vec<_> = copies.collect();
        if !copies.is_empty() {
            text.push_str(&format!("; not asked anew: {}", copies.join(", ")));
        }
        if let Some(cursor) = &found.next_cursor {
            text.push_str(&format!("; the next page: --cursor {cursor}"));
        }
        text.push('\n');
        text
    })
}

/// The cluster whose an instance is, if it is another one's.
fn origin(service: &ServiceObject) -> String {
    let stale = if service.stale == Some(true) { ", stale" } else { "" };
    service.origin.as_ref().map_or_else(String::new, |origin| format!("{origin}{stale}"))
}

/// One instance, field by field; what it did not say is left out.
pub(super) fn describe(service: &ServiceObject) -> String {
    let locality = service.locality.clone().unwrap_or_default();
    let coordinates = locality.latitude.zip(locality.longitude);
    let locality: Vec<_> = [locality.region, locality.zone].into_iter().flatten().collect();
    let metadata: Vec<_> = service.metadata.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
    let lease = service.lease;
    let operator = service.operator.clone().unwrap_or_default();
    let order = |order: Option<OrderInfo>| {
        order.map_or_else(String::new, |order| match order.reason {
            Some(reason) => format!("ordered since {}: {reason}", order.since),
            None => format!("ordered since {}", order.since),
        })
    };
    let health = service.health.as_ref().map(|health| format!("{} since {}", health.verdict, health.since));
    let checked = service.check.as_ref().map(|check| {
        let (check_type, interval_ms) = (check.check_type, check.interval_ms);
        format!("by {check_type} every {interval_ms} ms, from node {} at {}", check.prober, check.prober_address)
    });
    let latest = service.check.as_ref().and_then(|check| check.latest.as_ref());
    let place = |(latitude, longitude): (f64, f64)| format!("{latitude},{longitude}");
    let pairs = [
        ("id", service.id.clone()),
        ("name", service.name.clone()),
        ("type", service.kind.to_string()),
        ("status", service.status.to_string()),
        ("of", origin(service)),
        ("suspect", if service.suspect { "its lease ran out together with others'" } else { "" }.to_owned()),
        ("says", service.reported_status.map_or_else(String::new, |status| status.to_string())),
        ("maintenance", order(operator.maintenance)),
        ("drain", order(operator.drain)),
        ("checks find", health.unwrap_or_default()),
        ("is checked", checked.unwrap_or_default()),
        ("last check", latest.map(last_check).unwrap_or_default()),
        ("rank", service.rank.as_ref().map(rank).unwrap_or_default()),
        ("url", service.url.clone()),
        ("protocol", service.protocol.to_string()),
        ("version", service.version.clone().unwrap_or_default()),
        ("tags", service.tags.join(", ")),
        ("capabilities", capabilities(service)),
        ("metadata", metadata.join(", ")),
        ("locality", locality.join("/")),
        ("coordinates", coordinates.map(place).unwrap_or_default()),
        ("owner", service.owner.clone().unwrap_or_default()),
        ("visibility", service.visibility.to_string()),
        ("signed by", service.signature.as_ref().and(service.public_key.clone()).unwrap_or_default()),
        ("tenant", service.tenant.clone()),
        ("lease", format!("{}, {} ms, {} left", lease.id, lease.ttl_ms, seconds(lease.expires_in_ms))),
        ("revision", format!("{} (created at {})", service.revision, service.created_revision)),
        ("registered", service.registered_at.clone()),
        ("heartbeat", service.heartbeat.clone()),
    ];
    output::fields(&pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>())
}

fn last_check(latest: &CheckResult) -> String {
    let score = latest.score.map_or_else(String::new, |score| format!(", score {score}"));
    let took = latest.response_time_ms.map_or_else(String::new, |ms| format!(", {ms} ms"));
    let issues = match latest.issues.is_empty() {
        true => String::new(),
        false => format!(": {}", latest.issues.join("; ")),
    };
    format!("{} {} times in a row{score}{took}, at {}{issues}", latest.result, latest.in_a_row, latest.checked_at)
}

/// Names only; the details are in the JSON.
fn capabilities(service: &ServiceObject) -> String {
    let name = |capability: &Value| match capability {
        Value::String(name) => name.clone(),
        detail => plain(&detail["capability_name"]),
    };
    service.capabilities.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}
