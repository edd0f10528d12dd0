//! `rollcall audit`: reads what a node wrote down of who changed what.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use jiff::Timestamp;
use serde_json::Value;

use crate::args::{Audit, Global};
use crate::failure::Failure;
use crate::output::{self, Format, printable};

pub(super) fn run(global: &Global, args: &Audit) -> Result<(), Failure> {
    let failed = |source| Failure::ReadFile { path: args.file.clone(), source };
    let reader: Box<dyn BufRead> = match args.file.as_os_str().as_encoded_bytes() {
        b"-" => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(&args.file).map_err(failed)?)),
    };
    for (n, line) in reader.split(b'\n').enumerate() {
        let line = line.map_err(failed)?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let Some(record) = Record::parse(&line) else {
            // As when the machine stopped in the middle of one: what comes after is none the worse.
            output::note(&format!("line {} is no record of a change; it is passed over", n + 1));
            continue;
        };
        if !record.fits(global.tenant.as_deref(), args) {
            continue;
        }
        let text = match global.output {
            Format::Json => format!("{}\n", record.value),
            Format::Table => record.row(),
        };
        if !output::print_while_read(&text)? {
            break;
        }
    }
    Ok(())
}

/// One change, as it was written down.
struct Record {
    value: Value,
    at: Timestamp,
}

impl Record {
    fn parse(line: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(line).ok()?;
        let at = value.get("timestamp")?.as_str()?.parse().ok()?;
        value.get("action")?.as_str()?;
        Some(Self { value, at })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.value.get(name).and_then(Value::as_str)
    }

    fn fits(&self, tenant: Option<&str>, args: &Audit) -> bool {
        let is = |name: &str, wanted: Option<&str>| wanted.is_none_or(|wanted| self.text(name) == Some(wanted));
        let action = self.text("action").unwrap_or_default();
        let is_wanted = |wanted: &String| {
            action.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        is("tenant", tenant)
            && is("id", args.id.as_deref())
            && is("principal", args.principal.as_deref())
            && (args.actions.is_empty() || args.actions.iter().any(is_wanted))
            && args.since.is_none_or(|since| self.at >= since)
    }

    /// A line for people. Each is told as it comes, so that no column can be as wide as its widest cell.
    fn row(&self) -> String {
        let text = |name: &str| printable(self.text(name).filter(|text| !text.is_empty()).unwrap_or("-"));
        let result = match self.value.get("revision") {
            Some(revision) => format!("revision {revision}"),
            None => text("result"),
        };
        let (time, action, tenant, id) = (text("timestamp"), text("action"), text("tenant"), text("id"));
        let (principal, request) = (text("principal"), text("request_id"));
        format!("{time}  {action:<14}  {tenant}  {id}  by {principal}  {result}  request {request}\n")
    }
}
