//! The measured part of `docs/BENCHMARKS.md`.

use std::fmt::Write;

use crate::figures::{Summary, Unit, number_text};
use crate::rows::{Cell, Goal, Row};
use crate::store::{Outcome, Record, Run, Target};

const BEGIN: &str = "<!-- measured:begin -->";
const END: &str = "<!-- measured:end -->";

/// Around the measured part of a document that is not there yet.
pub(crate) const FRAME: &str = "# Benchmarks\n\n<!-- measured:begin -->\n<!-- measured:end -->\n";

/// How much of a failure is shown in the table.
const FAILURE_CHARS_MAX: usize = 120;

/// What is said of the figures beside the figures.
const NOTES: &str = "\
- Three nodes, the load generator and nothing else are on this one machine and share its cores; only loopback is \
between them. Both clusters keep every default of theirs, their disk flushes included; only the rows on checkpoints \
set Rollcall's `snapshot_entries`, to 100,000,000 and to 500. Sessions are spread over all \
three nodes unless it is said otherwise; each is a connection of its own with one request at a time.
- Rollcall and etcd take turns, never both at once; each measurement begins with a fresh cluster.
- A number is the median of the runs, the spread the least and the most of them. The ratio says how many times better \
Rollcall is than etcd; below 1× it is worse.
- With a given rate latency is counted from the moment the plan wanted a request, otherwise from when it was sent.
- A registration at etcd is a new lease and a new key on it, with the document that Rollcall would be given as value: \
two requests, one after the other, counted as one operation. A heartbeat is one renewal by a stream of the session's \
own. etcd does not replicate renewals: a follower hands them to the leader, which keeps them in memory alone. A lookup \
is one range over the keys of a service; etcd calls the local one serializable.
- Memory is the growth of a node's resident set divided by the number of registrations, at the node where it is most. With \
etcd that includes the pages of its database file that it has mapped.
- The log's bytes are the growth of a node's write-ahead files (`log/*.log`) in the measured window, averaged over the \
nodes, divided by the renewals acknowledged in it.
- A change that is watched replaces a registration by one with another URL, at any node; at etcd it is the put of a key \
that is there, on its lease. Each watcher has a connection of its own, all to one follower. A change is counted from when \
it was sent to when the event was read by the watcher, the last one where there are many. The processor time for each \
watcher and change includes that of the write.
- Idle watchers each watch a name that nobody has, all at one follower. What changes cost beside them is the processor \
time with both less that with the watchers alone, so that bookmarks are left aside. Memory is the growth of the node's \
resident set; the kernel's socket buffers are not in it.
- Expiry is counted from the last renewal sent plus the TTL, at watchers of all three nodes. Rollcall is sent all \
renewals in one request; etcd's are sent one by one, each with a deadline of its own.
- A restart is measured from the start of the process to the first answer that counts every registration.
";

/// Why a document cannot take the measured part.
#[derive(Debug, thiserror::Error)]
#[error("the document must have `{BEGIN}` and after it `{END}`, each once")]
pub(crate) struct FrameError;

/// Replaces what stands between the marks; everything else stays as it is.
pub(crate) fn replace(document: &str, measured: &str) -> Result<String, FrameError> {
    let (before, rest) = document.split_once(BEGIN).ok_or(FrameError)?;
    let (old, after) = rest.split_once(END).ok_or(FrameError)?;
    if [before, old, after].iter().any(|part| part.contains(BEGIN) || part.contains(END)) {
        return Err(FrameError);
    }
    Ok(format!("{before}{BEGIN}\n{measured}{END}{after}"))
}

/// The measured part. `raw` is where the raw reports are, `plot` the picture's name.
pub(crate) fn render(run: &Run, rows: &[Row], records: &[Record], raw: &str, plot: &str) -> String {
    let mut text = String::new();
    if run.quick {
        text.push_str("**A quick run: everything was cut short, and the figures mean nothing.**\n\n");
    }
    // A string takes whatever is written to it.
    let _ = write!(text, "{}\n![Rollcall against etcd](file)\n\n", setting(run, records));
    let mut text = text.replace("(file)", &format!("({plot})"));
    table(&mut text, run, rows, records);
    let _ = write!(text, "\n{NOTES}");
    failures(&mut text, rows, records);
    commands(&mut text, run, rows, records);
    let _ = write!(text, "\nEvery number comes from the JSON reports of this run, kept in `{raw}`.\n");
    text
}

fn setting(run: &Run, records: &[Record]) -> String {
    let mut commits: Vec<&str> = Vec::new();
    for record in records {
        if !commits.contains(&record.commit.as_str()) {
            commits.push(&record.commit);
        }
    }
    let (machine, disk) = (&run.machine, &run.machine.disk);
    let gib = machine.memory_bytes as f64 / f64::from(1 << 30);
    let etcd = match &run.etcd_version {
        Some(version) => format!("etcd {version}"),
        None => "etcd was not to be had, so nothing is compared".to_owned(),
    };
    let day = run.begun_at.split('T').next().unwrap_or_default();
    format!(
        "| | |\n|---|---|\n\
         | measured | {day}, commit {}, by `{}` |\n\
         | beside it | {etcd} |\n\
         | processor | {}, {} cores |\n\
         | memory | {gib:.1} GiB |\n\
         | kernel | {} |\n\
         | disk | {}, {}; appending 4 KiB and flushing them takes {} µs (p50), {} µs (p99) |\n",
        commits.join(", "),
        run.command,
        cell_text(&machine.cpu),
        machine.cores,
        machine.kernel,
        disk.device,
        disk.file_system,
        number_text(disk.fdatasync_us_p50 as f64),
        number_text(disk.fdatasync_us_p99 as f64),
    )
}

fn table(text: &mut String, run: &Run, rows: &[Row], records: &[Record]) {
    text.push_str("| | Rollcall | spread | goal | | etcd | spread | ratio |\n");
    text.push_str("|---|--:|--:|--:|---|--:|--:|--:|\n");
    for row in rows {
        let (own, other) = (row.cell(records, Target::Rollcall), row.cell(records, Target::Etcd));
        let faulty = own.errors > 0 || !own.failures.is_empty();
        let verdict = match own.summary.and_then(|summary| row.goal.is_met(summary.median)) {
            Some(_) if faulty => "with failures",
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        let ratio = own.summary.zip(other.summary).and_then(|(own, other)| row.goal.ratio(own.median, other.median));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {verdict} | {} | {} | {} |",
            row.title,
            median(row, &own)
                .unwrap_or_else(|| if row.long { "only with `--long`" } else { "not measured" }.to_owned()),
            spread(row, own.summary),
            goal(row),
            median(row, &other).unwrap_or_default(),
            spread(row, other.summary),
            ratio.map(|ratio| Unit::Times.show(ratio)).unwrap_or_default(),
        );
    }
    if run.etcd_version.is_none() {
        text.push_str("\nWithout etcd the columns at the right stay empty.\n");
    }
}

/// None where nothing was tried.
fn median(row: &Row, cell: &Cell) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(cell.summary.map(|summary| row.unit.show(summary.median)));
    if cell.errors > 0 {
        parts.push(format!("(operations that failed: {})", cell.errors));
    }
    match (cell.failures.as_slice(), cell.summary) {
        ([], _) => {}
        ([failure, ..], None) => parts.push(format!("failed: {}", cell_text(failure))),
        (failures, Some(_)) => parts.push(format!("(runs that failed: {})", failures.len())),
    }
    (!parts.is_empty()).then(|| parts.join(" "))
}

fn spread(row: &Row, summary: Option<Summary>) -> String {
    match summary {
        None => String::new(),
        Some(summary) if summary.count == 1 => "one run".to_owned(),
        Some(summary) => {
            format!("{} – {}", number_text(summary.min), row.unit.show(summary.max))
        }
    }
}

fn goal(row: &Row) -> String {
    match row.goal {
        Goal::AtLeast(least) => format!("≥ {}", row.unit.show(least)),
        Goal::AtMost(0.0) => "0".to_owned(),
        Goal::AtMost(most) => format!("≤ {}", row.unit.show(most)),
        Goal::More | Goal::Less => String::new(),
    }
}

/// Text that does not break a table.
fn cell_text(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().replace('|', "\\|");
    let short: String = line.chars().take(FAILURE_CHARS_MAX).collect();
    if short.len() < line.len() { short + "…" } else { short }
}

fn failures(text: &mut String, rows: &[Row], records: &[Record]) {
    let mut failed: Vec<String> = Vec::new();
    for record in records.iter().filter(|record| rows.iter().any(|row| row.step == record.step)) {
        if let Outcome::Failure(why) = &record.outcome {
            let Record { step, target, repetition, .. } = record;
            failed.push(format!("- {step} at {}, repetition {repetition}: {}", target.word(), cell_text(why)));
        }
    }
    if !failed.is_empty() {
        let _ = write!(text, "\nWhat failed:\n\n{}\n", failed.join("\n"));
    }
}

fn commands(text: &mut String, run: &Run, rows: &[Row], records: &[Record]) {
    let _ = write!(text, "\n<details><summary>Commands</summary>\n\n    {}\n\n", run.command);
    let mut steps: Vec<&str> = Vec::new();
    for row in rows {
        if !steps.contains(&row.step.as_str()) {
            steps.push(&row.step);
        }
    }
    for step in steps {
        for target in [Target::Rollcall, Target::Etcd] {
            let done =
                |record: &&Record| record.step == step && record.target == target && !record.command.is_empty();
            if let Some(record) = records.iter().find(done) {
                let _ = writeln!(text, "    # {step} at {}\n    {}", target.word(), record.command);
            }
        }
    }
    text.push_str("\n</details>\n");
}
