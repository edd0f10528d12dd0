//! The log's newest entries, decoded: what replication and apply read nearly always.

use std::collections::VecDeque;

use openraft::entry::RaftEntry;

use crate::types::LogEntry;

/// Entries without a gap up to the log's last one.
#[derive(Debug)]
pub(super) struct Tail {
    /// Each with its encoded size.
    entries: VecDeque<(LogEntry, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    /// `bytes_max` counts encoded sizes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(super) fn push(&mut self, entry: LogEntry, bytes: usize) {
        debug_assert!(self.entries.back().is_none_or(|(last, _)| last.index() + 1 == entry.index()));
        self.entries.push_back((entry, bytes));
        self.bytes += bytes;
        while self.bytes > self.bytes_max {
            self.pop_front();
        }
    }

    /// Forgets the entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.index() >= index) {
            if let Some((_, bytes)) = self.entries.pop_back() {
                self.bytes -= bytes;
            }
        }
    }

    /// Forgets the entries before `index`.
    pub(super) fn purge(&mut self, index: u64) {
        while self.entries.front().is_some_and(|(entry, _)| entry.index() < index) {
            self.pop_front();
        }
    }

    /// The entries from `start` until `end`, at least one and then only until `bytes_max` is reached. None if the
    /// first of them is not here any more.
    pub(super) fn read(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<LogEntry>> {
        let first = self.entries.front()?.0.index();
        let skip = usize::try_from(start.checked_sub(first)?).ok()?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (entry, size) in self.entries.iter().skip(skip) {
            if entry.index() >= end || (bytes > 0 && bytes + size > bytes_max) {
                break;
            }
            bytes += size;
            entries.push(entry.clone());
        }
        Some(entries)
    }

    fn pop_front(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }
}
