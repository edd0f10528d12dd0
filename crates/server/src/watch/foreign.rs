//! What a watcher is told of other clusters' instances: all that match, and from then on what changes.
//!
//! Nothing is kept for it. It reads the roll when it comes: a page of a snapshot, or a stretch of the changes, which the
//! roll remembers for a while. Each page is of its own moment, so that the watcher notes which of the changes that come
//! after the snapshot a page shows already. Who comes after its changes were forgotten begins with a snapshot again;
//! nobody is cut for that, and what it is told of this roll goes on meanwhile.

use rollcall_registry::{InstanceId, Revision, State};
use smallvec::smallvec;
use tokio::sync::watch;

use super::Question;
use super::feed::Changes;
use super::hub::{Changed, Hub, STRETCH_BYTES, STRETCH_CHANGES};
use super::watcher::{SNAPSHOT_PAGE, TOLD_BYTES, Told};
use crate::render::Moment;

/// Parts of a snapshot that are told apart; what comes behind them may be told once more.
const PARTS_MAX: usize = 64;

pub(super) struct Foreign {
    /// The number of the last change that the hub saw.
    newest: watch::Receiver<u64>,
    stage: Stage,
    /// Changes up to this one were told, or were there before the snapshot.
    told: u64,
    /// What the snapshot shows, for as long as changes may come that it shows already.
    parts: Vec<Part>,
}

enum Stage {
    Snapshot {
        /// Up to here it was told.
        after: Option<InstanceId>,
    },
    /// All of it was told, but not that it was all.
    Whole,
    Changes,
}

/// Ids up to one, or all that are left, as they were after a change.
struct Part {
    up_to: Option<InstanceId>,
    sequence: u64,
}

impl Foreign {
    pub(super) fn new(hub: &Hub) -> Self {
        let newest = hub.shared().foreign.subscribe();
        Self { newest, stage: Stage::Snapshot { after: None }, told: 0, parts: Vec::new() }
    }

    /// Whether there may be something to tell.
    pub(super) fn has_news(&mut self) -> bool {
        // Seen before it is looked at, so that what comes meanwhile wakes the watcher.
        let newest = *self.newest.borrow_and_update();
        !matches!(self.stage, Stage::Changes) || self.told < newest
    }

    /// Waits until there may be something to tell.
    pub(super) async fn news(&mut self) {
        // The sender is in the hub, which the watcher holds.
        let _ = self.newest.changed().await;
    }

    /// The next thing to tell, if this step came upon one. Of this roll everything up to `revision` was told.
    pub(super) fn next(&mut self, hub: &Hub, question: &Question, revision: Revision) -> Option<Told> {
        match &mut self.stage {
            Stage::Snapshot { after } => {
                let after = after.take();
                self.page(hub, question, after, revision)
            }
            Stage::Whole => {
                self.stage = Stage::Changes;
                Some(Told::Synced(revision))
            }
            Stage::Changes => self.changes(hub, question),
        }
    }

    fn page(
        &mut self,
        hub: &Hub,
        question: &Question,
        after: Option<InstanceId>,
        revision: Revision,
    ) -> Option<Told> {
        let replica = &hub.shared().replica;
        let cluster_time = replica.cluster_time();
        let (page, moment) = replica.roll().read(|state| {
            let Question { tenant, filters } = question;
            let page = state.foreign_page(tenant, filters, after.as_ref(), SNAPSHOT_PAGE, STRETCH_BYTES);
            (page, Moment::of(state, cluster_time))
        });
        if after.is_none() {
            self.told = page.sequence;
            self.parts.clear();
        }
        let is_full = self.parts.len() == PARTS_MAX;
        match self.parts.last_mut() {
            // One that reaches further than its number says is told of some changes once more, and of none too few.
            Some(last) if is_full || last.sequence == page.sequence => last.up_to = page.end.clone(),
            _ => self.parts.push(Part { up_to: page.end.clone(), sequence: page.sequence }),
        }
        self.stage = page.end.map_or(Stage::Whole, |end| Stage::Snapshot { after: Some(end) });
        let found: Vec<_> = page.found.into_iter().map(|(view, origin)| (view, Some(origin))).collect();
        (!found.is_empty()).then_some(Told::Snapshot { found, revision, moment })
    }

    /// One stretch of what changed since the last.
    fn changes(&mut self, hub: &Hub, question: &Question) -> Option<Told> {
        let shared = hub.shared();
        let cluster_time = shared.replica.cluster_time();
        let (stretch, moment) =
            shared.replica.roll().read(|state| (self.stretch(state, question), Moment::of(state, cluster_time)));
        let Some((changes, told)) = stretch else {
            self.stage = Stage::Snapshot { after: None };
            return None;
        };
        self.told = told;
        if self.parts.last().is_some_and(|last| last.sequence <= told) {
            self.parts = Vec::new();
        }
        let mut rendering = shared.renderer.at(moment);
        let events: Vec<_> = changes
            .iter()
            .filter_map(|changed| Some(changed.event(&mut rendering, &moment, changed.update_for(question)?)))
            .collect();
        Changes::of(&events).map(|changes| Told::Changes(smallvec![changes]))
    }

    /// The changes to judge, and the number of the last one that was looked at; none if some are forgotten.
    fn stretch(&self, state: &State, question: &Question) -> Option<(Vec<Changed>, u64)> {
        let (mut stretch, mut told, mut bytes) = (Vec::new(), self.told, 0);
        for change in state.foreign_changes_after(self.told)?.take(STRETCH_CHANGES) {
            if bytes >= TOLD_BYTES {
                break;
            }
            told = change.sequence;
            let instance = change.instance();
            if instance.tenant == question.tenant && !self.is_shown(instance.id(), told) {
                // Whoever it leaves is shown what it was.
                bytes += instance.bytes().max(change.before.map_or(0, |before| before.bytes()));
                stretch.push(Changed::foreign(state, &change));
            }
        }
        Some((stretch, told))
    }

    /// Whether the snapshot was of after a change.
    fn is_shown(&self, id: &str, sequence: u64) -> bool {
        let part = self.parts.iter().find(|part| part.up_to.as_ref().is_none_or(|last| id <= last.as_str()));
        part.is_some_and(|part| sequence <= part.sequence)
    }
}
