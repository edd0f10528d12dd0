//! What `/livez` and `/readyz` say, for whoever watches over the process from within.

use std::sync::{Arc, OnceLock};

use crate::native::Native;

/// A node's health. Cheap to clone; good before the node serves and after it ended.
#[derive(Clone, Default)]
pub struct Probe(Arc<OnceLock<Native>>);

impl Probe {
    /// Called once, when the replica runs.
    pub(crate) fn open(&self, native: Native) {
        let opened = self.0.set(native);
        assert!(opened.is_ok(), "the probe was opened twice");
    }

    /// Whether the process moves. A node that waits for others is alive, one that still starts as well.
    pub fn is_alive(&self) -> bool {
        self.0.get().is_none_or(|native| native.replica.is_alive())
    }

    /// What the node lacks to be given work; nothing when it is ready.
    pub fn lacks(&self) -> Vec<String> {
        let Some(native) = self.0.get() else {
            return vec!["it reads its data, or waits for a member that takes it in".to_owned()];
        };
        native.readiness().into_iter().filter(|check| !check.ok).map(|check| check.detail).collect()
    }
}
