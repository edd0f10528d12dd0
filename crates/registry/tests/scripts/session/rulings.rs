//! What operators lay down, and what checks find, in scripts.

use std::collections::BTreeMap;

use rollcall_registry::state::{Restoring, RulingsDelta};
use rollcall_registry::{
    Command, Coordinates, OwnerName, Place, Quota, QuotaKind, RankWeights, Ranking, Ruled, Ruling, RulingChange,
    RulingContent, RulingKey, Score, State, TenantChecks, TenantId, Trust, Usage,
};

use super::arguments::Arguments;

/// What storage would hold of them.
#[derive(Default)]
pub(super) struct KeptRulings(BTreeMap<(TenantId, RulingKey), Ruling>);

impl KeptRulings {
    /// Keeps a checkpoint's, and says what it wrote.
    pub(super) fn take(&mut self, RulingsDelta { removed, put }: RulingsDelta) -> Vec<String> {
        let mut said = Vec::new();
        for (tenant, key) in removed {
            let before = self.0.remove(&(tenant.clone(), key)).expect("what is removed has a row");
            said.push(format!("- {tenant} {}", line(&before.content)));
        }
        for ruling in put {
            said.push(format!("+ {} {}", ruling.tenant, line(&ruling.content)));
            self.0.insert((ruling.tenant.clone(), ruling.content.key()), ruling);
        }
        said
    }

    pub(super) fn restore(&self, restoring: &mut Restoring) -> Result<(), String> {
        self.0.values().try_for_each(|ruling| restoring.ruling(ruling.clone())).map_err(|error| error.to_string())
    }
}

/// A write of this sort, if it is one.
pub(super) fn command(verb: &str, arguments: &mut Arguments) -> Result<Option<Command>, String> {
    let change = match verb {
        "order" => RulingChange::Give {
            id: arguments.id()?,
            kind: arguments.word("kind")?.ok_or("a kind is missing")?,
            reason: arguments.take("reason").map(|text| match text.strip_prefix("filler:") {
                Some(bytes) => "x".repeat(bytes.parse().unwrap_or(0)).into(),
                None => text.into(),
            }),
        },
        "lift" => {
            RulingChange::Lift { id: arguments.id()?, kind: arguments.word("kind")?.ok_or("a kind is missing")? }
        }
        "trust" => RulingChange::Trust {
            owner: OwnerName::parse(&arguments.subject::<String>()?).map_err(|error| error.to_string())?,
            trust: trust(arguments)?,
        },
        "ranking" => RulingChange::Ranking(weights(arguments)?),
        "quota" => RulingChange::Quota(quota(arguments)?),
        "checks" => RulingChange::Checks(match arguments.word("scope")? {
            Some(scope) => Some(TenantChecks { scope, interval_ms: arguments.number("interval_ms")? }),
            None => None,
        }),
        "unchecked" => {
            return Ok(Some(Command::Unchecked {
                tenant: arguments.tenant()?,
                id: arguments.id()?,
                lease: rollcall_registry::LeaseId(arguments.number("lease")?.ok_or("a lease is missing")?),
            }));
        }
        "observe" => {
            return Ok(Some(Command::Observe {
                tenant: arguments.tenant()?,
                id: arguments.id()?,
                lease: rollcall_registry::LeaseId(arguments.number("lease")?.ok_or("a lease is missing")?),
                verdict: arguments.word("verdict")?.ok_or("a verdict is missing")?,
            }));
        }
        _ => return Ok(None),
    };
    Ok(Some(Command::Rule { tenant: arguments.tenant()?, change }))
}

fn trust(arguments: &mut Arguments) -> Result<Option<Trust>, String> {
    let hundredths: Option<u16> = arguments.number("hundredths")?;
    hundredths.map(|hundredths| Trust::try_from(hundredths).map_err(|error| error.to_string())).transpose()
}

/// None where no limit is named.
fn quota(arguments: &mut Arguments) -> Result<Option<Quota>, String> {
    let quota = Quota {
        registrations: arguments.number("registrations")?,
        bytes: arguments.number("bytes")?,
        watchers: arguments.number("watchers")?,
        requests_per_second: arguments.number("requests")?,
    };
    Ok((quota != Quota::default()).then_some(quota))
}

/// `weights=400,300,200,100`.
fn weights(arguments: &mut Arguments) -> Result<Option<RankWeights>, String> {
    let given = arguments.list("weights");
    if given.is_empty() {
        return Ok(None);
    }
    let numbers: Result<Vec<u16>, _> = given.iter().map(|number| number.parse()).collect();
    let numbers: [u16; 4] =
        numbers.map_err(|error| format!("weights: {error}"))?.try_into().map_err(|_| "four weights are wanted")?;
    RankWeights::try_from(numbers).map(Some).map_err(|error| error.to_string())
}

/// By what a query ranks: `weights=`, `prefer=`, `near_region=`, `near_zone=`, `near=LATITUDE,LONGITUDE`.
pub(super) fn ranking(arguments: &mut Arguments) -> Result<Ranking, String> {
    let requester = Place {
        region: arguments.take("near_region").map(Into::into),
        zone: arguments.take("near_zone").map(Into::into),
        coordinates: coordinates(arguments, "near")?,
    };
    Ok(Ranking { weights: weights(arguments)?, preferred: arguments.texts("prefer"), requester })
}

/// `KEY=LATITUDE,LONGITUDE`.
pub(super) fn coordinates(arguments: &mut Arguments, key: &str) -> Result<Option<Coordinates>, String> {
    let given = arguments.list(key);
    if given.is_empty() {
        return Ok(None);
    }
    let degrees: Result<Vec<f64>, _> = given.iter().map(|number| number.parse()).collect();
    let degrees: [f64; 2] =
        degrees.map_err(|error| format!("{key}: {error}"))?.try_into().map_err(|_| "two numbers are wanted")?;
    Coordinates::from_degrees(degrees).map(Some).map_err(|error| error.to_string())
}

pub(super) fn answer(ruled: Ruled) -> Vec<String> {
    if ruled.changed { Vec::new() } else { vec![format!("no change at r{}", ruled.revision)] }
}

/// The orders of instances on the roll, then the table.
pub(super) fn list(state: &State, tenant: &TenantId) -> Vec<String> {
    let orders = state.orders(tenant, &rollcall_registry::Viewer::All).flat_map(|(id, orders)| {
        let each = [("maintenance", &orders.maintenance), ("drain", &orders.drain)];
        each.into_iter().filter_map(move |(kind, order)| {
            let order = order.as_ref()?;
            Some(format!("{id} {kind} since {} {:?}", order.since, order.reason.as_deref().unwrap_or_default()))
        })
    });
    let own = state.all_rulings().filter(|ruling| ruling.tenant == *tenant).map(|ruling| line(&ruling.content));
    orders.chain(own).collect()
}

fn line(content: &RulingContent) -> String {
    match content {
        RulingContent::Order { id, order } => {
            format!("absent {id} since {} {:?}", order.since, order.reason.as_deref().unwrap_or_default())
        }
        RulingContent::Trust { owner, trust } => format!("trust {owner} {}", trust.hundredths()),
        RulingContent::Ranking(weights) => format!("ranking {:?}", <[u16; 4]>::from(*weights)),
        RulingContent::Quota(quota) => {
            let limits = QuotaKind::ALL.iter().filter_map(|kind| Some(format!(" {kind}={}", quota.limit(*kind)?)));
            format!("quota{}", limits.collect::<String>())
        }
        RulingContent::Checks(TenantChecks { scope, interval_ms: None }) => format!("checks {scope}"),
        RulingContent::Checks(TenantChecks { scope, interval_ms: Some(ms) }) => format!("checks {scope} every {ms}"),
    }
}

/// What a quota counts.
pub(super) fn usage(state: &State, tenant: &TenantId) -> Vec<String> {
    let Usage { registrations, bytes } = state.usage(tenant);
    vec![format!("{registrations} registrations of {bytes} bytes")]
}

/// What an instance's rank came of.
pub(super) fn score(score: &Score) -> String {
    let Score { total, capability, health, proximity, trust } = score;
    format!(" {total} = capability {capability} health {health} proximity {proximity} trust {trust}")
}
