//! `verb [subject] key=value …`, taken apart. Every argument must be taken by somebody, so that a misspelt one is told.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use rollcall_registry::visibility::ALLOWED_REQUESTERS;
use rollcall_registry::{
    Filter, InstanceId, Metadata, MetadataValue, PrincipalId, Revision, TenantId, VersionRange, Viewer,
};

pub(crate) struct Arguments {
    pub(crate) verb: String,
    subject: Option<String>,
    values: BTreeMap<String, String>,
}

impl Arguments {
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let mut words = split(line)?.into_iter();
        let verb = words.next().ok_or("a command is missing")?;
        let (mut subject, mut values) = (None, BTreeMap::new());
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => {
                    if values.insert(key.to_owned(), value.to_owned()).is_some() {
                        return Err(format!("`{key}` is given twice"));
                    }
                }
                None if subject.is_none() => subject = Some(word),
                None => return Err(format!("`{word}`: one subject is enough")),
            }
        }
        Ok(Self { verb, subject, values })
    }

    pub(crate) fn finish(self) -> Result<(), String> {
        match (self.subject, self.values.into_keys().next()) {
            (None, None) => Ok(()),
            (Some(extra), _) | (None, Some(extra)) => Err(format!("`{extra}` means nothing here")),
        }
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<String> {
        self.values.remove(key)
    }

    pub(crate) fn subject<T: FromStr<Err: Display>>(&mut self) -> Result<T, String> {
        let subject = self.subject.take().ok_or("a subject is missing")?;
        subject.parse().map_err(|e| format!("`{subject}`: {e}"))
    }

    pub(crate) fn word<T: FromStr<Err: Display>>(&mut self, key: &str) -> Result<Option<T>, String> {
        self.take(key).map(|text| text.parse().map_err(|e| format!("{key}: {e}"))).transpose()
    }

    pub(crate) fn number<T: FromStr<Err: Display>>(&mut self, key: &str) -> Result<Option<T>, String> {
        self.word(key)
    }

    /// `r7`.
    pub(crate) fn revision(&mut self, key: &str) -> Result<Option<Revision>, String> {
        let Some(text) = self.take(key) else { return Ok(None) };
        let number = text.strip_prefix('r').and_then(|n| n.parse().ok());
        number.map(|n| Some(Revision(n))).ok_or_else(|| format!("{key}: `{text}` is no revision"))
    }

    pub(crate) fn list(&mut self, key: &str) -> Vec<String> {
        self.take(key).map_or_else(Vec::new, |text| text.split(',').map(str::to_owned).collect())
    }

    pub(crate) fn texts(&mut self, key: &str) -> Vec<Box<str>> {
        self.list(key).into_iter().map(String::into_boxed_str).collect()
    }

    /// Whether `KEY=yes` is given.
    pub(crate) fn flag(&mut self, key: &str) -> bool {
        self.take(key).is_some_and(|text| text == "yes")
    }

    pub(crate) fn words<T: FromStr<Err: Display>>(&mut self, key: &str) -> Result<Vec<T>, String> {
        self.list(key).iter().map(|text| text.parse().map_err(|e| format!("{key}: {e}"))).collect()
    }

    pub(crate) fn tenant(&mut self) -> Result<TenantId, String> {
        TenantId::parse(self.take("tenant").as_deref().unwrap_or("default")).map_err(|e| e.to_string())
    }

    pub(crate) fn id(&mut self) -> Result<InstanceId, String> {
        let subject: String = self.subject()?;
        InstanceId::parse(&subject).map_err(|e| e.to_string())
    }

    /// `meta.KEY=VALUE`; a value that begins like JSON is JSON, `meta.KEY=filler:N` is a text of N bytes. `allowed=A,B` names
    /// the allowed requesters.
    pub(crate) fn metadata(&mut self) -> Metadata {
        if let Some(allowed) = self.take("allowed") {
            let list = allowed.split(',').map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(",");
            self.values.insert(format!("meta.{ALLOWED_REQUESTERS}"), format!("[{list}]"));
        }
        let given = std::mem::take(&mut self.values).into_iter();
        let (metadata, others) = given.partition::<BTreeMap<_, _>, _>(|(key, _)| key.starts_with("meta."));
        self.values = others;
        let filled: BTreeMap<_, _> = metadata
            .into_iter()
            .map(|(key, text)| match text.strip_prefix("filler:").and_then(|n| n.parse().ok()) {
                Some(bytes) => (key, "x".repeat(bytes)),
                None => (key, text),
            })
            .collect();
        let value = |text| match str::starts_with(text, |c: char| matches!(c, '{' | '[') || c.is_ascii_digit()) {
            true => MetadataValue::Json(text),
            false => MetadataValue::Text(text),
        };
        Metadata::new(filled.iter().map(|(key, text)| (&key["meta.".len()..], value(text.as_str()))))
    }

    pub(crate) fn filter(&mut self) -> Result<Filter, String> {
        Ok(Filter {
            names: self.texts("name"),
            kinds: self.words("type")?,
            tags: self.texts("tags"),
            capabilities: self.texts("capabilities"),
            statuses: self.words("status")?,
            visibilities: self.words("visibility")?,
            owners: self.texts("owner"),
            protocols: self.words("protocol")?,
            versions: self
                .take("version")
                .map_or_else(Vec::new, |text| text.split(" or ").map(str::to_owned).collect())
                .iter()
                .map(|text| VersionRange::parse(text).map_err(|e| e.to_string()))
                .collect::<Result<_, _>>()?,
            consumed_events: self.texts("consumes"),
            produced_events: self.texts("produces"),
            regions: self.texts("region"),
            zones: self.texts("zone"),
            selector: self.word("selector")?.unwrap_or_default(),
            viewer: match self.take("viewer").as_deref() {
                None => Viewer::All,
                Some(name) => Viewer::One {
                    name: name.into(),
                    principal: self
                        .take("principal")
                        .map(|text| PrincipalId::parse(&text))
                        .transpose()
                        .map_err(|error| format!("principal: {error}"))?,
                },
            },
        })
    }
}

/// Words at white space outside quotes; the quotes go.
fn split(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    if quoted { Err("a quote is not closed".to_owned()) } else { Ok(words) }
}
