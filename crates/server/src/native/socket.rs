//! The changes of the roll by WebSocket: many subscriptions on one connection.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use rollcall_api::watch::WsResponse;
use rollcall_api::{Problem, ResumePoint};
use rollcall_registry::{Revision, TenantId, Viewer};
use rollcall_replica::Consistency;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Native;
use crate::auth::Leash;
use crate::limits::{DRAIN_TIMEOUT, QUESTION_BYTES_MAX, WS_MESSAGE_BYTES_MAX, WS_SUBSCRIPTIONS_MAX};
use crate::parse::{self, SocketRequest, Subscribe};
use crate::reply::Failure;
use crate::request::Context;
use crate::watch::{self, Begin, Place, Question, Told, Watcher};
use crate::{json, params};

/// How often the other end is asked for a sign of life, so that one that is gone is noticed by the write that fails.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// What a connection reads at once: what clients send is short, and there are many of them.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// Messages that are written at once.
const WRITE_BUFFER_BYTES: usize = 16 << 10;

/// How long a subscription may wait for the revision it goes on from.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Watch for changes by WebSocket
///
/// `{"type": "subscribe", "filters": [{…}], "from_revision"?}` is answered by `subscribed` with a `subscription_id`, then
/// by what the event stream tells, each message with the `subscription_id`; `unsubscribe` ends it. A filter is an object
/// of the event stream's parameters; what matches any of several filters is told. `"include_federated": true` beside the
/// filters tells of other clusters' instances too, as the event stream does. What is refused is answered by
/// `{"type": "error", "problem": {…}}`, and the connection and its subscriptions live on.
#[utoipa::path(
    get, path = "/ws/registry", tag = "services", operation_id = "watchByWebSocket",
    responses(
        (status = 101, description = "A WebSocket. The client sends WsRequest, the node WsResponse"),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 403, description = "`foreign_origin`: a browser says that the page asking is another site's", body = Problem),
        (status = 426, description = "`upgrade_required`: not a WebSocket handshake", body = Problem),
        (status = 429, description = "`too_many_watchers` on this node or of this tenant; another node may have room", body = Problem),
        (status = 503, description = "`not_ready`", body = Problem),
    ),
)]
pub(super) async fn socket(
    State(native): State<Native>,
    context: Context,
    headers: HeaderMap,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    params::none(&uri)?;
    refuse_foreign_page(&headers)?;
    let upgrade = upgrade
        .map_err(|rejection| Failure::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", rejection.body_text()))?;
    let place = native.places.take(&context.tenant)?;
    native.replica.barrier(Consistency::default(), context.deadline).await?;
    let upgrade = upgrade
        .max_message_size(WS_MESSAGE_BYTES_MAX)
        .max_frame_size(WS_MESSAGE_BYTES_MAX)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES);
    // The HTTP connection ends here, and with it what its server waits for.
    let sockets = native.sockets.clone();
    Ok(upgrade.on_upgrade(move |socket| {
        let stop = native.draining.clone();
        let leash = native.leash(&context);
        let connection = Connection {
            native,
            leash,
            tenant: context.tenant,
            viewer: context.viewer,
            subscriptions: HashMap::new(),
            last_id: 0,
            waiting: FuturesUnordered::new(),
        };
        sockets.track_future(async move {
            let overdue = async {
                stop.cancelled().await;
                tokio::time::sleep(DRAIN_TIMEOUT).await;
            };
            tokio::select! {
                () = connection.serve(socket, place) => {}
                () = overdue => {}
            }
        })
    }))
}

/// A browser lets the pages of any site open WebSockets to this node, and sends along whose page it was.
fn refuse_foreign_page(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let Some(origin) = text(header::ORIGIN) else { return Ok(()) };
    if origin.split_once("://").map(|(_, authority)| authority) == text(header::HOST) {
        return Ok(());
    }
    let detail = format!("a page of {} may not watch here", origin.escape_debug());
    Err(Failure::new(StatusCode::FORBIDDEN, "foreign_origin", detail))
}

/// Why a connection ends.
struct Closed;

impl From<axum::Error> for Closed {
    fn from(_: axum::Error) -> Self {
        Self
    }
}

struct Connection {
    native: Native,
    leash: Leash,
    tenant: TenantId,
    /// On whose behalf it watches.
    viewer: Viewer,
    /// Those that live; cancelled when they are dropped.
    subscriptions: HashMap<u64, CancellationToken>,
    last_id: u64,
    /// What each of them does next.
    waiting: FuturesUnordered<Pin<Box<dyn Future<Output = Came> + Send>>>,
}

/// What comes of a subscription.
enum Came {
    Begun { id: u64, request_id: Option<String>, begun: Result<Box<Watcher>, Failure> },
    Told { id: u64, watcher: Box<Watcher>, told: Option<Told> },
}

async fn told(id: u64, mut watcher: Box<Watcher>) -> Came {
    let told = watcher.next().await;
    Came::Told { id, watcher, told }
}

impl Connection {
    async fn serve(mut self, mut socket: WebSocket, _place: Place) {
        let stop = self.leash.stop().clone();
        let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                received = socket.recv() => match received {
                    Some(Ok(message)) => self.received(message, &mut socket).await,
                    // Not a WebSocket any more, or a message beyond the limit.
                    Some(Err(_)) | None => Err(Closed),
                },
                Some(came) = self.waiting.next() => self.came(came, &mut socket).await,
                _ = ping.tick() => socket.send(Message::Ping(Default::default())).await.map_err(Closed::from),
                () = stop.cancelled() => {
                    let (code, reason) = if self.native.draining.is_cancelled() {
                        (close_code::AWAY, "this node shuts down")
                    } else {
                        (close_code::POLICY, "the token that opened this is good no more")
                    };
                    let frame = CloseFrame { code, reason: reason.into() };
                    // The other end may be gone as well.
                    let _ = socket.send(Message::Close(Some(frame))).await;
                    return;
                }
            };
            if let Err(Closed) = done {
                // Sends what answers a close, if the other end is still there.
                let _ = socket.close().await;
                return;
            }
        }
    }

    async fn received(&mut self, message: Message, socket: &mut WebSocket) -> Result<(), Closed> {
        let text = match &message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return Err(Closed),
        };
        let (request, request_id) = match json::parse(text) {
            Ok(value) => {
                let request_id = value.get("request_id").and_then(Value::as_str).map(str::to_owned);
                (parse::socket_request(value).map_err(Failure::faulty), request_id)
            }
            Err(error) => (Err(Failure::fault("", format!("is not JSON: {error}"))), None),
        };
        let answer = match request {
            Ok(SocketRequest::Subscribe(_)) if text.len() > QUESTION_BYTES_MAX => {
                refused(Failure::fault("filters", params::question_too_large()), request_id)
            }
            Ok(SocketRequest::Subscribe(wanted)) => match self.subscribe(wanted, request_id.clone()) {
                // Answered when it has begun.
                Ok(()) => return Ok(()),
                Err(failure) => refused(failure, request_id),
            },
            Ok(SocketRequest::Unsubscribe { subscription_id }) => match self.subscriptions.remove(&subscription_id) {
                Some(token) => {
                    token.cancel();
                    WsResponse::Unsubscribed { subscription_id, request_id }
                }
                None => {
                    let detail = format!("this connection has no subscription {subscription_id}");
                    refused(Failure::new(StatusCode::NOT_FOUND, "subscription_not_found", detail), request_id)
                }
            },
            Ok(SocketRequest::Ping) => WsResponse::Pong,
            Err(failure) => refused(failure, request_id),
        };
        Ok(socket.send(message_of(&answer)).await?)
    }

    fn subscribe(&mut self, mut wanted: Subscribe, request_id: Option<String>) -> Result<(), Failure> {
        if self.subscriptions.len() >= WS_SUBSCRIPTIONS_MAX {
            let detail = format!("a connection has at most {WS_SUBSCRIPTIONS_MAX} subscriptions");
            return Err(Failure::too_many_watchers(detail));
        }
        let place = self.native.places.take(&self.tenant)?;
        self.last_id += 1;
        let id = self.last_id;
        let token = self.leash.stop().child_token();
        self.subscriptions.insert(id, token.clone());
        wanted.filters.iter_mut().for_each(|filter| filter.viewer = self.viewer.clone());
        let question = Question { tenant: self.tenant.clone(), filters: wanted.filters.into() };
        let native = self.native.clone();
        self.waiting.push(Box::pin(async move {
            let begun = tokio::select! {
                begun = begin(&native, question, wanted.from_revision, wanted.epoch, place, token.clone()) => begun,
                () = token.cancelled() => Err(Failure::not_found()),
            };
            let begun = begun.map(|watcher| Box::new(watcher.federated(wanted.federated)));
            Came::Begun { id, request_id, begun }
        }));
        Ok(())
    }

    async fn came(&mut self, came: Came, socket: &mut WebSocket) -> Result<(), Closed> {
        match came {
            // It was ended meanwhile: what came of it is nobody's business any more.
            Came::Begun { id, .. } | Came::Told { id, .. } if !self.subscriptions.contains_key(&id) => Ok(()),
            Came::Begun { id: subscription_id, request_id, begun: Ok(watcher) } => {
                let (epoch, revision) = (watcher.epoch().0, watcher.begins().0);
                let answer = WsResponse::Subscribed { subscription_id, epoch, revision, request_id };
                self.waiting.push(Box::pin(told(subscription_id, watcher)));
                Ok(socket.send(message_of(&answer)).await?)
            }
            Came::Begun { id, request_id, begun: Err(failure) } => {
                self.subscriptions.remove(&id);
                Ok(socket.send(message_of(&refused(failure, request_id))).await?)
            }
            // It ended with the node.
            Came::Told { told: None, .. } => Ok(()),
            Came::Told { id, watcher, told: Some(news) } => {
                let is_over = matches!(news, Told::Resync(_));
                let messages = self.messages(id, news);
                if is_over {
                    self.subscriptions.remove(&id);
                } else {
                    self.waiting.push(Box::pin(told(id, watcher)));
                }
                for message in messages {
                    socket.feed(message).await?;
                }
                Ok(socket.flush().await?)
            }
        }
    }

    fn messages(&self, subscription_id: u64, told: Told) -> Vec<Message> {
        let one = |response: WsResponse| vec![message_of(&response)];
        match told {
            Told::Snapshot { found, revision, moment } => {
                let mut rendering = self.native.renderer.at(moment);
                let mut message = |present| {
                    let mut text = begun("snapshot", subscription_id);
                    watch::snapshot_members(&mut text, &mut rendering, present, revision);
                    text_message(text)
                };
                found.iter().map(&mut message).collect()
            }
            Told::Changes(commits) => {
                let message = |frame: Bytes| {
                    let mut text = begun("service_update", subscription_id);
                    text.extend_from_slice(watch::change_members(&frame));
                    text_message(text)
                };
                commits.iter().flat_map(watch::Changes::each).map(message).collect()
            }
            Told::Synced(Revision(revision)) => one(WsResponse::Synced { subscription_id, revision }),
            Told::Bookmark(Revision(revision)) => one(WsResponse::Bookmark { subscription_id, revision }),
            Told::Resync(Revision(revision)) => one(WsResponse::Resync { subscription_id, revision }),
        }
    }
}

async fn begin(
    native: &Native,
    question: Question,
    from_revision: Option<u64>,
    epoch: Option<u64>,
    place: Place,
    stop: CancellationToken,
) -> Result<Watcher, Failure> {
    let resume =
        from_revision.map(|revision| ResumePoint { epoch: epoch.unwrap_or_else(|| native.epoch().0), revision });
    let begin = native.begin(resume)?;
    if let Begin::After(revision) = begin {
        let consistency = Consistency { min_revision: Some(revision), ..Consistency::default() };
        native.replica.barrier(consistency, Instant::now() + BEGIN_TIMEOUT).await?;
    }
    Ok(native.hub.watch(question, begin, place, stop)?)
}

fn refused(failure: Failure, request_id: Option<String>) -> WsResponse {
    let problem = Box::new(failure.problem(request_id.as_deref().unwrap_or_default(), false));
    WsResponse::Error { problem, request_id }
}

fn message_of(response: &WsResponse) -> Message {
    text_message(serde_json::to_vec(response).expect("a response has no failing serializer"))
}

/// The beginning of a message whose rest is rendered elsewhere.
fn begun(message_type: &str, subscription_id: u64) -> Vec<u8> {
    format!(r#"{{"type":"{message_type}","subscription_id":{subscription_id},"#).into_bytes()
}

fn text_message(text: Vec<u8>) -> Message {
    Message::Text(String::from_utf8(text).expect("JSON is UTF-8").into())
}
