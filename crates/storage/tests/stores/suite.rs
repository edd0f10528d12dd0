//! openraft's own conformance suite on the stores.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use rollcall_storage::{LogStore, StateMachine, TypeConfig};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = crate::common::memory_dir();
        let stores = crate::common::open(dir.path());
        Ok((dir, stores.log, stores.state_machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_pass_openrafts_suite() {
    Suite::test_all(Builder).await.expect("the suite");
}
