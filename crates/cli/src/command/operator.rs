//! `rollcall maintenance | drain | trust | ranking | checks | protection | alerts | tenant | pick`.

use rollcall_api::{
    AlertTargetRequest, AlertTargetsResponse, CheckScope, ChecksRequest, ChecksResponse, OperatorOrders,
    OrderResponse, OrdersResponse, ProtectionRequest, ProtectionResponse, QuotaResponse, RankInfo, RankingResponse,
    RemoveAlertTargetResponse, SetAlertTargetResponse, TestAlertResponse, TrustsResponse,
};
use rollcall_client::{Consistency, Order, PickQuery};

use super::{attempt, client, instance, read_file};
use crate::args::{Alerts, Checks, Drain, Global, Maintenance, Pick, Protection, Quota, Ranking, Tenant, Trust};
use crate::failure::Failure;
use crate::output::{self, Table};

pub(super) async fn maintenance(global: &Global, args: Maintenance) -> Result<(), Failure> {
    match args {
        Maintenance::On(order) => give(global, &order.id, Order::Maintenance, order.reason.as_deref()).await,
        Maintenance::Off { id } => lift(global, &id, Order::Maintenance).await,
        Maintenance::List => {
            // Whoever looks whether an order stands must not be shown an old list.
            let wanted = Consistency { linearizable: true, ..Consistency::default() };
            let orders = attempt("list the orders", client(global)?.orders(wanted).await)?;
            output::show(global.output, &orders, describe)
        }
    }
}

pub(super) async fn drain(global: &Global, args: Drain) -> Result<(), Failure> {
    let (id, reason) = (&args.order.id, args.order.reason.as_deref());
    if args.off { lift(global, id, Order::Drain).await } else { give(global, id, Order::Drain, reason).await }
}

async fn give(global: &Global, id: &str, order: Order, reason: Option<&str>) -> Result<(), Failure> {
    let what = word(order);
    let answer = client(global)?.order(id, order, reason).await;
    let answer = attempt(format!("order {what} of `{id}`"), answer)?;
    output::show(global.output, &answer, |answer| {
        let before = if answer.changed { "" } else { ", as it was before" };
        format!("{what} of {} is ordered{before}{}\n", output::printable(&answer.service_id), condition(answer))
    })
}

async fn lift(global: &Global, id: &str, order: Order) -> Result<(), Failure> {
    let what = word(order);
    let answer = client(global)?.lift(id, order).await;
    let answer = attempt(format!("lift {what} of `{id}`"), answer)?;
    output::show(global.output, &answer, |answer| {
        let lifted = if answer.changed { "is lifted" } else { "was not ordered" };
        format!("{what} of {} {lifted}{}\n", output::printable(&answer.service_id), condition(answer))
    })
}

fn word(order: Order) -> &'static str {
    match order {
        Order::Maintenance => "maintenance",
        Order::Drain => "drain",
    }
}

fn condition(answer: &OrderResponse) -> String {
    match answer.status {
        Some(status) => format!("; it is shown as {status}"),
        None => "; it is off the roll".to_owned(),
    }
}

fn describe(answer: &OrdersResponse) -> String {
    if answer.orders.is_empty() {
        return "no orders\n".to_owned();
    }
    let mut table = Table::new(&["ID", "ON THE ROLL", "ORDER", "SINCE", "REASON"]);
    for standing in &answer.orders {
        let OperatorOrders { maintenance, drain } = &standing.operator;
        for (kind, order) in [("maintenance", maintenance), ("drain", drain)] {
            let Some(order) = order else { continue };
            let present = if standing.present { "yes" } else { "no" };
            table.row(vec![
                standing.service_id.clone(),
                present.to_owned(),
                kind.to_owned(),
                order.since.clone(),
                order.reason.clone().unwrap_or_default(),
            ]);
        }
    }
    table.render()
}

pub(super) async fn trust(global: &Global, args: Trust) -> Result<(), Failure> {
    let client = client(global)?;
    let (owner, trust) = match args {
        Trust::Set { owner, trust } => (owner, Some(trust)),
        Trust::Unset { owner } => (owner, None),
        Trust::List => {
            let trusted = attempt("list whom operators trust", client.trust().await)?;
            return output::show(global.output, &trusted, whom);
        }
    };
    let info = attempt(format!("set the trust in `{owner}`"), client.set_trust(&owner, trust).await)?;
    output::show(global.output, &info, |info| {
        let owner = output::printable(&info.owner);
        match info.trust {
            Some(trust) => format!("{owner} is trusted with {trust} of 10\n"),
            None => format!("nothing is known of {owner}, who counts as one with 5 of 10\n"),
        }
    })
}

fn whom(answer: &TrustsResponse) -> String {
    if answer.owners.is_empty() {
        return "nothing is known of anybody\n".to_owned();
    }
    let mut table = Table::new(&["OWNER", "TRUST"]);
    for info in &answer.owners {
        table.row(vec![info.owner.clone(), info.trust.map_or_else(String::new, |trust| trust.to_string())]);
    }
    table.render()
}

pub(super) async fn ranking(global: &Global, args: Ranking) -> Result<(), Failure> {
    let client = client(global)?;
    let ranking = match args {
        Ranking::Show => attempt("show the ranking", client.ranking().await)?,
        Ranking::Set { weights } => attempt("set the ranking", client.set_ranking(Some(weights)).await)?,
        Ranking::Reset => attempt("reset the ranking", client.set_ranking(None).await)?,
    };
    output::show(global.output, &ranking, |RankingResponse { weights, default }| {
        let pairs = [
            ("capability", weights.capability.to_string()),
            ("health", weights.health.to_string()),
            ("proximity", weights.proximity.to_string()),
            ("trust", weights.trust.to_string()),
            ("chosen by", if *default { "nobody: the default" } else { "an operator" }.to_owned()),
        ];
        output::fields(&pairs)
    })
}

pub(super) async fn tenant(global: &Global, Tenant::Quota(args): Tenant) -> Result<(), Failure> {
    let client = client(global)?;
    let quota = match args {
        Quota::Show => attempt("show the quota", client.quota().await)?,
        Quota::Set(limits) => attempt("set the quota", client.set_quota(Some(limits.into())).await)?,
        Quota::Clear => attempt("clear the quota", client.set_quota(None).await)?,
    };
    output::show(global.output, &quota, |QuotaResponse { tenant, limits, used }| {
        let mut table = Table::new(&["QUOTA", "LIMIT", "IN USE"]);
        for (name, limit, used) in [
            ("registrations", limits.registrations, Some(used.registrations)),
            ("bytes", limits.bytes, Some(used.bytes)),
            ("watchers at a node", limits.watchers, Some(used.watchers)),
            ("requests/s at a node", limits.requests_per_second, None),
        ] {
            let told = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            table.row(vec![name.to_owned(), told(limit), told(used)]);
        }
        format!("tenant {}\n{}", output::printable(tenant), table.render())
    })
}

pub(super) async fn checks(global: &Global, args: Checks) -> Result<(), Failure> {
    let client = client(global)?;
    let checks = match args {
        Checks::Show => attempt("show who is checked", client.checks().await)?,
        Checks::Set { scope, interval_ms } => {
            let wanted = ChecksRequest { scope, interval_ms };
            attempt("set who is checked", client.set_checks(Some(wanted)).await)?
        }
        Checks::Reset => attempt("reset who is checked", client.set_checks(None).await)?,
    };
    output::show(global.output, &checks, |ChecksResponse { scope, interval_ms, default, enabled }| {
        let whom = match scope {
            CheckScope::Nobody => "nobody",
            CheckScope::Asked => "those that ask",
            CheckScope::All => "all that have a URL that can be checked",
        };
        let pairs = [
            ("checked", whom.to_owned()),
            ("every", interval_ms.map_or("as each asks".to_owned(), |ms| format!("{ms} ms, or as each asks"))),
            ("chosen by", if *default { "nobody: the default" } else { "an operator" }.to_owned()),
            ("this node", if *enabled { "checks its share" } else { "checks nothing: checks = off" }.to_owned()),
        ];
        output::fields(&pairs)
    })
}
pub(super) async fn protection(global: &Global, args: Protection) -> Result<(), Failure> {
    let client = client(global)?;
    let protection = match args {
        Protection::Show => attempt("show the protection", client.protection().await)?,
        Protection::Set { share, window_ms, release_per_minute, leases_min } => {
            let rule = ProtectionRequest { share, window_ms, release_per_minute, leases_min };
            attempt("set the protection", client.set_protection(Some(rule)).await)?
        }
        Protection::Off => attempt("switch the protection off", client.set_protection(None).await)?,
        Protection::Release => attempt("end the protection", client.release_suspects().await)?,
    };
    output::show(global.output, &protection, |answer: &ProtectionResponse| {
        let rule = match answer.protection {
            None => "leases are never held".to_owned(),
            Some(rule) => format!(
                "more than {} of at least {} leases within {} ms",
                rule.share, rule.leases_min, rule.window_ms
            ),
        };
        let rate =
            answer.protection.map_or_else(String::new, |rule| format!("{} in a minute", rule.release_per_minute));
        let in_force = match &answer.since {
            Some(since) => format!("since {since}"),
            None => "no".to_owned(),
        };
        let pairs = [
            ("held are", rule),
            ("released are", rate),
            ("in force", in_force),
            ("begun", format!("{} times", answer.begun)),
            ("suspects", format!("{} of {} instances", answer.suspects, answer.instances)),
        ];
        output::fields(&pairs)
    })
}

pub(super) async fn alerts(global: &Global, args: Alerts) -> Result<(), Failure> {
    let client = client(global)?;
    match args {
        Alerts::List => {
            let targets = attempt("list where alerts go", client.alert_targets().await)?;
            output::show(global.output, &targets, where_to)
        }
        Alerts::Set { name, url, format, secret_file, interval_ms } => {
            let secret = secret_file.as_ref().map(read_file).transpose()?;
            let secret = secret.map(|secret| String::from_utf8_lossy(&secret).trim().to_owned());
            let request = AlertTargetRequest { url, format, secret, interval_ms };
            let answer = client.set_alert_target(&name, &request).await;
            let answer = attempt(format!("send alerts to `{name}`"), answer)?;
            output::show(global.output, &answer, |SetAlertTargetResponse { target, secret }| {
                let name = output::printable(&target.name);
                match secret {
                    Some(secret) => {
                        format!("alerts go to {name}; they are signed by this secret, told only now:\n{secret}\n")
                    }
                    None => format!("alerts go to {name}\n"),
                }
            })
        }
        Alerts::Remove { name } => {
            let answer = client.remove_alert_target(&name).await;
            let answer = attempt(format!("send alerts to `{name}` no more"), answer)?;
            output::show(global.output, &answer, |RemoveAlertTargetResponse { name, removed }| {
                let before = if *removed { "" } else { ", nor did they before" };
                format!("alerts do not go to {}{before}\n", output::printable(name))
            })
        }
        Alerts::Test { name } => {
            let answer = attempt(format!("test `{name}`"), client.test_alert_target(&name).await)?;
            output::show(global.output, &answer, |TestAlertResponse { name, delivered, .. }| match delivered {
                true => format!("{} took a test alert\n", output::printable(name)),
                false => String::new(),
            })?;
            let why = output::printable(&answer.error.unwrap_or_default());
            if answer.delivered { Ok(()) } else { Err(Failure::AlertNotTaken { name, why }) }
        }
    }
}

fn where_to(answer: &AlertTargetsResponse) -> String {
    if answer.targets.is_empty() {
        return "alerts go nowhere\n".to_owned();
    }
    let mut table = Table::new(&["NAME", "FORMAT", "INTERVAL", "TOLD UP TO", "URL"]);
    for target in &answer.targets {
        table.row(vec![
            target.name.clone(),
            target.format.to_string(),
            format!("{} ms", target.interval_ms),
            target.told_revision.to_string(),
            target.url.clone(),
        ]);
    }
    table.render()
}

pub(super) async fn pick(global: &Global, args: Pick) -> Result<(), Failure> {
    let picked = attempt("pick one", client(global)?.pick(&PickQuery::from(args)).await)?;
    output::show(global.output, &picked, |picked| {
        let range = picked.version_range.as_ref().map(|range| format!(" in {range}")).unwrap_or_default();
        let strategy = picked.strategy;
        format!("{}picked by {strategy} from {}{range}\n", instance::describe(&picked.service), picked.candidates)
    })
}

/// A rank and what it came of, for people.
pub(super) fn rank(rank: &RankInfo) -> String {
    let RankInfo { score, capability, health, proximity, trust } = rank;
    format!("{score:.3} (capability {capability}, health {health}, proximity {proximity}, trust {trust})")
}
