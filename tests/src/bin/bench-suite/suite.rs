//! The order of it: repetitions, scenarios, and the two targets in turns.

use std::any::Any;
use std::cell::Cell;
use std::fs;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use futures_util::FutureExt;
use rollcall_bench::chain;
use rollcall_tests::etcd::etcd_binary;
use tokio::signal::unix::{SignalKind, signal};

use crate::machine::Machine;
use crate::measure::{Measured, perform, start_empty};
use crate::plan::{Action, Scale, Scenario, Step, scenarios};
use crate::rows::rows;
use crate::running::Running;
use crate::store::{Outcome, Record, Run, Store, Target};
use crate::{Args, document, plot, tell};

/// Why the suite cannot do its work. What fails while it measures is shown in the document instead.
#[derive(Debug, thiserror::Error)]
enum SuiteError {
    #[error("--only: there is no `{name}`; see --list")]
    UnknownRow { name: String },
    #[error("{path} is in memory, where a flush costs nothing; name a directory on a disk by --data")]
    InMemory { path: PathBuf },
    #[error("{action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("interrupted; what was measured is kept, and --render makes the document of it")]
    Interrupted,
    #[error("{count} measurements failed; the document says which")]
    Failed { count: usize },
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SuiteError {
    move |source| SuiteError::File { action, path: path.to_owned(), source }
}

struct Suite {
    args: Args,
    scale: Scale,
    store: Store,
    data: PathBuf,
    etcd: Option<PathBuf>,
    commit: String,
}

pub(crate) async fn run(args: Args) -> crate::Outcome<()> {
    let scale = match args.quick {
        true => Scale::quick(),
        false => Scale::whole(args.duration, args.warm_up, args.repetitions),
    };
    let all = scenarios(&scale);
    if args.list {
        list(&all);
        return Ok(());
    }
    let unknown =
        args.only.iter().find(|name| !all.iter().any(|scenario| scenario.is_named(std::slice::from_ref(name))));
    if let Some(name) = unknown {
        return Err(SuiteError::UnknownRow { name: name.clone() }.into());
    }

    let begun_at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let work = work_directory();
    let output = args.output.clone().unwrap_or_else(|| work.join(begun_at.replace(':', "")));
    let store = Store::open(&output)?;
    if args.render {
        return write_document(&args, &store);
    }

    let data = args.data.clone().unwrap_or_else(|| work.join("data"));
    fs::create_dir_all(&data).map_err(file("make the directory", &data))?;
    let machine = Machine::look(&data).map_err(file("measure the disk of", &data))?;
    if machine.disk.is_memory() && !args.quick {
        return Err(SuiteError::InMemory { path: data }.into());
    }
    let etcd = etcd_binary().filter(|_| !args.without_etcd);
    let etcd_version = etcd.as_deref().map(version_of_etcd);
    // What was compared before is still in the document if only a part is measured now.
    let compared_before = || store.run().ok().filter(|_| !args.only.is_empty())?.etcd_version;
    match &etcd_version {
        Some(version) => tell(&format!("etcd {version} is measured beside.")),
        None => tell("There is no etcd, so nothing is compared."),
    }
    let run = Run {
        begun_at,
        command: own_command(),
        machine,
        etcd_version: etcd_version.or_else(compared_before),
        quick: args.quick,
    };
    store.save_run(&run)?;
    let suite = Suite { scale, store, data, etcd, commit: commit(), args };
    let failed = tokio::select! {
        failed = suite.measure(&all) => failed?,
        // Clusters are ended and their data removed on the way out.
        () = asked_to_end() => return Err(SuiteError::Interrupted.into()),
    };
    write_document(&suite.args, &suite.store)?;
    if failed > 0 { Err(SuiteError::Failed { count: failed }.into()) } else { Ok(()) }
}

impl Suite {
    /// Measures everything that is wanted; answers how much of it failed.
    async fn measure(&self, all: &[Scenario]) -> crate::Outcome<usize> {
        let named = |scenario: &&Scenario| self.args.only.is_empty() || scenario.is_named(&self.args.only);
        let wanted = |scenario: &&Scenario| named(scenario) && (!scenario.long || self.args.long);
        let chosen: Vec<&Scenario> = all.iter().filter(wanted).collect();
        for step in chosen.iter().flat_map(|scenario| &scenario.steps) {
            self.store.forget(&step.key)?;
        }
        let repetitions = if self.args.quick { 1 } else { self.args.repetitions };
        let mut failed = 0;
        for repetition in 1..=repetitions {
            for scenario in chosen.iter().filter(|scenario| repetition == 1 || !scenario.long) {
                let mut targets = vec![Target::Rollcall];
                if scenario.compares() && self.etcd.is_some() {
                    targets.push(Target::Etcd);
                }
                // Nobody is always the first after the other.
                if repetition % 2 == 0 {
                    targets.reverse();
                }
                for target in targets {
                    failed += self.scenario(scenario, target, repetition).await?;
                }
            }
        }
        Ok(failed)
    }

    /// One scenario on a fresh cluster. Harness and clusters say by panics what they did not get; here that is a
    /// measurement that failed, and the next one goes on.
    async fn scenario(&self, scenario: &Scenario, target: Target, repetition: u32) -> crate::Outcome<usize> {
        let steps: Vec<&Step> =
            scenario.steps.iter().filter(|step| target == Target::Rollcall || step.etcd).collect();
        let (finished, failed) = (Cell::new(0), Cell::new(0));
        let work = self.steps(scenario, &steps, target, repetition, &finished, &failed);
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(result) => result?,
            Err(panic) => {
                let why = panic_text(&*panic);
                // What panicked behind the last step was the cluster's end, which is a fault of the whole.
                for step in &steps[finished.get().min(steps.len() - 1)..] {
                    self.fail(step, target, repetition, &why)?;
                    failed.set(failed.get() + 1);
                }
            }
        }
        Ok(failed.get())
    }

    async fn steps(
        &self,
        scenario: &Scenario,
        steps: &[&Step],
        target: Target,
        repetition: u32,
        finished: &Cell<usize>,
        failed: &Cell<usize>,
    ) -> crate::Outcome<()> {
        let start = |nodes| {
            Running::start(target, self.etcd.as_deref(), &self.data, nodes, &scenario.settings, scenario.guard)
        };
        let mut running = start(scenario.nodes).await;
        for step in steps {
            let begun = Instant::now();
            let result = match step.action {
                Action::StartEmpty => {
                    let (node, measured) = start_empty(start(1)).await;
                    drop(node);
                    Ok(vec![measured])
                }
                _ => perform(&mut running, step, &self.scale).await,
            };
            match result {
                Ok(parts) => {
                    for (part, measured) in (1..).zip(parts) {
                        self.keep(step, target, repetition, part, measured)?;
                    }
                    self.show(step, target, repetition, begun)?;
                }
                Err(error) => {
                    self.fail(step, target, repetition, &chain(&*error))?;
                    failed.set(failed.get() + 1);
                }
            }
            finished.set(finished.get() + 1);
        }
        Ok(())
    }

    fn record(
        &self,
        step: &Step,
        target: Target,
        repetition: u32,
        part: u32,
        command: String,
        outcome: Outcome,
    ) -> Record {
        let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        Record { step: step.key.clone(), target, repetition, part, commit: self.commit.clone(), at, command, outcome }
    }

    fn keep(
        &self,
        step: &Step,
        target: Target,
        repetition: u32,
        part: u32,
        measured: Measured,
    ) -> crate::Outcome<()> {
        let outcome = Outcome::Report(Box::new(measured.report));
        Ok(self.store.save(&self.record(step, target, repetition, part, measured.command, outcome))?)
    }

    fn fail(&self, step: &Step, target: Target, repetition: u32, why: &str) -> crate::Outcome<()> {
        tell(&format!("{repetition}: {} at {} FAILED: {why}", step.key, target.word()));
        let outcome = Outcome::Failure(why.to_owned());
        Ok(self.store.save(&self.record(step, target, repetition, 1, String::new(), outcome))?)
    }

    /// The figures of the repetition in one line.
    fn show(&self, step: &Step, target: Target, repetition: u32, begun: Instant) -> crate::Outcome<()> {
        let records = self.store.records()?;
        let mine: Vec<Record> = records.into_iter().filter(|record| record.repetition == repetition).collect();
        let shown = |row: &crate::rows::Row| Some(row.unit.show(row.cell(&mine, target).summary?.median));
        let figures: Vec<_> = rows().iter().filter(|row| row.step == step.key).filter_map(shown).collect();
        let (key, figures, seconds) = (&step.key, figures.join(", "), begun.elapsed().as_secs_f64());
        tell(&format!("{repetition}: {key} at {}: {figures} ({seconds:.0} s)", target.word()));
        Ok(())
    }
}

/// Ctrl-C or SIGTERM.
async fn asked_to_end() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

fn write_document(args: &Args, store: &Store) -> crate::Outcome<()> {
    let beside = store.directory().join("BENCHMARKS.md");
    let partial = args.quick || !args.only.is_empty();
    let path = match &args.document {
        Some(path) => path.clone(),
        None if partial => beside,
        None => PathBuf::from("docs/BENCHMARKS.md"),
    };
    let (run, records, rows) = (store.run()?, store.records()?, rows());
    let plot_path = path.with_file_name("benchmarks.svg");
    let measured = document::render(&run, &rows, &records, &named(store.directory()), "benchmarks.svg");
    let before = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => document::FRAME.to_owned(),
        before => before.map_err(file("read", &path))?,
    };
    let after = document::replace(&before, &measured)?;
    fs::write(&path, after).map_err(file("write", &path))?;
    fs::write(&plot_path, plot::render(&rows, &records)).map_err(file("write", &plot_path))?;
    tell(&format!("The raw reports are in {}.", store.directory().display()));
    tell(&format!("The figures are in {} and {}.", path.display(), plot_path.display()));
    Ok(())
}

fn list(all: &[Scenario]) {
    for scenario in all {
        let steps: Vec<_> = scenario.steps.iter().map(|step| step.key.as_str()).collect();
        tell(&format!("{}{}: {}", scenario.key, if scenario.long { " (--long)" } else { "" }, steps.join(", ")));
    }
}

/// Below the target directory that this program was built in.
fn work_directory() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).unwrap_or(Path::new(".")).join("bench")
}

/// A path as it can be shown to others.
fn named(path: &Path) -> String {
    match path.strip_prefix(work_directory()) {
        Ok(rest) => format!("$CARGO_TARGET_DIR/bench/{}", rest.display()),
        Err(_) => path.display().to_string(),
    }
}

fn own_command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("./scripts/bench {}", arguments.join(" ")).trim_end().to_owned()
}

fn version_of_etcd(binary: &Path) -> String {
    let output = Command::new(binary).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    version.unwrap_or("of an unknown version").to_owned()
}

/// The commit that is checked out here, and whether there is more than it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "--short=12", "HEAD"]), git(&["status", "--porcelain", "--untracked-files=no"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit} with changes"),
        (None, _) => "unknown".to_owned(),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}
