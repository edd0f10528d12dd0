//! What operators lay down, and what checks find, in scripts.

use std::collections::BTreeMap;

use rollcall_registry::state::{Restoring, RulingsDelta};
use rollcall_registry::{
    AlertForm, AlertSecret, AlertTarget, Command, Coordinates, OwnerName, Place, Protecting, Protection, Quota,
    QuotaKind, RankWeights, Ranking, Ruled, Ruling, RulingChange, RulingContent, RulingKey, Score, State, TargetName,
    TenantChecks, TenantId, ToldUpTo, Trust, Usage, Vigil,
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
        "protect" => RulingChange::Protection(protection(arguments)?),
        "release" => RulingChange::Release,
        "target" => RulingChange::Target { name: target_name(arguments)?, target: target(arguments)? },
        "told" => RulingChange::Told {
            name: target_name(arguments)?,
            told: ToldUpTo {
                revision: arguments.revision("up_to")?.ok_or("a revision is missing")?,
                begun: arguments.number("begun")?.unwrap_or(0),
                in_force: arguments.take("in_force").is_some(),
            },
        },
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

/// `share=` in thousandths, `window_ms=`, `rate=` per minute, `min=` leases; nothing of it switches it off.
fn protection(arguments: &mut Arguments) -> Result<Option<Protection>, String> {
    let given: [Option<u32>; 4] = [
        arguments.number("share")?,
        arguments.number("window_ms")?,
        arguments.number("rate")?,
        arguments.number("min")?,
    ];
    if given.iter().all(Option::is_none) {
        return Ok(None);
    }
    let parts = given.map(|part| part.unwrap_or(1));
    Protection::try_from(parts).map(Some).map_err(|error| error.to_string())
}

fn target_name(arguments: &mut Arguments) -> Result<TargetName, String> {
    TargetName::parse(&arguments.subject::<String>()?).map_err(|error| error.to_string())
}

/// `url=`, `form=`, `secret=`, `interval_ms=`; without a url there is none.
fn target(arguments: &mut Arguments) -> Result<Option<AlertTarget>, String> {
    let Some(url) = arguments.take("url") else { return Ok(None) };
    let url = match url.strip_prefix("filler:") {
        Some(bytes) => "x".repeat(bytes.parse().unwrap_or(0)),
        None => url,
    };
    let secret = arguments.take("secret").unwrap_or_else(|| "a secret of some length".to_owned());
    Ok(Some(AlertTarget {
        url: url.into(),
        form: arguments.word("form")?.unwrap_or(AlertForm::Json),
        secret: AlertSecret::parse(&secret).ok_or("a secret has 16 to 128 bytes")?,
        interval_ms: arguments.number("interval_ms")?.unwrap_or(60_000),
    }))
}

pub(super) fn protecting(state: &State, tenant: &TenantId) -> String {
    let Protecting { protection: _, since, begun, suspects } = state.protecting(tenant);
    let since = since.map_or("not in force".to_owned(), |since| format!("in force since {since}"));
    format!("{since}, begun {begun} times, {suspects} suspects")
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
        RulingContent::Protection(protection) => format!("protection {:?}", <[u32; 4]>::from(*protection)),
        RulingContent::Target { name, target, told } => {
            let ToldUpTo { revision, begun, in_force } = told;
            format!("target {name} {} {target:?} up_to=r{revision} begun={begun} in_force={in_force}", target.url)
        }
        RulingContent::Vigil(vigil) => {
            let Vigil { begun, since, next_look, next_release, freed, quiet_until, lapses } = vigil;
            let since = since.map_or("-".to_owned(), |since| since.to_string());
            let freed = if *freed { " freed" } else { "" };
            format!(
                "vigil begun={begun} since={since} look={next_look} release={next_release} quiet={quiet_until} {lapses:?}{freed}"
            )
        }
    }
}

/// What a quota counts.
pub(super) fn usage(state: &State, tenant: &TenantId) -> Vec<String> {
    let Usage { registrations, bytes } = state.usage(tenant);
    vec![format!("{registrations} registrations of {bytes} bytes")]
}

/// What an instance's rank came of.
pub(super) fn score(score: &Score) -> String {
    let Score { total, suspect: _, capability, health, proximity, trust } = score;
    format!(" {total} = capability {capability} health {health} proximity {proximity} trust {trust}")
}
