//! Registrations to be sent, rendered beforehand but for their ids.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value, json};

/// What the instances of one service have in common.
#[derive(Clone, Debug)]
pub struct Shape {
    pub name: String,
    pub tags: Vec<String>,
    pub capabilities: Vec<String>,
    /// Labels: what selectors find.
    pub labels: Vec<(&'static str, String)>,
    /// Of the metadata's JSON, filled up to this; the labels may be longer.
    pub metadata_bytes: usize,
    pub ttl_ms: u64,
}

impl Shape {
    /// An agent as many are: five tags, three capabilities, four labels. `number` tells services apart.
    pub fn usual(name: String, number: u64, metadata_bytes: usize, ttl_ms: u64) -> Self {
        let word = |kind: &str, step: u64, of: u64| format!("{kind}-{}", (number * 7 + step * 13) % of);
        Self {
            name,
            tags: (0..5).map(|step| word("tag", step, 200)).collect(),
            capabilities: (0..3).map(|step| word("capability", step, 100)).collect(),
            labels: vec![
                ("env", ["prod", "staging", "test"][(number % 3) as usize].to_owned()),
                ("tier", ["front", "middle", "back"][(number / 3 % 3) as usize].to_owned()),
                ("team", format!("team-{}", number % 40)),
                ("build", format!("2026.{}", number % 12 + 1)),
            ],
            metadata_bytes,
            ttl_ms,
        }
    }

    /// The document from after its id and URL on.
    fn render(&self) -> Vec<u8> {
        let mut metadata: Map<String, Value> =
            self.labels.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into())).collect();
        metadata.insert("note".to_owned(), "".into());
        let missing = self.metadata_bytes.saturating_sub(Value::from(metadata.clone()).to_string().len());
        metadata.insert("note".to_owned(), filler(missing).into());
        let document = json!({
            "name": self.name, "type": "agent", "version": "1.4.2", "tags": self.tags,
            "capabilities": self.capabilities, "metadata": metadata, "ttl_ms": self.ttl_ms,
        });
        document.to_string().into_bytes()[1..].to_vec()
    }
}

/// Text as people write it, so that nothing compresses it away.
fn filler(bytes: usize) -> String {
    const WORDS: &[&str] =
        &["reads", "invoices", "and", "answers", "questions", "about", "them", "in", "many", "tongues"];
    let mut text = String::with_capacity(bytes + 16);
    let mut step = 0;
    while text.len() < bytes {
        text.push_str(WORDS[(step * 7 + step / 3) % WORDS.len()]);
        text.push(' ');
        step += 1;
    }
    text.truncate(bytes);
    text
}

/// Documents by number. Those that are as many apart as there are shapes have the same shape.
#[derive(Debug)]
pub struct Documents {
    prefix: String,
    rests: Vec<Vec<u8>>,
    /// From this number on, and of this shape instead.
    spare: Option<(u64, Vec<u8>)>,
}

impl Documents {
    /// # Panics
    /// Without a shape.
    pub fn new(prefix: String, shapes: impl IntoIterator<Item = Shape>) -> Self {
        let rests: Vec<_> = shapes.into_iter().map(|shape| shape.render()).collect();
        assert!(!rests.is_empty(), "documents have a shape");
        Self { prefix, rests, spare: None }
    }

    pub fn with_spare(self, from: u64, shape: &Shape) -> Self {
        Self { spare: Some((from, shape.render())), ..self }
    }

    /// What all ids begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn id(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    pub fn render(&self, number: u64) -> Bytes {
        self.render_at(number, "")
    }

    /// As [`Self::render`] does it, and of a version that differs from every other in its URL.
    pub fn render_version(&self, number: u64, version: u64) -> Bytes {
        self.render_at(number, &format!("/{version}"))
    }

    fn render_at(&self, number: u64, path: &str) -> Bytes {
        let rest = match &self.spare {
            Some((from, rest)) if number >= *from => rest,
            _ => &self.rests[(number % self.rests.len() as u64) as usize],
        };
        let id = self.id(number);
        let mut document = BytesMut::with_capacity(id.len() * 2 + 48 + path.len() + rest.len());
        for part in ["{\"id\":\"", &id, "\",\"url\":\"http://", &id, ".agents.test:8080", path, "\","] {
            document.put_slice(part.as_bytes());
        }
        document.put_slice(rest);
        document.freeze()
    }
}

#[cfg(test)]
mod tests {
    use rollcall_api::RegisterRequest;

    use super::*;

    #[test]
    fn a_document_is_a_registration_with_as_much_metadata_as_told() {
        let documents = Documents::new("a-".into(), (0..3).map(|n| Shape::usual(format!("s-{n}"), n, 300, 30_000)));
        for number in [0, 1, 7] {
            let registration: RegisterRequest = serde_json::from_slice(&documents.render(number)).expect("JSON");
            assert_eq!(registration.id, Some(format!("a-{number}")));
            assert_eq!(registration.name, format!("s-{}", number % 3));
            assert_eq!(registration.tags.map(|tags| tags.len()), Some(5));
            assert_eq!(registration.capabilities.map(|capabilities| capabilities.len()), Some(3));
            let metadata = Value::from(registration.metadata.expect("metadata"));
            assert_eq!(metadata.to_string().len(), 300);
        }
    }

    #[test]
    fn versions_of_a_document_differ_in_their_url_alone() {
        let documents = Documents::new("a-".into(), [Shape::usual("s".into(), 0, 300, 30_000)]);
        let read = |bytes: &[u8]| serde_json::from_slice::<RegisterRequest>(bytes).expect("JSON");
        let (plain, version) = (read(&documents.render(4)), read(&documents.render_version(4, 7)));
        assert_eq!((&*plain.url, &*version.url), ("http://a-4.agents.test:8080", "http://a-4.agents.test:8080/7"));
        assert_eq!(RegisterRequest { url: plain.url.clone(), ..version }, plain);
    }

    #[test]
    fn the_spare_shape_begins_where_told() {
        let shape = |name: &str| Shape::usual(name.into(), 0, 0, 1_000);
        let documents = Documents::new("a-".into(), [shape("s")]).with_spare(5, &shape("t"));
        let name = |number| serde_json::from_slice::<RegisterRequest>(&documents.render(number)).expect("JSON").name;
        assert_eq!([name(4), name(5)], ["s", "t"]);
    }
}
