//! Putting instances on the roll before the measuring begins.

use std::sync::Arc;

use hyper::{StatusCode, Uri};
use serde::Deserialize;

use crate::documents::Documents;
use crate::engine::{self, Done, Load, Session, Span};
use crate::error::{Error, RequestError};
use crate::http::{Call, Connection, Keep};
use crate::usage::Processes;

pub(crate) const REGISTER: &str = "/api/services/register";

/// The part of an answer that the works need.
#[derive(Deserialize)]
struct Registered {
    lease: Lease,
}

#[derive(Deserialize)]
struct Lease {
    id: u64,
}

/// Registers and answers the lease, whether the instance is new or not.
pub(crate) async fn register(
    connection: &mut Connection,
    documents: &Documents,
    number: u64,
) -> Result<u64, RequestError> {
    let call =
        |status| Call::post(Uri::from_static(REGISTER), documents.render(number)).expect(status).keep(Keep::All);
    match connection.send(&call(StatusCode::CREATED)).await {
        // It was there already: renewed, or replaced.
        Ok(()) | Err(RequestError::UnexpectedStatus { status: 200 }) => {}
        Err(error) => return Err(error),
    }
    let registered: Registered = serde_json::from_slice(connection.body())
        .map_err(|error| RequestError::Unexpected { what: format!("no registration was answered: {error}") })?;
    Ok(registered.lease.id)
}

struct Enrolling {
    connection: Connection,
    documents: Arc<Documents>,
    leases: Vec<(u64, u64)>,
}

impl Session for Enrolling {
    type Error = RequestError;

    async fn operate(&mut self, number: u64) -> Result<Done, RequestError> {
        let lease = register(&mut self.connection, &self.documents, number).await?;
        self.leases.push((number, lease));
        Ok(Done::items(1))
    }
}

/// Registers the first `count` documents. Answers their leases in that order, and the connections.
///
/// # Errors
/// When one of them cannot be registered.
pub(crate) async fn enrol(
    connections: Vec<Connection>,
    documents: &Arc<Documents>,
    count: u64,
) -> Result<(Vec<u64>, Vec<Connection>), Error> {
    let enrolling = |connection| Enrolling { connection, documents: documents.clone(), leases: Vec::new() };
    let sessions = connections.into_iter().map(enrolling).collect();
    let load = Load { title: "set up", kinds: &["register"], span: Span::Count(count), rate_per_s: None };
    let (measured, sessions) = engine::run(&load, sessions, &Processes::default()).await;
    if measured.errors > 0 {
        let example = measured.error_examples.into_iter().next().unwrap_or_default();
        return Err(Error::SetUp { count, failed: measured.errors, example });
    }
    let (mut leases, mut connections) = (vec![0; usize::try_from(count).unwrap_or(usize::MAX)], Vec::new());
    for session in sessions {
        for (number, lease) in session.leases {
            leases[usize::try_from(number).unwrap_or(usize::MAX)] = lease;
        }
        connections.push(session.connection);
    }
    Ok((leases, connections))
}
