//! The digest of the whole state, kept while it changes. It is a sum over rows, so the order in which they came to be
//! does not matter, and one change costs one subtraction and one addition.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::ids::{ClusterTime, LeaseId};
use crate::registration::{Capability, Extras, Instance, JsonText, Locality, Metadata, MetadataValue, Registration};

/// Equal states have equal digests; different ones differ but for a chance of 2⁻¹²⁸.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The running sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowSum(u128);

impl RowSum {
    pub(crate) fn add(&mut self, row: u128) {
        self.0 = self.0.wrapping_add(row);
    }

    pub(crate) fn remove(&mut self, row: u128) {
        self.0 = self.0.wrapping_sub(row);
    }

    /// Mixes in what is not a row.
    pub(crate) fn with_scalars(self, scalars: impl Iterator<Item = u64>) -> Digest {
        let mut hash = Xxh3::new();
        hash.update(&self.0.to_le_bytes());
        for scalar in scalars {
            hash.update(&scalar.to_le_bytes());
        }
        Digest(hash.digest128())
    }
}

pub(crate) fn of_instance(instance: &Instance) -> u128 {
    // Taken apart without `..`, so that no new field is forgotten.
    let Instance {
        tenant,
        id,
        registration,
        reported_metadata,
        reported_status,
        lapsed,
        lease,
        revision,
        created_revision,
        registered_at,
        superseded,
    } = instance;
    let mut row = Row(Xxh3::new());
    row.text(tenant.as_str());
    row.text(id.as_str());
    row.registration(registration);
    row.option(reported_metadata.as_deref(), Row::metadata);
    row.text(reported_status.as_str());
    row.number(u64::from(*lapsed));
    row.number(lease.0);
    row.number(revision.0);
    row.number(created_revision.0);
    row.number(registered_at.0);
    row.list(superseded, |row, lease| row.number(lease.0));
    row.0.digest128()
}

pub(crate) fn of_deadline(lease: LeaseId, deadline: ClusterTime) -> u128 {
    let mut row = [0; 16];
    row[..8].copy_from_slice(&lease.0.to_le_bytes());
    row[8..].copy_from_slice(&deadline.0.to_le_bytes());
    xxhash_rust::xxh3::xxh3_128(&row)
}

/// One row as bytes: every text and list with its length before it, every number in eight bytes, so that no two rows
/// have the same bytes. Written out rather than left to `Hash`, which may differ from one compiler to the next: the
/// digest is kept on disk and compared between machines.
struct Row(Xxh3);

impl Row {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, feed: impl FnOnce(&mut Self, T)) {
        self.number(u64::from(value.is_some()));
        if let Some(value) = value {
            feed(self, value);
        }
    }

    fn list<T>(&mut self, items: &[T], feed: impl Fn(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| feed(self, item));
    }

    fn json(&mut self, json: &JsonText) {
        self.text(&json.0);
    }

    fn metadata(&mut self, metadata: &Metadata) {
        self.number(metadata.iter().count() as u64);
        for (key, value) in metadata.iter() {
            self.text(key);
            match value {
                MetadataValue::Text(text) => {
                    self.number(0);
                    self.text(text);
                }
                MetadataValue::Json(json) => {
                    self.number(1);
                    self.json(json);
                }
            }
        }
    }

    fn registration(&mut self, registration: &Registration) {
        let Registration {
            name,
            kind,
            protocol,
            visibility,
            weight,
            ttl_ms,
            reap_after_ms,
            url,
            version,
            owner,
            tags,
            capabilities,
            consumed_events,
            produced_events,
            metadata,
            extras,
        } = registration;
        self.text(name.as_str());
        self.text(kind.as_str());
        self.text(protocol.as_str());
        self.text(visibility.as_str());
        [*weight, *ttl_ms, *reap_after_ms].into_iter().for_each(|number| self.number(number.into()));
        self.text(url);
        self.option(version.as_deref(), Self::text);
        self.option(owner.as_deref(), Self::text);
        self.list(tags, |row, tag| row.text(tag));
        self.list(capabilities, |row, Capability { name, detail }| {
            row.text(name);
            row.option(detail.as_ref(), Self::json);
        });
        self.list(consumed_events, |row, event| row.text(event));
        self.list(produced_events, |row, event| row.text(event));
        self.metadata(metadata);
        self.option(extras.as_deref(), Self::extras);
    }

    fn extras(&mut self, extras: &Extras) {
        let Extras { endpoints, auth, signature, public_key, locality: Locality { region, zone }, document } = extras;
        self.option(endpoints.as_ref(), Self::json);
        self.option(auth.as_ref(), Self::json);
        for text in [signature, public_key, region, zone, document] {
            self.option(text.as_deref(), Self::text);
        }
    }
}
