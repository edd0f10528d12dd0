//! openraft's own conformance suite on the stores.

use std::sync::Arc;
use std::time::Duration;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use rollcall_registry::Options;
use rollcall_storage::{ImaginedDisk, LogStore, MemoryLog, StateMachine, TypeConfig};

use crate::common::{IDENTITY, lock, memory_dir};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = memory_dir();
        let stores = crate::common::open(dir.path());
        Ok((dir, stores.log, stores.state_machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_pass_openrafts_suite() {
    Suite::test_all(Builder).await.expect("the suite");
}

struct Imagined;

impl StoreBuilder<TypeConfig, MemoryLog, StateMachine, tempfile::TempDir> for Imagined {
    async fn build(&self) -> Result<(tempfile::TempDir, MemoryLog, StateMachine), StorageError<TypeConfig>> {
        let path = memory_dir();
        let dir = lock(path.path());
        dir.write_identity(IDENTITY).expect("write the identity");
        let disk = ImaginedDisk::new(Arc::new(|| Duration::from_micros(10)));
        let stores = rollcall_storage::open_imagined(&dir, Options::default(), &disk).expect("open the stores");
        Ok((path, stores.log, stores.state_machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_an_imagined_disk_passes_openrafts_suite() {
    Suite::test_all(Imagined).await.expect("the suite");
}
