//! Which rows of a table beside the roll differ from the last checkpoint.

use std::collections::BTreeSet;

/// What turns a table's rows of the last checkpoint into the present ones. Removals come before the rest.
#[derive(Debug)]
pub struct TableDelta<K, R> {
    pub removed: Vec<K>,
    pub put: Vec<R>,
}

impl<K, R> Default for TableDelta<K, R> {
    fn default() -> Self {
        Self { removed: Vec::new(), put: Vec::new() }
    }
}

/// Keeps the keys of the rows that were put, changed or removed since.
#[derive(Debug)]
pub(super) struct Touched<K> {
    /// Not as in the last checkpoint.
    dirty: BTreeSet<K>,
    /// In the last checkpoint.
    kept: BTreeSet<K>,
}

impl<K> Default for Touched<K> {
    fn default() -> Self {
        Self { dirty: BTreeSet::new(), kept: BTreeSet::new() }
    }
}

impl<K: Ord> Touched<K> {
    pub(super) fn touch(&mut self, key: K) {
        self.dirty.insert(key);
    }

    /// The row is as it was read from a checkpoint.
    pub(super) fn restored(&mut self, key: K) {
        self.dirty.remove(&key);
        self.kept.insert(key);
    }

    pub(super) fn is_kept(&self, key: &K) -> bool {
        self.kept.contains(key)
    }
}

impl<K: Ord + Clone> Touched<K> {
    /// What differs, for a checkpoint that takes it in. `row` is the present row of a key, if there is one.
    pub(super) fn take<R>(&mut self, row: impl Fn(&K) -> Option<R>) -> TableDelta<K, R> {
        let mut delta = TableDelta::default();
        for key in std::mem::take(&mut self.dirty) {
            match row(&key) {
                Some(row) => {
                    self.kept.insert(key);
                    delta.put.push(row);
                }
                None if self.kept.remove(&key) => delta.removed.push(key),
                // It came and went in between.
                None => {}
            }
        }
        delta
    }
}
