//! A watcher as a client of its own making would be: it reads Server-Sent Events and goes on at another node.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;

use crate::api::Api;

/// A bookmark comes every 10 s, so that a stream that is silent for longer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    pub event: String,
    /// Empty if the event has none.
    pub id: String,
    pub data: Value,
}

impl Event {
    /// # Panics
    /// When the event names none.
    pub fn revision(&self) -> u64 {
        self.data["revision"].as_u64().expect("every event names a revision")
    }
}

/// A stream that is being read.
#[derive(Debug)]
pub struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// Watches with a query such as `?name=web`, after the event `last_id` if it is not empty.
    ///
    /// # Errors
    /// The status and problem of a refusal; 0 if nobody answered.
    pub async fn open(api: &Api, query: &str, last_id: &str) -> Result<Self, (u16, Value)> {
        let response = api.watch(query, last_id).await.map_err(|error| (0, error.to_string().into()))?;
        let status = response.status().as_u16();
        match status {
            200 => Ok(Self { response, text: String::new() }),
            _ => Err((status, response.json().await.unwrap_or_default())),
        }
    }

    /// The next event; none when the stream ended, broke or fell silent.
    ///
    /// # Panics
    /// When what comes is no event.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                let data = serde_json::from_str(field("data: ")).expect("data is JSON");
                let event = Event { event: field("event: ").to_owned(), id: field("id: ").to_owned(), data };
                self.text = rest.to_owned();
                return Some(event);
            }
            let chunk = tokio::time::timeout(SILENCE_MAX, self.response.chunk()).await.ok()?.ok()??;
            self.text.push_str(str::from_utf8(&chunk).expect("events are text"));
        }
    }
}
