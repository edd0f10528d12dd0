//! What a watch told of other clusters' instances. A node tells all of them again when a connection goes on at another, or
//! when it forgot what changed; what is passed on of that is what is different from before.

use std::collections::BTreeMap;

use rollcall_api::{ServiceObject, ServiceUpdate, UpdateType};

/// By origin and id: several clusters may have one of the same id.
#[derive(Debug, Default)]
pub(super) struct Foreign(BTreeMap<(String, String), Known>);

#[derive(Debug)]
struct Known {
    service: ServiceObject,
    /// It was in the snapshot that is being told.
    in_snapshot: bool,
}

impl Foreign {
    /// Nothing was told.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// A snapshot that was under way is told from its start.
    pub(super) fn restart_snapshot(&mut self) {
        self.0.values_mut().for_each(|known| known.in_snapshot = false);
    }

    /// One of a snapshot. Returns what became of it since it was told last, if that is anything.
    pub(super) fn present(&mut self, service: &ServiceObject) -> Option<ServiceUpdate> {
        let update_type = self.put(service, true)?;
        Some(update(update_type, service.clone()))
    }

    /// A snapshot is whole. Returns who was not in it and so is gone.
    pub(super) fn synced(&mut self) -> Vec<ServiceUpdate> {
        let mut gone = Vec::new();
        self.0.retain(|_, known| {
            let is_there = std::mem::take(&mut known.in_snapshot);
            if !is_there {
                gone.push(update(UpdateType::Deregistered, known.service.clone()));
            }
            is_there
        });
        gone
    }

    /// A change. Returns it unless it was told by a snapshot already.
    pub(super) fn changed(&mut self, update: ServiceUpdate) -> Option<ServiceUpdate> {
        let is_news = match update.update_type.is_gone() {
            true => self.0.remove(&key(&update.service)).is_some(),
            false => self.put(&update.service, false).is_some(),
        };
        is_news.then_some(update)
    }

    fn put(&mut self, service: &ServiceObject, in_snapshot: bool) -> Option<UpdateType> {
        let known = Known { service: service.clone(), in_snapshot };
        match self.0.insert(key(service), known) {
            Some(before) => difference(before.service, service),
            None => Some(UpdateType::Registered),
        }
    }
}

fn key(service: &ServiceObject) -> (String, String) {
    (service.origin.clone().unwrap_or_default(), service.id.clone())
}

/// Nothing if it is as it was, but for what is as of the moment of telling.
fn difference(before: ServiceObject, now: &ServiceObject) -> Option<UpdateType> {
    let before = ServiceObject { lease: now.lease, heartbeat: now.heartbeat.clone(), stale: now.stale, ..before };
    if before == *now {
        return None;
    }
    Some(if before.status == now.status { UpdateType::Updated } else { UpdateType::StatusChanged })
}

/// When it took place nobody told; it was known when its cluster was last heard.
fn update(update_type: UpdateType, service: ServiceObject) -> ServiceUpdate {
    let (revision, timestamp) = (service.revision, service.heartbeat.clone());
    ServiceUpdate { message_type: "service_update".to_owned(), update_type, service, revision, timestamp }
}
