//! What becomes of a broken disk: the first failure is kept, every operation after it fails, and whoever runs the node
//! is told, to end the process. Nothing is tried again: after a failed flush nobody knows what is on the disk.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

/// The first operation that failed. From then on the stores refuse everything.
#[derive(Clone, Debug, thiserror::Error)]
#[error("storage failed: {attempted}")]
pub struct StoreFailure {
    /// What was attempted.
    pub attempted: &'static str,
    #[source]
    source: Arc<dyn std::error::Error + Send + Sync>,
}

impl From<StoreFailure> for io::Error {
    fn from(failure: StoreFailure) -> Self {
        Self::other(failure)
    }
}

/// Tells of the failure of any store of one directory.
#[derive(Clone, Debug)]
pub struct FailureWatch(watch::Receiver<Option<StoreFailure>>);

impl FailureWatch {
    /// The failure, if there was one.
    pub fn get(&self) -> Option<StoreFailure> {
        self.0.borrow().clone()
    }

    /// Resolves when a store failed: the process must end with this message. Never resolves if all goes well.
    pub async fn failed(&mut self) -> StoreFailure {
        if let Ok(failure) = self.0.wait_for(Option::is_some).await
            && let Some(failure) = failure.clone()
        {
            return failure;
        }
        // The stores are closed and did not fail.
        std::future::pending().await
    }
}

/// Shared by the stores of one directory: whether one of them failed.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<watch::Sender<Option<StoreFailure>>>);

impl Health {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    pub(crate) fn watch(&self) -> FailureWatch {
        FailureWatch(self.0.subscribe())
    }

    /// Refuses after a failure.
    pub(crate) fn check(&self) -> Result<(), StoreFailure> {
        match &*self.0.borrow() {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    /// Keeps the first failure and gives it back.
    pub(crate) fn fail(
        &self,
        attempted: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> StoreFailure {
        let failure = StoreFailure { attempted, source: Arc::new(source) };
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                tracing::error!(
                    error = &failure as &dyn std::error::Error,
                    "storage failed; nothing more is written"
                );
                *first = Some(failure.clone());
            }
            is_first
        });
        failure
    }

    /// Passes a result on; a failure is kept.
    pub(crate) fn guard<T, E>(&self, attempted: &'static str, result: Result<T, E>) -> Result<T, StoreFailure>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        result.map_err(|source| self.fail(attempted, source))
    }
}
