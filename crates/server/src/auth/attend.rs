//! What is done about tokens beside requests: streams end whose tokens are good no more, it is noted which tokens are used,
//! the first token is made, and whoever has a node's directory gets an administrator's token for the one that was lost.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rollcall_registry::access::ACCESS_TOKENS_USED_MAX;
use rollcall_registry::{
    AccessRole, AccessTokenCommand, AccessTokenId, AccessTokenRefusal, Command, NewAccessToken, Outcome, Reach,
    Refusal, Scopes, State,
};
use rollcall_replica::{Applied, Consistency, Replica, SubmitError, TokenSecret};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::TOKEN_PREFIX;
use super::gate::Gate;
use super::leash::Leashes;
use crate::audit::Deed;
use crate::startup;

/// In a node's directory: asks the node to revoke the administrators of all tenants and to make a new one. The node removes
/// it when that is done.
pub const RESET_REQUEST: &str = "admin-token.reset";

/// In a node's directory: the token that was made. Whoever asked for it takes it away.
pub const ADMIN_TOKEN: &str = "admin-token";

/// How often it is looked whether something has expired or is asked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// After the log has moved it is looked no oftener than this whether a token was revoked.
const PULL_INTERVAL: Duration = Duration::from_millis(20);

/// Uses are gathered for so long: they are told as coarsely as an hour.
const NOTE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the first token is told.
pub(crate) type FirstTokenSender = oneshot::Sender<Zeroizing<String>>;

/// The token of the first administrator, should one be made.
pub struct FirstToken(oneshot::Receiver<Zeroizing<String>>);

impl FirstToken {
    /// The token as its bearer has it, told this once; none if none is made before the node ends.
    pub async fn made(self) -> Option<Zeroizing<String>> {
        self.0.await.ok()
    }
}

pub(crate) fn first_token() -> (FirstTokenSender, FirstToken) {
    let (sender, receiver) = oneshot::channel();
    (sender, FirstToken(receiver))
}

/// What the work needs.
pub(crate) struct Attendance {
    pub(crate) replica: Replica,
    pub(crate) leashes: Leashes,
    /// None: requests carry no identity.
    pub(crate) gate: Option<Gate>,
    /// Where the first token is told, if this node is to make it.
    pub(crate) first: Option<FirstTokenSender>,
    pub(crate) data_dir: PathBuf,
}

/// Goes on until the node ends.
pub(crate) async fn attend(attendance: Attendance, stop: CancellationToken) {
    let Attendance { replica, leashes, gate, first, data_dir } = attendance;
    let of_gate = async {
        match gate {
            Some(gate) => drop(tokio::join!(end_streams(&replica, &leashes), note_uses(&replica, &gate))),
            None => warn_of_open_door(&replica).await,
        }
    };
    let first = async {
        if let Some(sender) = first {
            make_first(&replica, sender).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        _ = async { tokio::join!(of_gate, first, answer_resets(&replica, &data_dir)) } => {}
    }
}

fn looks(interval: Duration) -> tokio::time::Interval {
    let mut looks = tokio::time::interval(interval);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

async fn end_streams(replica: &Replica, leashes: &Leashes) {
    let (mut applied, mut looks) = (replica.roll().subscribe(), looks(LOOK_INTERVAL));
    let mut mark = None;
    loop {
        let is_due = tokio::select! {
            _ = looks.tick() => true,
            moved = applied.changed() => match moved {
                Ok(()) => false,
                Err(_) => return,
            },
        };
        if !leashes.is_empty() {
            let now = replica.cluster_time();
            replica.roll().read(|state| {
                let marked = mark.replace(state.access_tokens_mark());
                if is_due || marked != mark {
                    leashes.pull(state, now);
                }
            });
        }
        tokio::time::sleep(PULL_INTERVAL).await;
    }
}

/// Says once that others ask for tokens where this node does not.
async fn warn_of_open_door(replica: &Replica) {
    let mut looks = looks(LOOK_INTERVAL);
    loop {
        looks.tick().await;
        if let Some(notice) = replica.roll().read(|state| startup::open_door(state, false)) {
            tracing::warn!("{}", notice.detail);
            return;
        }
    }
}

/// What cannot be noted now is noted when the token is used again.
async fn note_uses(replica: &Replica, gate: &Gate) {
    let mut looks = looks(NOTE_INTERVAL);
    loop {
        looks.tick().await;
        let used: Vec<AccessTokenId> = gate.take_used().into_iter().collect();
        for ids in used.chunks(ACCESS_TOKENS_USED_MAX) {
            let note = Command::AccessToken(AccessTokenCommand::Used { ids: ids.to_vec() });
            if let Err(error) = replica.submit(note, Instant::now() + PATIENCE).await {
                tracing::debug!(%error, "cannot note that tokens are used");
            }
        }
    }
}

/// A token that administers every tenant and the cluster.
fn administrator(secret: &TokenSecret, description: &str) -> NewAccessToken {
    NewAccessToken {
        id: AccessTokenId(secret.id()),
        secret: secret.digest(),
        reach: Reach::All,
        role: AccessRole::Admin,
        scopes: Scopes::default(),
        ttl_ms: None,
        description: description.into(),
        created_by: None,
    }
}

/// Makes the first token, unless there has been one.
async fn make_first(replica: &Replica, sender: FirstTokenSender) {
    let secret = TokenSecret::draw();
    let id = AccessTokenId(secret.id());
    let mut looks = looks(LOOK_INTERVAL);
    loop {
        looks.tick().await;
        let current = Consistency { linearizable: true, ..Consistency::default() };
        if replica.barrier(current, Instant::now() + PATIENCE).await.is_err() {
            continue;
        }
        let (is_any, is_ours) = replica.roll().read(|state| {
            let mut tokens = state.access_tokens().peekable();
            (tokens.peek().is_some(), tokens.any(|token| token.id == id))
        });
        if is_ours {
            break;
        }
        if is_any {
            return;
        }
        let token = administrator(&secret, "the first administrator");
        let create = Command::AccessToken(AccessTokenCommand::Create { token, first: true });
        match submit(replica, create).await.map(|applied| applied.outcome) {
            Ok(Outcome::Refused(Refusal::AccessToken(AccessTokenRefusal::NotFirst))) => return,
            Ok(_) => break,
            // What became of it is seen when it is looked again.
            Err(error) => tracing::warn!(%error, "the first token cannot be made yet"),
        }
    }
    tracing::info!(token = %id, "the token of the first administrator was made; it is told this once");
    // Nobody may listen: then it is reset by who has the directory.
    let _ = sender.send(secret.text(TOKEN_PREFIX));
}

/// Brings the node's own change into the log, and tells of it.
async fn submit(replica: &Replica, command: Command) -> Result<Applied, SubmitError> {
    let deed = Deed::of(&command, replica.roll().read(State::revision));
    let result = replica.submit(command, Instant::now() + PATIENCE).await;
    if let Some(deed) = deed {
        deed.settle(None, &result);
    }
    result
}

async fn answer_resets(replica: &Replica, data_dir: &Path) {
    let mut looks = looks(LOOK_INTERVAL);
    loop {
        looks.tick().await;
        let request = data_dir.join(RESET_REQUEST);
        if !blocking(move || fs::exists(request)).await.unwrap_or(false) {
            continue;
        }
        let secret = TokenSecret::draw();
        let reset = AccessTokenCommand::Reset { token: administrator(&secret, "made by a reset") };
        let applied = submit(replica, Command::AccessToken(reset)).await;
        match applied.map(|applied| applied.outcome) {
            Ok(Outcome::AccessToken(token)) => {
                tracing::warn!(token = %token.id, "the administrators of all tenants were revoked, and a new one was made");
            }
            Ok(outcome) => {
                tracing::error!(?outcome, "an administrator's token cannot be reset");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "an administrator's token cannot be reset yet");
                continue;
            }
        }
        let (dir, text) = (data_dir.to_owned(), secret.text(TOKEN_PREFIX));
        if let Err(error) = blocking(move || hand_over(&dir, &text)).await {
            // It is asked for still, and made anew.
            tracing::error!(%error, path = %data_dir.display(), "a new administrator's token cannot be handed over");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Puts the token where only the directory's owner reads it, and then takes the request away.
fn hand_over(dir: &Path, text: &str) -> io::Result<()> {
    let (path, unfinished) = (dir.join(ADMIN_TOKEN), dir.join(format!("{ADMIN_TOKEN}.tmp")));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    fs::remove_file(dir.join(RESET_REQUEST))
}
