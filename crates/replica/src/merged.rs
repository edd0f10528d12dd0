//! Many requests' commands as one entry's, and each request's own outcomes out of the entry's.

use std::collections::BTreeMap;

use rollcall_registry::{Command, LeaseId, LeaseSet, Once, Origin, Outcome, Refusal, TenantId};

use crate::proposer::{Answer, Asker, SubmitError};

/// Many requests' commands as one entry's. The renewals of a tenant become one command, which costs each heartbeat no
/// more than the distance to the lease before it; what this node's own clients want applied once becomes one batch.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    pub commands: Vec<Command>,
    pub once: Vec<Once>,
    /// For each pending, for each of its commands: where its outcome will be.
    places: Vec<Vec<Place>>,
}

#[derive(Debug)]
enum Place {
    Plain(usize),
    /// Part of a merged renewal.
    Part(usize, LeaseSet),
    /// A command of a batch.
    Once(usize, usize),
}

/// Equal batches merge equally, so that one whose answer was lost can be proposed again under the same origin.
pub(crate) fn merge(batch: &[impl Asker], origin: Origin) -> Merged {
    let mut merged = Merged::default();
    let mut renewals: BTreeMap<&TenantId, Vec<LeaseId>> = BTreeMap::new();
    for command in batch.iter().flat_map(|asker| &asker.request().commands) {
        if let Command::Renew { tenant, leases } = command {
            renewals.entry(tenant).or_default().extend_from_slice(leases.as_slice());
        }
    }
    let at: BTreeMap<&TenantId, usize> = renewals.keys().enumerate().map(|(at, tenant)| (*tenant, at)).collect();
    merged.commands = renewals
        .into_iter()
        .map(|(tenant, leases)| Command::Renew { tenant: tenant.clone(), leases: LeaseSet::new(leases) })
        .collect();
    // This node's own batch comes first; it is taken out again if nothing went into it.
    merged.once.push(Once { origin, commands: Vec::new() });
    for asker in batch {
        let mut places = Vec::new();
        for command in &asker.request().commands {
            places.push(match command {
                Command::Renew { tenant, leases } => Place::Part(at[tenant], leases.clone()),
                Command::Expire { .. } => {
                    merged.commands.push(command.clone());
                    Place::Plain(merged.commands.len() - 1)
                }
                Command::Register { .. }
                | Command::Beat { .. }
                | Command::Deregister { .. }
                | Command::JoinToken(_)
                | Command::Define { .. }
                | Command::AccessToken(_)
                | Command::By { .. }
                | Command::Rule { .. }
                | Command::Observe { .. }
                | Command::RegisterSigned { .. }
                | Command::DeregisterSigned { .. }
                | Command::Signatures(_)
                | Command::Federation(_)
                | Command::Unchecked { .. } => {
                    merged.once[0].commands.push(command.clone());
                    Place::Once(0, merged.once[0].commands.len() - 1)
                }
            });
        }
        for once in &asker.request().once {
            places.extend((0..once.commands.len()).map(|n| Place::Once(merged.once.len(), n)));
            merged.once.push(once.clone());
        }
        merged.places.push(places);
    }
    if merged.once[0].commands.is_empty() {
        merged.once.remove(0);
        for place in merged.places.iter_mut().flatten() {
            if let Place::Once(once, _) = place {
                *once -= 1;
            }
        }
    }
    merged
}

/// What is to be proposed, apart from who waits for it.
pub type Commands = (Vec<Command>, Vec<Once>);

impl Merged {
    pub(crate) fn take_commands(&mut self) -> Commands {
        (std::mem::take(&mut self.commands), std::mem::take(&mut self.once))
    }

    /// Hands each pending its own outcomes. `sizes` are the counts of plain commands and of each batch's.
    pub(crate) fn distribute(self, batch: Vec<impl Asker>, answer: &Answer, sizes: &Sizes) {
        for (asker, places) in batch.into_iter().zip(self.places) {
            let outcomes: Vec<Outcome> = places
                .into_iter()
                .map(|place| match place {
                    Place::Plain(at) => answer.outcomes[at].clone(),
                    Place::Part(at, leases) => part_of(&answer.outcomes[at], &leases),
                    Place::Once(once, n) => answer.outcomes[sizes.starts[once] + n].clone(),
                })
                .collect();
            let outdated = |outcome: &Outcome| matches!(outcome, Outcome::Refused(Refusal::BatchOutdated));
            if outcomes.iter().any(outdated) {
                asker.answer(Err(SubmitError::Unknown));
            } else {
                asker.answer(Ok(Answer { outcomes, ..*answer }));
            }
        }
    }
}

/// Where the outcomes of each batch begin, and how many there are in all.
#[derive(Debug)]
pub(crate) struct Sizes {
    starts: Vec<usize>,
    pub all: usize,
}

impl Sizes {
    pub(crate) fn of((commands, once): &Commands) -> Self {
        let mut all = commands.len();
        let starts = once
            .iter()
            .map(|once| {
                let start = all;
                all += once.commands.len();
                start
            })
            .collect();
        Self { starts, all }
    }
}

fn part_of(outcome: &Outcome, leases: &LeaseSet) -> Outcome {
    let Outcome::Renewed { not_found, superseded } = outcome else { return outcome.clone() };
    let ours = |all: &LeaseSet| {
        let few = all.as_slice().iter().copied().filter(|lease| leases.contains(*lease));
        LeaseSet::new(few.collect())
    };
    Outcome::Renewed { not_found: ours(not_found), superseded: ours(superseded) }
}
