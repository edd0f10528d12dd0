//! What a change of the roll is told as in scripts.

use rollcall_registry::{Change, ChangeKind, Instance};

pub(super) fn shown(instance: &Instance) -> String {
    format!("{}{}", instance.status(), if instance.is_suspect() { " suspect" } else { "" })
}

pub(super) fn change_line(change: Change<'_>) -> String {
    let kind = match change.kind {
        ChangeKind::Registered => "registered",
        ChangeKind::Updated => "updated",
        ChangeKind::StatusChanged => "status_changed",
        ChangeKind::Deregistered => "deregistered",
        ChangeKind::Expired => "expired",
    };
    let instance = change.instance();
    match change.after {
        Some(after) => {
            format!("r{} {kind} {} lease={} {}", change.revision, instance.id(), after.lease, shown(after))
        }
        None => format!("r{} {kind} {}", change.revision, instance.id()),
    }
}
