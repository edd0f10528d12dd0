//! Watching: who comes, changes and goes, as a stream that heals itself.
//!
//! [`Watch`] is the public side, `session` what follows one roll over many connections, `foreign` what it told of other
//! clusters, `sse` the wire's form.

mod foreign;
mod session;
mod sse;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{self, Stream, StreamExt};
use rollcall_api::{ResumePoint, ServiceObject, ServiceUpdate};

use crate::client::Client;
use crate::error::Error;
use crate::query::WatchQuery;
use session::Session;

/// What a watch tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum WatchEvent {
    /// What follows, up to `Synced`, replaces everything told before. It comes first unless the watch goes on after a
    /// revision, and again whenever there is no other way to go on.
    Init { cause: InitCause },
    /// One of those that match at the beginning.
    Present(Box<ServiceObject>),
    /// All those that match were told; from here on come the changes.
    Synced(ResumePoint),
    /// One came, changed or went: the next change that concerns the filters.
    Changed(Box<ServiceUpdate>),
    /// Everything that concerns the filters up to here was told. Comes at least every ten seconds, so that a point to go
    /// on from does not grow old where nothing changes.
    Bookmark(ResumePoint),
    /// The connection is lost. The watch seeks another and neither skips nor repeats anything; this is for people to
    /// read, and for programs that want to know how old their picture is.
    Interrupted { error: Error },
    /// The watch goes on, at this endpoint.
    Resumed { endpoint: String },
}

/// Why everything is told from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitCause {
    /// It is the beginning.
    Start,
    /// The connection was lost before all of the beginning was told.
    Incomplete,
    /// The changes since the last revision told are no longer kept, or the roll was restored from a backup. Some may
    /// never be told, and who is not among those that follow is gone.
    HistoryGone,
}

/// The changes of the roll that concern some filters: in order, none missing and none twice, over as many connections
/// and nodes as it takes, or the word that everything is told anew ([`WatchEvent::Init`]).
///
/// It heals what can be healed, for as long as it takes: a node that ends, falls silent or refuses for now. An error is
/// its last item. It reads only while it is polled, and holds one connection; a node cuts off who reads too slowly, and
/// then it goes on where it was.
///
/// Of other clusters' instances ([`WatchQuery::federated`]) it tells each change in its cluster's order, but for those that
/// took place while the connection was lost, or faster than it was read: then it tells what is different from before.
/// They have no resume points of their own. An id that several clusters have is told by each of them, with its `origin`.
#[must_use = "a watch tells only what it is asked for"]
pub struct Watch {
    told: Pin<Box<dyn Stream<Item = Told> + Send>>,
    resume_point: Option<ResumePoint>,
}

/// An event, and the resume point after it.
type Told = (Result<WatchEvent, Error>, Option<ResumePoint>);

impl Watch {
    /// A watch that a node has taken.
    pub(crate) async fn open(client: Client, query: &WatchQuery) -> Result<Self, Error> {
        let mut session = Session::new(client, query);
        session.open().await?;
        Ok(Self::of(session))
    }

    /// A watch that seeks a node when it is first polled, and for as long as it takes.
    pub(crate) fn unopened(client: Client, query: &WatchQuery) -> Self {
        Self::of(Session::new(client, query))
    }

    fn of(session: Session) -> Self {
        let resume_point = session.resume_point();
        let told = stream::unfold(session, async |mut session| {
            let event = session.next().await?;
            Some(((event, session.resume_point()), session))
        });
        Self { told: Box::pin(told.fuse()), resume_point }
    }

    /// The next event; none after an error.
    ///
    /// # Errors
    /// What cannot be healed: a refusal of the filters or of who asks, or an answer that cannot be understood.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Where another watch goes on, at any node, without missing or repeating anything this one told. None while it is
    /// telling what there is at the beginning.
    pub fn resume_point(&self) -> Option<ResumePoint> {
        self.resume_point
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.told.as_mut().poll_next(context).map(|item| {
            let (event, resume_point) = item?;
            self.resume_point = resume_point;
            Some(event)
        })
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("resume_point", &self.resume_point).finish_non_exhaustive()
    }
}
