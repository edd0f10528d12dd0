//! The table of definitions, which stands beside the roll: it moves no revision, and has its own count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::State;
use super::checkpoint::RestoreError;
use crate::definition::{
    Compared, Compatibility, DEFINITION_BYTES_MAX, DEFINITION_BYTES_MAX_IN_ALL, DEFINITIONS_MAX, Defined, Definition,
    DefinitionChange, DefinitionContent, DefinitionKey, DefinitionRefusal, SchemaDefinition,
};
use crate::digest::{self, RowSum};
use crate::ids::{DefinitionName, Edition, TenantId};

/// All definitions of all tenants.
#[derive(Debug, Default)]
pub struct Definitions {
    /// Counts changes.
    pub(super) edition: Edition,
    tenants: BTreeMap<TenantId, OfTenant>,
    /// Of all tenants.
    bytes: usize,
    /// Not in the last checkpoint as they are.
    dirty: BTreeSet<(TenantId, DefinitionKey)>,
    /// Rows of the last checkpoint that are gone.
    removed: Vec<(TenantId, DefinitionKey)>,
}

#[derive(Debug, Default)]
struct OfTenant {
    by_key: BTreeMap<DefinitionKey, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    definition: Arc<Definition>,
    /// It has a row in the last checkpoint.
    kept: bool,
}

/// What of the definitions is not in the last checkpoint. Removals come before the rest.
#[derive(Debug, Default)]
pub struct DefinitionsDelta {
    pub removed: Vec<(TenantId, DefinitionKey)>,
    pub put: Vec<Arc<Definition>>,
}

impl Definitions {
    pub fn get(&self, tenant: &TenantId, key: &DefinitionKey) -> Option<&Arc<Definition>> {
        Some(&self.tenants.get(tenant)?.by_key.get(key)?.definition)
    }

    fn from<'a>(&'a self, tenant: &TenantId, first: DefinitionKey) -> impl Iterator<Item = &'a Arc<Definition>> {
        let tenant = self.tenants.get(tenant).into_iter();
        tenant.flat_map(move |tenant| tenant.by_key.range(first.clone()..).map(|(_, kept)| &kept.definition))
    }

    /// A tenant's events by name.
    pub fn events<'a>(&'a self, tenant: &TenantId) -> impl Iterator<Item = &'a Arc<Definition>> {
        let all = self.from(tenant, DefinitionKey::Event(DefinitionName::least()));
        all.take_while(|definition| matches!(definition.content, DefinitionContent::Event(_)))
    }

    /// A tenant's schemas by name and version.
    pub fn schemas<'a>(&'a self, tenant: &TenantId) -> impl Iterator<Item = &'a Arc<Definition>> {
        let least = DefinitionName::least();
        let all = self.from(tenant, DefinitionKey::Schema(least.clone(), least));
        all.take_while(|definition| matches!(definition.content, DefinitionContent::Schema(_)))
    }

    /// The version of a schema that was defined last.
    pub fn latest_schema(&self, tenant: &TenantId, name: &DefinitionName) -> Option<&Arc<Definition>> {
        let all = self.from(tenant, DefinitionKey::Schema(name.clone(), DefinitionName::least()));
        let is_of = |definition: &&Arc<Definition>| match &definition.content {
            DefinitionContent::Schema(schema) => schema.name == *name,
            DefinitionContent::Event(_) | DefinitionContent::Compatibility { .. } => false,
        };
        all.take_while(is_of).max_by_key(|definition| definition.edition)
    }

    /// What a new version of a schema must be to the latest.
    pub fn compatibility(&self, tenant: &TenantId, name: &DefinitionName) -> Compatibility {
        let definition = self.get(tenant, &DefinitionKey::Compatibility(name.clone()));
        match definition.map(|definition| &definition.content) {
            Some(DefinitionContent::Compatibility { mode, .. }) => *mode,
            Some(DefinitionContent::Event(_) | DefinitionContent::Schema(_)) | None => Compatibility::None,
        }
    }

    /// Definitions of all tenants.
    pub fn len(&self) -> usize {
        self.tenants.values().map(|tenant| tenant.by_key.len()).sum()
    }

    /// About what all of them take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    fn take_delta(&mut self) -> DefinitionsDelta {
        let (removed, dirty) = (std::mem::take(&mut self.removed), std::mem::take(&mut self.dirty));
        let put = dirty.into_iter().filter_map(|(tenant, key)| {
            // What was removed again left nothing to keep.
            let kept = self.tenants.get_mut(&tenant)?.by_key.get_mut(&key)?;
            kept.kept = true;
            Some(kept.definition.clone())
        });
        DefinitionsDelta { put: put.collect(), removed }
    }

    /// Whether there is room for it in the place of what has its key now.
    fn check_room(&self, tenant: &TenantId, key: &DefinitionKey, bytes: usize) -> Result<(), DefinitionRefusal> {
        let before = self.get(tenant, key).map(|definition| definition.content.bytes());
        let own = self.tenants.get(tenant);
        let count = own.map_or(0, |own| own.by_key.len());
        if before.is_none() && count >= DEFINITIONS_MAX {
            return Err(DefinitionRefusal::TooMany { count: count as u64, count_max: DEFINITIONS_MAX as u64 });
        }
        let with = |all: usize| all + bytes - before.unwrap_or(0);
        let (own, all) = (with(own.map_or(0, |own| own.bytes)), with(self.bytes));
        // Less than before is welcome, however much it still is.
        if bytes <= before.unwrap_or(0) {
            Ok(())
        } else if own > DEFINITION_BYTES_MAX {
            Err(DefinitionRefusal::TooLarge { bytes: own as u64, bytes_max: DEFINITION_BYTES_MAX as u64 })
        } else if all > DEFINITION_BYTES_MAX_IN_ALL {
            Err(DefinitionRefusal::Full { bytes: all as u64, bytes_max: DEFINITION_BYTES_MAX_IN_ALL as u64 })
        } else {
            Ok(())
        }
    }

    fn put(&mut self, definition: Arc<Definition>, rows: &mut RowSum, is_kept: bool) {
        let (key, bytes) = (definition.content.key(), definition.content.bytes());
        rows.add(digest::of_definition(&definition));
        let tenant = self.tenants.entry(definition.tenant.clone()).or_default();
        tenant.bytes += bytes;
        self.bytes += bytes;
        let before = tenant.by_key.get(&key).map(|before| (before.definition.clone(), before.kept));
        let kept = is_kept || before.as_ref().is_some_and(|(_, kept)| *kept);
        if let Some((before, _)) = before {
            rows.remove(digest::of_definition(&before));
            tenant.bytes -= before.content.bytes();
            self.bytes -= before.content.bytes();
        }
        if !is_kept {
            self.dirty.insert((definition.tenant.clone(), key.clone()));
        }
        tenant.by_key.insert(key, Kept { definition, kept });
    }

    fn remove(&mut self, tenant: &TenantId, key: &DefinitionKey, rows: &mut RowSum) -> Option<Arc<Definition>> {
        let own = self.tenants.get_mut(tenant)?;
        let Kept { definition, kept, .. } = own.by_key.remove(key)?;
        rows.remove(digest::of_definition(&definition));
        own.bytes -= definition.content.bytes();
        self.bytes -= definition.content.bytes();
        if own.by_key.is_empty() {
            self.tenants.remove(tenant);
        }
        if kept {
            self.removed.push((tenant.clone(), key.clone()));
        }
        Some(definition)
    }

    /// # Panics
    /// When the table contradicts itself.
    pub(super) fn assert_consistent(&self, rows: &mut RowSum) {
        let mut all = 0;
        for (name, tenant) in &self.tenants {
            assert!(!tenant.by_key.is_empty(), "tenant {name} is kept without definitions");
            let mut bytes = 0;
            for (key, Kept { definition, .. }) in &tenant.by_key {
                assert_eq!(definition.tenant, *name, "a definition is another tenant's");
                assert_eq!(definition.content.key(), *key, "a definition stands under another's name");
                assert!(definition.edition <= self.edition, "a definition is ahead of the edition");
                bytes += definition.content.bytes();
                rows.add(digest::of_definition(definition));
            }
            assert_eq!(bytes, tenant.bytes, "the bytes of tenant {name}'s definitions strayed");
            all += bytes;
        }
        assert_eq!(all, self.bytes, "the bytes of all definitions strayed");
    }
}

impl State {
    /// What agents agreed upon.
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// Changes one definition. One that is defined so already stays as it is.
    pub(super) fn define(
        &mut self,
        tenant: &TenantId,
        change: &DefinitionChange,
    ) -> Result<Defined, DefinitionRefusal> {
        match change {
            DefinitionChange::Event(event) => self.put_definition(tenant, DefinitionContent::Event(event.clone())),
            DefinitionChange::Schema { schema, compared } => {
                self.check_schema(tenant, schema, *compared)?;
                self.put_definition(tenant, DefinitionContent::Schema(schema.clone()))
            }
            // The default is no definition.
            DefinitionChange::Compatibility { name, mode: Compatibility::None } => {
                let key = DefinitionKey::Compatibility(name.clone());
                let absent = Defined {
                    created: false,
                    edition: self.definitions.edition,
                    defined_at: self.wall,
                    updated_at: self.wall,
                };
                Ok(self.remove_definition(tenant, &key).unwrap_or(absent))
            }
            DefinitionChange::Compatibility { name, mode } => {
                self.put_definition(tenant, DefinitionContent::Compatibility { name: name.clone(), mode: *mode })
            }
            DefinitionChange::Remove(key) => self.remove_definition(tenant, key).ok_or(DefinitionRefusal::NotDefined),
        }
    }

    fn check_schema(
        &self,
        tenant: &TenantId,
        schema: &SchemaDefinition,
        compared: Compared,
    ) -> Result<(), DefinitionRefusal> {
        let definitions = &self.definitions;
        let key = DefinitionKey::Schema(schema.name.clone(), schema.version.clone());
        if let Some(before) = definitions.get(tenant, &key) {
            return Err(DefinitionRefusal::Exists { edition: before.edition });
        }
        let mode = definitions.compatibility(tenant, &schema.name);
        let latest = definitions.latest_schema(tenant, &schema.name).map(|latest| latest.edition);
        if mode == Compatibility::None || compared == (Compared { mode, latest }) {
            Ok(())
        } else {
            Err(DefinitionRefusal::Outdated)
        }
    }

    fn put_definition(
        &mut self,
        tenant: &TenantId,
        content: DefinitionContent,
    ) -> Result<Defined, DefinitionRefusal> {
        let key = content.key();
        let before = self.definitions.get(tenant, &key).cloned();
        if let Some(before) = &before
            && before.content == content
        {
            return Ok(defined(before, false));
        }
        self.definitions.check_room(tenant, &key, content.bytes())?;
        self.definitions.edition.0 += 1;
        let definition = Arc::new(Definition {
            tenant: before.as_ref().map_or_else(|| self.known_tenant(tenant.clone()), |before| before.tenant.clone()),
            content,
            edition: self.definitions.edition,
            defined_at: before.as_ref().map_or(self.wall, |before| before.defined_at),
            updated_at: self.wall,
        });
        self.definitions.put(definition.clone(), &mut self.rows, false);
        Ok(defined(&definition, before.is_none()))
    }

    fn remove_definition(&mut self, tenant: &TenantId, key: &DefinitionKey) -> Option<Defined> {
        let removed = self.definitions.remove(tenant, key, &mut self.rows)?;
        self.definitions.edition.0 += 1;
        Some(Defined { edition: self.definitions.edition, ..defined(&removed, false) })
    }

    pub(super) fn take_definitions(&mut self) -> DefinitionsDelta {
        self.definitions.take_delta()
    }

    /// Puts one back that was kept. The digest only tells that these are the rows that were written.
    pub(super) fn restore_definition(&mut self, definition: Definition) -> Result<(), RestoreError> {
        let key = definition.content.key();
        let fault = if definition.edition > self.definitions.edition {
            "its edition is ahead of the state's"
        } else if definition.defined_at > definition.updated_at || definition.updated_at > self.wall {
            "it was defined later than now"
        } else if self.definitions.get(&definition.tenant, &key).is_some() {
            "it has two rows"
        } else {
            self.definitions.put(Arc::new(definition), &mut self.rows, true);
            return Ok(());
        };
        Err(RestoreError::Definition { tenant: definition.tenant, key, fault })
    }
}

fn defined(definition: &Definition, created: bool) -> Defined {
    let Definition { edition, defined_at, updated_at, .. } = *definition;
    Defined { created, edition, defined_at, updated_at }
}
