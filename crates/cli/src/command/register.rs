//! `rollcall register`: once, or for as long as a signal or a wrapped program lets it live.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use rollcall_client::{Client, Condition, KeepAlive};
use rustix::process::Signal;
use serde_json::{Map, Value};
use tokio::process::Command;

use super::{attempt, sign};
use crate::args::{Global, Register, RegistrationFields};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::process::{Signals, Tied, shell_code};

/// How long a wrapped program that lost its registration may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn run(global: &Global, args: Register) -> Result<u8, Failure> {
    let client = sign::client(global, &args.key)?;
    let document = document(args.file.as_deref(), args.fields)?;
    if !args.keep_alive {
        let condition = match args.if_revision {
            Some(revision) => Some(Condition::Revision(revision)),
            None => args.if_absent.then_some(Condition::Absent),
        };
        let answer = match condition {
            Some(condition) => client.register_if(&document, condition).await,
            None => client.register(&document).await,
        };
        let answer = attempt("register", answer)?;
        output::show(global.output, &answer, |answer| {
            registered(&answer.registration_id, answer.revision, answer.lease.id, answer.lease.ttl_ms)
        })?;
        return Ok(0);
    }
    let mut signals = Signals::new()?;
    match args.command.split_first() {
        None => keep(&client, &document, global.output, &mut signals).await.map(|()| 0),
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments);
            wrap(&client, &document, global.output, &mut signals, Tied::start(command)?).await
        }
    }
}

/// Registers and beats until a signal comes.
async fn keep(client: &Client, document: &Value, format: Format, signals: &mut Signals) -> Result<(), Failure> {
    let presence = tokio::select! {
        presence = start(client, document, format) => presence?,
        _ = signals.next() => return Ok(()),
    };
    let shutdown = async {
        signals.next().await;
    };
    presence.run(shutdown).await.map_err(|source| Failure::KeepAlive { source })
}

/// Registers while the program runs. It goes on running through any trouble of the cluster; only a registration that
/// was refused or lost to another holder ends it.
async fn wrap(
    client: &Client,
    document: &Value,
    format: Format,
    signals: &mut Signals,
    mut program: Tied,
) -> Result<u8, Failure> {
    let mut ended_early = false;
    let started = {
        let starting = start(client, document, format);
        tokio::pin!(starting);
        loop {
            tokio::select! {
                started = &mut starting => break started,
                // The registration may be made already, and then it has to be taken back.
                _ = program.wait(), if !ended_early => ended_early = true,
                signal = signals.next() => program.signal(signal),
            }
        }
    };
    let presence = match started {
        Ok(presence) => presence,
        Err(failure) if ended_early => {
            tracing::warn!(%failure, "the program ended before it was registered");
            return program.wait().await.map(shell_code);
        }
        Err(failure) => {
            program.stop(STOP_PATIENCE).await?;
            return Err(failure);
        }
    };

    let mut ended = None;
    let until_it_ends = async {
        ended = Some(until_end(&mut program, signals).await);
    };
    let kept = presence.run(until_it_ends).await;
    match ended {
        Some(status) => {
            if let Err(error) = kept {
                tracing::warn!(%error, "the program ended, but its registration was not taken back");
            }
            status.map(shell_code)
        }
        None => {
            program.stop(STOP_PATIENCE).await?;
            kept.map(|()| 0).map_err(|source| Failure::KeepAlive { source })
        }
    }
}

async fn until_end(program: &mut Tied, signals: &mut Signals) -> Result<std::process::ExitStatus, Failure> {
    loop {
        let signal: Signal = tokio::select! {
            status = program.wait() => return status,
            signal = signals.next() => signal,
        };
        program.signal(signal);
    }
}

async fn start(client: &Client, document: &Value, format: Format) -> Result<KeepAlive, Failure> {
    let presence = attempt("register", client.keep_alive(document).await)?;
    let lease = presence.lease();
    output::show(format, presence.service(), |service| {
        registered(&service.id, service.revision, lease.id, lease.ttl_ms)
    })?;
    Ok(presence)
}

fn registered(id: &str, revision: u64, lease: u64, ttl_ms: u32) -> String {
    format!("registered {} at revision {revision}, lease {lease} for {ttl_ms} ms\n", output::printable(id))
}

/// The registration as the node is to judge it: the file's fields, and over them those of the command line.
fn document(file: Option<&Path>, fields: RegistrationFields) -> Result<Value, Failure> {
    let mut document = match file {
        None => Map::new(),
        Some(path) => read_document(path)?,
    };
    let texts = [
        ("id", fields.id),
        ("name", fields.name),
        ("type", fields.kind),
        ("url", fields.url),
        ("version", fields.version),
        ("owner", fields.owner),
        ("visibility", fields.visibility),
    ];
    let numbers = [
        ("weight", fields.weight.map(u64::from)),
        ("ttl_ms", fields.ttl_ms),
        ("reap_after_ms", fields.reap_after_ms),
    ];
    let lists = [("tags", fields.tags), ("capabilities", fields.capabilities)];
    let texts = texts.into_iter().filter_map(|(key, text)| Some((key, Value::from(text?))));
    let numbers = numbers.into_iter().filter_map(|(key, number)| Some((key, Value::from(number?))));
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(key, list)| (key, Value::from(list)));
    for (key, value) in texts.chain(numbers).chain(lists) {
        document.insert(key.to_owned(), value);
    }
    if let Some(health_check) = fields.health_check {
        document.insert("health_check".to_owned(), Value::Object(health_check));
    }
    if !fields.metadata.is_empty() {
        let mut metadata = match document.remove("metadata") {
            Some(Value::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        metadata.extend(fields.metadata);
        document.insert("metadata".to_owned(), Value::Object(metadata));
    }
    Ok(Value::Object(document))
}

/// A registration as it stands in a file.
pub(super) fn read_document(path: &Path) -> Result<Map<String, Value>, Failure> {
    let text = read(path).map_err(|source| Failure::ReadRegistration { path: path.to_owned(), source })?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err(Failure::RegistrationForm { path: path.to_owned() }),
        Err(source) => Err(Failure::ParseRegistration { path: path.to_owned(), source }),
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("web.json");
        std::fs::write(
            &file,
            r#"{"name": "web", "url": "http://a", "weight": 3, "metadata": {"a": 1}, "unknown": true}"#,
        )
        .expect("a file");
        let fields = RegistrationFields {
            url: Some("http://b".into()),
            tags: vec!["x".into()],
            ttl_ms: Some(5_000),
            metadata: vec![("env".into(), "prod".into())],
            ..RegistrationFields::default()
        };
        let expected = json!({
            "name": "web", "url": "http://b", "weight": 3, "unknown": true,
            "ttl_ms": 5_000, "tags": ["x"], "metadata": {"a": 1, "env": "prod"},
        });
        assert_eq!(document(Some(&file), fields).expect("a document"), expected);
    }

    #[test]
    fn a_file_that_is_no_object_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("web.json");
        for (text, form) in [("[]", true), ("{", false)] {
            std::fs::write(&file, text).expect("a file");
            let failure = document(Some(&file), RegistrationFields::default()).expect_err(text);
            assert_eq!(matches!(failure, Failure::RegistrationForm { .. }), form, "{text}");
        }
    }
}
