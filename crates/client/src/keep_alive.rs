//! Holds one registration for as long as a program wants to be found.

use std::future::Future;
use std::time::Duration;

use rollcall_api::lease::LeaseGrant;
use rollcall_api::{HeartbeatRequest, ServiceObject};
use serde_json::Value;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, report};

/// The least time a heartbeat is given to find a node that answers: an election takes about this long.
const BEAT_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// How long taking the registration back may take. A program that ends does not wait for a cluster that is away: the
/// lease runs out by itself.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a registration is kept no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepAliveError {
    /// Two programs use the same id. The newer one holds it; this one must not fight back.
    #[error("a newer registration holds `{id}`")]
    Superseded {
        id: String,
        #[source]
        source: Error,
    },
    /// The roll no longer knew the instance and a node refused to take it in again.
    #[error("register `{id}` again")]
    Register {
        id: String,
        #[source]
        source: Error,
    },
    /// The instance could not be taken off the roll; its lease runs out by itself.
    #[error("deregister `{id}`")]
    Deregister {
        id: String,
        #[source]
        source: Error,
    },
}

/// A registration that was made and is kept alive while [`run`](Self::run) runs.
///
/// Nothing happens in the background: a program that drops this is struck off when the lease runs out.
#[derive(Debug)]
#[must_use = "the lease runs out unless `run` is awaited"]
pub struct KeepAlive {
    client: Client,
    /// With the id, so that registering again is an upsert.
    document: Value,
    service: ServiceObject,
    lease: LeaseGrant,
    /// The roll no longer knew the lease, and no answer to a new registration came since. One may have been made all
    /// the same, and then a heartbeat with the old lease would be taken for another program's.
    is_lost: bool,
}

impl KeepAlive {
    pub(crate) async fn start(client: Client, mut document: Value) -> Result<Self, Error> {
        let registered = client.register(&document).await?;
        if let Value::Object(fields) = &mut document {
            fields.insert("id".to_owned(), Value::String(registered.registration_id));
        }
        Ok(Self { client, document, service: registered.service, lease: registered.lease, is_lost: false })
    }

    /// The instance as it was registered.
    pub fn service(&self) -> &ServiceObject {
        &self.service
    }

    pub fn lease(&self) -> LeaseGrant {
        self.lease
    }

    /// Beats at a third of the TTL until `shutdown` resolves, then takes the instance off the roll.
    ///
    /// Failures of the cluster are logged and borne: it goes on beating, and registers again when the roll no longer
    /// knows the lease.
    ///
    /// # Errors
    /// [`Superseded`](KeepAliveError::Superseded) as soon as a newer registration holds the id,
    /// [`Register`](KeepAliveError::Register) when registering again is refused, and
    /// [`Deregister`](KeepAliveError::Deregister) when taking the instance off the roll fails.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), KeepAliveError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut beat_at = Instant::now() + self.interval();
        loop {
            tokio::select! {
                () = &mut shutdown => return self.deregister().await,
                beaten = async {
                    tokio::time::sleep_until(beat_at).await;
                    self.beat().await
                } => {
                    // The lease runs from when the heartbeat was sent, however long its answer took.
                    beat_at = if beaten? { beat_at + self.interval() } else { Instant::now() + self.retry_pause() };
                    beat_at = beat_at.max(Instant::now());
                }
            }
        }
    }

    /// One heartbeat. False when the cluster did not take it for now.
    async fn beat(&mut self) -> Result<bool, KeepAliveError> {
        if self.is_lost {
            return self.register_again().await;
        }
        let beat = HeartbeatRequest { lease_id: Some(self.lease.id), ..HeartbeatRequest::default() };
        match self.hasty_client().heartbeat(&self.service.id, &beat).await {
            Ok(_) => Ok(true),
            Err(error) => match error.code() {
                Some("lease_superseded") => {
                    Err(KeepAliveError::Superseded { id: self.service.id.clone(), source: error })
                }
                Some("lease_not_found") => {
                    tracing::warn!(id = self.service.id, "the roll no longer knows the lease; registering again");
                    self.is_lost = true;
                    self.register_again().await
                }
                _ => {
                    tracing::warn!(id = self.service.id, error = report(&error), "a heartbeat was not taken");
                    Ok(false)
                }
            },
        }
    }

    async fn register_again(&mut self) -> Result<bool, KeepAliveError> {
        match self.hasty_client().register(&self.document).await {
            Ok(registered) => {
                self.service = registered.service;
                self.lease = registered.lease;
                self.is_lost = false;
                Ok(true)
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(id = self.service.id, error = report(&error), "registering again was not taken");
                Ok(false)
            }
            Err(source) => Err(KeepAliveError::Register { id: self.service.id.clone(), source }),
        }
    }

    async fn deregister(self) -> Result<(), KeepAliveError> {
        let client = self.client.with_timeout(DEREGISTER_TIMEOUT.min(self.client.timeout()));
        match client.deregister(&self.service.id, Some(self.lease.id)).await {
            Ok(_) => Ok(()),
            // It left the roll before, or another program holds it: either way this one is no longer on it.
            Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(()),
            Err(source) => Err(KeepAliveError::Deregister { id: self.service.id, source }),
        }
    }

    /// A client that gives up early enough for another beat before the lease runs out.
    fn hasty_client(&self) -> Client {
        let ttl = Duration::from_millis(self.lease.ttl_ms.into());
        self.client.with_timeout((ttl / 2).max(BEAT_TIMEOUT_MIN).min(self.client.timeout()))
    }

    /// Up to a tenth less than the interval asked for, so that agents started together do not beat together.
    fn interval(&self) -> Duration {
        Duration::from_millis(self.lease.heartbeat_interval_ms.into()).mul_f64(rand::random_range(0.9..=1.0))
    }

    fn retry_pause(&self) -> Duration {
        self.interval() / 4
    }
}
