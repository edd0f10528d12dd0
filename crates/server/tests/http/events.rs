//! A reader of Server-Sent Events.

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use crate::node::{Node, PATIENCE};

/// One event as it came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

impl Event {
    /// The kind of event, or of change, with the instance's id and the revision.
    pub(crate) fn brief(&self) -> String {
        let kind = self.data["update_type"].as_str().unwrap_or(&self.event);
        match self.data["service"]["id"].as_str() {
            Some(id) => format!("{kind} {id} r{}", self.data["revision"]),
            None => format!("{kind} r{}", self.data["revision"]),
        }
    }
}

/// A stream that is being read.
pub(crate) struct Events {
    response: Response,
    text: String,
}

impl Events {
    pub(crate) async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("the node answers");
        assert_eq!(response.status().as_u16(), 200, "{:?}", response.text().await);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    pub(crate) async fn of(node: &Node, query: &str) -> Self {
        Self::open(node.request(reqwest::Method::GET, &format!("/api/services/watch{query}"))).await
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.response.headers().get(name).map_or("", |value| value.to_str().expect("headers are text"))
    }

    /// The next event, or none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = event.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    lines.collect::<Vec<_>>().join("\n")
                };
                let data = serde_json::from_str(&field("data")).expect("data is JSON");
                let event = Event { event: field("event"), id: field("id"), data };
                self.text = rest.to_owned();
                return Some(event);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("an event in time");
            // A stream that is cut off in the middle ends as well.
            let chunk = chunk.ok().flatten()?;
            self.text.push_str(str::from_utf8(&chunk).expect("events are text"));
        }
    }

    /// The next events but bookmarks, in brief.
    pub(crate) async fn briefs(&mut self, count: usize) -> Vec<String> {
        let mut briefs = Vec::new();
        while briefs.len() < count {
            match self.next().await {
                Some(event) if event.event == "bookmark" => {}
                Some(event) => briefs.push(event.brief()),
                None => panic!("the stream ended after {briefs:?}"),
            }
        }
        briefs
    }
}
