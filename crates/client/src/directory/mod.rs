//! Client-side discovery: who matches some filters, at hand in memory, and one of them for each call.
//!
//! [`Directory`] is the public side and the task that keeps it up to date; `view` is one state of it, and picks.

mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use rollcall_api::ServiceObject;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, report};
use crate::query::{Filters, WatchQuery};
use crate::watch::{Watch, WatchEvent};
use view::{Entry, View};

pub use view::Strategy;

/// How many events are taken together into one new view: as many as came at once, but readers do not wait for all of a
/// long row.
const EVENTS_PER_VIEW_MAX: usize = 1_000;

/// The pause after which a directory that was ready once, and was then refused, asks again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// A mirror of those that match some filters, kept up to date by a watch in a task of its own, which ends when this is
/// dropped.
///
/// Reading takes no `await` and no lock for longer than a pointer is copied. While the cluster is away the last known
/// state stays, and [`error`](Self::error) tells why it is not kept up to date. It is never half a state: when all has
/// to be told anew, the old stays until the new is complete.
#[derive(Debug)]
pub struct Directory {
    state: watch::Receiver<State>,
    /// When failures are counted from.
    started: Instant,
    /// Whose turn it is.
    turn: AtomicUsize,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct State {
    view: Arc<View>,
    /// All that match were told at least once.
    is_ready: bool,
    error: Option<Arc<Error>>,
}

impl Directory {
    /// Begins to mirror. The cluster need not be there yet: it is waited for.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(client: &Client, filters: Filters) -> Self {
        Self::of(client, filters.into())
    }

    /// Begins to mirror those of other clusters too. Of an id that several have it shows one: this cluster's own, else that
    /// of the peer whose name comes first.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_federated(client: &Client, filters: Filters) -> Self {
        Self::of(client, WatchQuery { federated: true, ..filters.into() })
    }

    fn of(client: &Client, query: WatchQuery) -> Self {
        let (sender, state) = watch::channel(State::default());
        let task = tokio::spawn(mirror(client.clone(), query, sender));
        // Clients that were started together do not all begin with the same instance.
        let turn = AtomicUsize::new(rand::random_range(0..usize::MAX / 2));
        Self { state, started: Instant::now(), turn, task }
    }

    /// Waits until all that match are known; does not wait once they are.
    ///
    /// # Errors
    /// When a node refuses the filters or who asks.
    pub async fn ready(&self) -> Result<(), Arc<Error>> {
        let mut state = self.state.clone();
        // It may end before it is ready; then the last state tells why.
        let _ = state.wait_for(|state| state.is_ready).await;
        let state = state.borrow();
        match &state.error {
            Some(error) if !state.is_ready => Err(Arc::clone(error)),
            _ => Ok(()),
        }
    }

    /// All that match, in the order of their ids.
    pub fn services(&self) -> Arc<[Arc<ServiceObject>]> {
        self.view().services()
    }

    pub fn get(&self, id: &str) -> Option<Arc<ServiceObject>> {
        self.view().get(id)
    }

    /// One of those that match; none when nobody does.
    ///
    /// All that match are eligible, whatever their status, but for those that an operator wants to be given no work: ask
    /// for `active` ones alone by the filter on statuses.
    pub fn pick(&self, strategy: Strategy) -> Option<Arc<ServiceObject>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.view().pick(strategy, turn, self.started.elapsed())
    }

    /// Remembers that a call to an instance failed, for [`Strategy::LeastRecentlyFailed`]. Forgotten by a success, after
    /// half a minute, and when the instance registers anew.
    pub fn report_failure(&self, id: &str) {
        self.view().set_failed(id, Some(self.started.elapsed()));
    }

    /// Remembers that a call to an instance succeeded.
    pub fn report_success(&self, id: &str) {
        self.view().set_failed(id, None);
    }

    /// Why the directory is not being kept up to date right now; none while it is.
    pub fn error(&self) -> Option<Arc<Error>> {
        self.state.borrow().error.clone()
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.state.borrow().view)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps the state up to date. A refusal at the beginning is the caller's mistake and ends it; one that comes later,
/// while others rely on the directory, may pass, as an expired token does.
async fn mirror(client: Client, query: WatchQuery, sender: watch::Sender<State>) {
    let mut mirror = Mirror::default();
    loop {
        let mut watch = Watch::unopened(client.clone(), &query);
        while let Some(event) = watch.next().await {
            mirror.take(event);
            for _ in 1..EVENTS_PER_VIEW_MAX {
                let Some(Some(event)) = watch.next().now_or_never() else { break };
                mirror.take(event);
            }
            sender.send_replace(mirror.state());
        }
        if !mirror.state.is_ready {
            return;
        }
        tokio::time::sleep(REFUSED_PAUSE.mul_f64(rand::random_range(0.5..=1.0))).await;
    }
}

/// By id and origin, so that this cluster's own comes first.
type Key = (String, Option<String>);

/// What the events so far come to.
#[derive(Default)]
struct Mirror {
    entries: BTreeMap<Key, Entry>,
    /// The new beginning as far as it was told.
    beginning: BTreeMap<Key, Entry>,
    state: State,
    /// The state's view does not show the entries.
    is_view_stale: bool,
}

impl Mirror {
    fn take(&mut self, event: Result<WatchEvent, Error>) {
        match event {
            Ok(WatchEvent::Init { .. }) => self.beginning.clear(),
            Ok(WatchEvent::Present(service)) => {
                let (key, entry) = self.entry(*service);
                self.beginning.insert(key, entry);
            }
            Ok(WatchEvent::Synced(_)) => {
                self.entries = std::mem::take(&mut self.beginning);
                self.is_view_stale = true;
                self.state.is_ready = true;
                self.state.error = None;
            }
            Ok(WatchEvent::Changed(update)) => {
                if update.update_type.is_gone() {
                    self.entries.remove(&(update.service.id, update.service.origin));
                } else {
                    let (key, entry) = self.entry(update.service);
                    self.entries.insert(key, entry);
                }
                self.is_view_stale = true;
                self.state.error = None;
            }
            Ok(WatchEvent::Bookmark(_)) => self.state.error = None,
            Ok(WatchEvent::Resumed { endpoint }) => tracing::info!(endpoint, "a directory found a node"),
            Ok(WatchEvent::Interrupted { error }) => {
                tracing::warn!(error = report(&error), "a directory is without a node");
                self.state.error = Some(Arc::new(error));
            }
            Err(error) => {
                tracing::warn!(error = report(&error), "a directory was refused");
                self.state.error = Some(Arc::new(error));
            }
        }
    }

    fn entry(&self, service: ServiceObject) -> (Key, Entry) {
        let key = (service.id.clone(), service.origin.clone());
        let entry = Entry::new(service, self.entries.get(&key));
        (key, entry)
    }

    fn state(&mut self) -> State {
        if std::mem::take(&mut self.is_view_stale) {
            let mut last = None;
            let first_of_id = self.entries.iter().filter(|((id, _), _)| last.replace(id) != Some(id));
            self.state.view = Arc::new(first_of_id.map(|(_, entry)| entry.clone()).collect());
        }
        self.state.clone()
    }
}

#[cfg(test)]
mod tests {
    use rollcall_api::ResumePoint;

    use super::*;
    use crate::watch::InitCause;
    use view::tests::service;

    #[test]
    fn a_state_is_shown_when_it_is_whole() {
        let mut mirror = Mirror::default();
        let mut ids_after = |event| {
            mirror.take(Ok(event));
            let services = mirror.state().view.services();
            services.iter().map(|service| service.id.clone()).collect::<Vec<_>>()
        };
        let present = |id| WatchEvent::Present(Box::new(service(id, 1, 1)));
        let synced = || WatchEvent::Synced(ResumePoint { epoch: 0, revision: 7 });
        let told = [
            (WatchEvent::Init { cause: InitCause::Start }, vec![]),
            (present("a"), vec![]),
            (present("b"), vec![]),
            (synced(), vec!["a", "b"]),
            (WatchEvent::Init { cause: InitCause::HistoryGone }, vec!["a", "b"]),
            (present("c"), vec!["a", "b"]),
            (WatchEvent::Init { cause: InitCause::Incomplete }, vec!["a", "b"]),
            (present("b"), vec!["a", "b"]),
            (synced(), vec!["b"]),
        ];
        for (at, (event, expected)) in told.into_iter().enumerate() {
            assert_eq!(ids_after(event), expected, "after event {at}");
        }
    }
}
