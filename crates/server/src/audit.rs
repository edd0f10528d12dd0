//! Who changed what, when and by which request: one event for each change, on a target of its own, for whoever keeps it. What
//! changes nothing is none, and neither are heartbeats that say no more than that an instance lives.

use rollcall_registry::{
    AccessTokenCommand, Command, DefinitionChange, DefinitionKey, FederationCommand, JoinTokenCommand, OrderKind,
    Outcome, Reach, Refusal, Revision, RulingChange, SignatureCommand, TenantId, Write,
};
use rollcall_replica::{Applied, Operation, SubmitError};

use crate::request::Context;

/// The target of all events.
pub const TARGET: &str = "audit";

/// Whether anybody keeps them.
pub(crate) fn is_kept() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::INFO)
}

/// What a command is about to do.
pub(crate) struct Deed {
    action: &'static str,
    /// None: it is no tenant's.
    tenant: Option<TenantId>,
    id: String,
    /// The roll's revision before. What bears no later one was so already.
    before: Revision,
}

impl Deed {
    /// None if the command changes nothing that anybody sees.
    pub(crate) fn of(command: &Command, before: Revision) -> Option<Self> {
        let (action, tenant, id) = match command {
            Command::Register { tenant, registration, .. } | Command::RegisterSigned { tenant, registration, .. } => {
                ("register", Some(tenant), registration.id().to_owned())
            }
            Command::Beat { status: None, metadata: None, .. } => return None,
            Command::Beat { tenant, id, .. } => ("update", Some(tenant), id.to_string()),
            Command::Deregister { tenant, id, .. } | Command::DeregisterSigned { tenant, id, .. } => {
                ("deregister", Some(tenant), id.to_string())
            }
            Command::Define { tenant, change } => {
                let (action, id) = defined(change);
                (action, Some(tenant), id)
            }
            Command::Rule { tenant, change } => {
                let (action, id) = ruled(change);
                (action, Some(tenant), id)
            }
            Command::Signatures(SignatureCommand::SetMode { tenant, mode }) => {
                let mode = mode.map_or("default", |mode| mode.as_str());
                ("signatures.set", Some(tenant), mode.to_owned())
            }
            Command::Signatures(SignatureCommand::PutKey { tenant, owner, .. }) => {
                ("owner_key.pin", Some(tenant), owner.to_string())
            }
            Command::Signatures(SignatureCommand::RemoveKey { tenant, owner }) => {
                ("owner_key.remove", Some(tenant), owner.to_string())
            }
            Command::By { tenant, write, .. } => {
                let (action, id) = match write {
                    Write::Register { registration, .. } | Write::RegisterSigned { registration, .. } => {
                        ("register", registration.id().to_owned())
                    }
                    Write::Beat { status: None, metadata: None, .. } | Write::Renew { .. } => return None,
                    Write::Beat { id, .. } => ("update", id.to_string()),
                    Write::Deregister { id, .. } | Write::DeregisterSigned { id, .. } => {
                        ("deregister", id.to_string())
                    }
                };
                (action, Some(tenant), id)
            }
            Command::JoinToken(JoinTokenCommand::Create { id, .. }) => ("join_token.create", None, id.to_string()),
            Command::JoinToken(JoinTokenCommand::Revoke { id }) => ("join_token.revoke", None, id.to_string()),
            Command::AccessToken(AccessTokenCommand::Create { token, .. }) => {
                ("token.create", tenant_of(&token.reach), token.id.to_string())
            }
            Command::AccessToken(AccessTokenCommand::Rotate { id, .. }) => ("token.rotate", None, id.to_string()),
            Command::AccessToken(AccessTokenCommand::Revoke { id, .. }) => ("token.revoke", None, id.to_string()),
            Command::AccessToken(AccessTokenCommand::Reset { token }) => ("token.reset", None, token.id.to_string()),
            Command::Federation(FederationCommand::Found(_)) => ("federation.key", None, String::new()),
            Command::Federation(FederationCommand::Add(terms)) => ("peer.add", None, terms.name.to_string()),
            Command::Federation(FederationCommand::Remove { name }) => ("peer.remove", None, name.to_string()),
            Command::Federation(FederationCommand::Pause { name, paused }) => {
                (if *paused { "peer.pause" } else { "peer.resume" }, None, name.to_string())
            }
            // Observations, and what other clusters tell, nobody here asked for.
            Command::Federation(FederationCommand::Receive(_) | FederationCommand::Sweep { .. })
            | Command::Renew { .. }
            | Command::Expire { .. }
            | Command::Observe { .. }
            | Command::Unchecked { .. }
            | Command::JoinToken(JoinTokenCommand::Spend(_))
            | Command::AccessToken(AccessTokenCommand::Used { .. }) => return None,
        };
        Some(Self { action, tenant: tenant.cloned(), id, before })
    }

    /// Tells what became of it. `by` is the request; none is the node itself.
    pub(crate) fn settle(self, by: Option<&Context>, result: &Result<Applied, SubmitError>) {
        let revision = match result {
            Ok(applied) => match &applied.outcome {
                Outcome::Registered(registered) => {
                    Some(registered.revision).filter(|revision| *revision > self.before)
                }
                Outcome::Beaten(beaten) => Some(beaten.revision).filter(|revision| *revision > self.before),
                Outcome::Deregistered { revision } => Some(*revision),
                Outcome::Ruled(ruled) => ruled.changed.then_some(ruled.revision),
                Outcome::JoinToken(_)
                | Outcome::Defined(_)
                | Outcome::OwnerKey { .. }
                | Outcome::Federation(_)
                | Outcome::SignatureMode(_) => Some(applied.revision),
                Outcome::AccessToken(token) => {
                    let own = Self { tenant: tenant_of(&token.reach).cloned(), ..self };
                    return tell(by, own.action, own.tenant.as_ref(), &own.id, Some(applied.revision));
                }
                // The node's own repetition came too late to learn what became of the first attempt.
                Outcome::Refused(Refusal::BatchOutdated) => {
                    return tell(by, self.action, self.tenant.as_ref(), &self.id, None);
                }
                Outcome::Refused(_)
                | Outcome::Renewed { .. }
                | Outcome::Expired { .. }
                | Outcome::Observed { .. }
                | Outcome::Noted => None,
            },
            Err(error) if error.may_have_been_applied() => {
                return tell(by, self.action, self.tenant.as_ref(), &self.id, None);
            }
            Err(_) => None,
        };
        if revision.is_some() {
            tell(by, self.action, self.tenant.as_ref(), &self.id, revision);
        }
    }
}

/// A change of the membership that took place at a revision; at none if it may have taken place.
pub(crate) fn operated(context: &Context, operation: &Operation, revision: Option<Revision>) {
    let (action, id) = match operation {
        Operation::Add { peer_address, .. } => ("member.add", peer_address.clone()),
        Operation::Promote { node_id } => ("member.promote", node_id.to_string()),
        Operation::Demote { node_id } => ("member.demote", node_id.to_string()),
        Operation::Remove { node_id } => ("member.remove", node_id.to_string()),
        Operation::Replace { node_id, peer_address, .. } => ("member.replace", format!("{node_id} {peer_address}")),
        Operation::Relocate { node_id, peer_address, .. } => ("member.address", format!("{node_id} {peer_address}")),
        Operation::Transfer { to } => ("leader.transfer", to.map_or_else(String::new, |id| id.to_string())),
    };
    tell(Some(context), action, None, &id, revision);
}

fn tenant_of(reach: &Reach) -> Option<&TenantId> {
    match reach {
        Reach::Tenant(tenant) => Some(tenant),
        Reach::All => None,
    }
}

fn ruled(change: &RulingChange) -> (&'static str, String) {
    match change {
        RulingChange::Give { id, kind: OrderKind::Maintenance, .. } => ("maintenance.begin", id.to_string()),
        RulingChange::Give { id, kind: OrderKind::Drain, .. } => ("drain.begin", id.to_string()),
        RulingChange::Lift { id, kind: OrderKind::Maintenance } => ("maintenance.end", id.to_string()),
        RulingChange::Lift { id, kind: OrderKind::Drain } => ("drain.end", id.to_string()),
        RulingChange::Trust { owner, trust: Some(_) } => ("trust.set", owner.to_string()),
        RulingChange::Trust { owner, trust: None } => ("trust.forget", owner.to_string()),
        RulingChange::Ranking(Some(_)) => ("ranking.set", String::new()),
        RulingChange::Ranking(None) => ("ranking.reset", String::new()),
        RulingChange::Quota(Some(_)) => ("quota.set", String::new()),
        RulingChange::Quota(None) => ("quota.clear", String::new()),
        RulingChange::Checks(Some(checks)) => ("checks.set", checks.scope.to_string()),
        RulingChange::Checks(None) => ("checks.reset", String::new()),
        RulingChange::Protection(Some(_)) => ("protection.set", String::new()),
        RulingChange::Protection(None) => ("protection.reset", String::new()),
        RulingChange::Release => ("protection.release", String::new()),
        RulingChange::Target { name, target: Some(_) } => ("alerts.set", name.to_string()),
        RulingChange::Target { name, target: None } => ("alerts.remove", name.to_string()),
        RulingChange::Told { name, .. } => ("alerts.told", name.to_string()),
    }
}

fn defined(change: &DefinitionChange) -> (&'static str, String) {
    match change {
        DefinitionChange::Event(event) => ("event.define", event.name.to_string()),
        DefinitionChange::Schema { schema, .. } => ("schema.define", format!("{} {}", schema.name, schema.version)),
        DefinitionChange::Compatibility { name, .. } => ("schema.compatibility", name.to_string()),
        DefinitionChange::Remove(DefinitionKey::Event(name)) => ("event.remove", name.to_string()),
        DefinitionChange::Remove(DefinitionKey::Schema(name, version)) => {
            ("schema.remove", format!("{name} {version}"))
        }
        DefinitionChange::Remove(DefinitionKey::Compatibility(name)) => ("schema.compatibility", name.to_string()),
    }
}

/// A change without a revision is one of which it is not known whether it took place.
fn tell(by: Option<&Context>, action: &str, tenant: Option<&TenantId>, id: &str, revision: Option<Revision>) {
    let principal = by.and_then(Context::principal);
    tracing::info!(
        target: TARGET,
        request_id = by.map(Context::request_id),
        action,
        // What is no tenant's is the cluster's.
        tenant = tenant.map_or("*", TenantId::as_str),
        id,
        principal = principal.map(|principal| principal.id.as_str()),
        role = principal.map(|principal| principal.role.as_str()),
        revision = revision.map(|revision| revision.0),
        result = if revision.is_some() { "applied" } else { "unknown" },
    );
}
