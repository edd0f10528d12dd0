//! `rollcall cluster verify | restore | recover`: what is done to files and directories without a running node.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::Path;

use bytes::Bytes;
use futures_util::Stream;
use rollcall_server::offline::{
    self, BackupError, BackupSummary, Epoch, FEATURE_LEVEL, Member, Recovery, RecoveryPlan,
};
use serde::Serialize;

use crate::args::{Global, Recover, Restore};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::process;

/// What a backup holds.
#[derive(Serialize)]
pub(super) struct Summary {
    cluster_id: String,
    /// The node that it was taken from.
    node_id: u64,
    /// Of the program that took it.
    version: String,
    epoch: u64,
    revision: u64,
    cluster_time_ms: u64,
    applied_index: u64,
    instances: u64,
    bytes: u64,
    digest: String,
}

impl From<BackupSummary> for Summary {
    fn from(summary: BackupSummary) -> Self {
        let BackupSummary { cluster_id, node_id, version, moment, instances, bytes } = summary;
        Self {
            cluster_id: cluster_id.to_string(),
            node_id,
            version,
            epoch: moment.epoch.0,
            revision: moment.revision.0,
            cluster_time_ms: moment.cluster_time.0,
            applied_index: moment.applied_index,
            instances,
            bytes,
            digest: moment.digest.to_string(),
        }
    }
}

impl Summary {
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("cluster", format!("{}, epoch {}", self.cluster_id, self.epoch)),
            ("taken from", format!("node {}, version {}", self.node_id, self.version)),
            ("revision", format!("{}, log index {}", self.revision, self.applied_index)),
            ("cluster time", format!("{} ms", self.cluster_time_ms)),
            ("instances", self.instances.to_string()),
            ("size", output::bytes(self.bytes)),
            ("digest", self.digest.clone()),
        ]
    }

    pub(super) fn line(&self) -> String {
        let Self { cluster_id, epoch, revision, instances, digest, .. } = self;
        let size = output::bytes(self.bytes);
        format!(
            "cluster {cluster_id}, epoch {epoch}, revision {revision}, {instances} instances, {size}, digest {digest}"
        )
    }
}

/// Checks a backup while it comes and writes it into a file.
pub(super) async fn receive(
    stream: impl Stream<Item = io::Result<Bytes>> + Send,
    file: File,
    path: &Path,
) -> Result<(Summary, File), Failure> {
    let received = offline::receive_backup(stream, file).await;
    let failed = |source| Failure::Backup { action: format!("take the backup {}", path.display()), source };
    received.map(|(summary, file)| (summary.into(), file)).map_err(failed)
}

fn open(path: &Path) -> Result<BufReader<File>, Failure> {
    let file = File::open(path).map_err(|source| Failure::ReadFile { path: path.to_owned(), source })?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

pub(super) fn verify(global: &Global, path: &Path) -> Result<(), Failure> {
    let failed = |source: BackupError| Failure::Backup { action: format!("verify {}", path.display()), source };
    let summary = Summary::from(offline::verify(open(path)?).map_err(failed)?);
    output::show(global.output, &summary, |summary| {
        let mut fields = vec![("backup", format!("{}, whole and good", path.display()))];
        fields.extend(summary.fields());
        output::fields(&fields)
    })
}

/// A cluster that was made of a backup or of a directory.
#[derive(Serialize)]
struct Made {
    cluster_id: String,
    node_id: u64,
    epoch: u64,
}

#[derive(Serialize)]
struct Restored {
    #[serde(flatten)]
    made: Made,
    backup: Summary,
}

pub(super) fn restore(global: &Global, args: &Restore) -> Result<(), Failure> {
    process::keep_private();
    let Restore { file, data_dir, advertise, peer_advertise, epoch } = args;
    let member = Member { api_address: advertise.clone(), peer_address: peer_advertise.clone(), ..Member::default() };
    let restored = offline::restore(open(file)?, data_dir, member, epoch.map(Epoch))
        .map_err(|source| Failure::Restore { file: file.clone(), source: Box::new(source) })?;
    let made =
        Made { cluster_id: restored.cluster_id.to_string(), node_id: restored.node_id, epoch: restored.epoch.0 };
    let answer = Restored { made, backup: restored.backup.into() };
    output::show(global.output, &answer, |Restored { made, backup }| {
        let mut text = output::fields(&[
            ("restored", backup.line()),
            ("cluster", format!("{}, epoch {}", made.cluster_id, made.epoch)),
            ("node", format!("{}, its only member, clients {advertise}, peers {peer_advertise}", made.node_id)),
        ]);
        text += &next_steps(data_dir, peer_advertise);
        text
    })
}

fn next_steps(data_dir: &Path, peer_address: &str) -> String {
    output::fields(&[
        ("next", format!("rollcall serve --data-dir {} …", data_dir.display())),
        ("", format!("then further nodes, each with an empty directory: rollcall serve --join {peer_address} …")),
    ])
}

/// What a recovery does, or did.
#[derive(Serialize)]
struct Plan {
    /// The cluster that is lost.
    cluster_id: String,
    node_id: u64,
    epoch: u64,
    revision: u64,
    cluster_time_ms: u64,
    applied_index: u64,
    instances: u64,
    digest: String,
    unknown_entries: u64,
    unknown_commands: u64,
    dropped: Vec<DroppedMember>,
    /// What was made; null for a dry run.
    recovered: Option<Made>,
}

#[derive(Serialize)]
struct DroppedMember {
    node_id: u64,
    voter: bool,
    api_address: String,
    peer_address: String,
}

impl From<&RecoveryPlan> for Plan {
    fn from(plan: &RecoveryPlan) -> Self {
        let dropped = plan.dropped.iter().map(|dropped| DroppedMember {
            node_id: dropped.node_id,
            voter: dropped.is_voter,
            api_address: dropped.member.api_address.clone(),
            peer_address: dropped.member.peer_address.clone(),
        });
        Self {
            cluster_id: plan.cluster_id.to_string(),
            node_id: plan.node_id,
            epoch: plan.kept.epoch.0,
            revision: plan.kept.revision.0,
            cluster_time_ms: plan.kept.cluster_time.0,
            applied_index: plan.kept.applied_index,
            instances: plan.instances,
            digest: plan.kept.digest.to_string(),
            unknown_entries: plan.unknown_entries,
            unknown_commands: plan.unknown_commands,
            dropped: dropped.collect(),
            recovered: None,
        }
    }
}

fn describe(plan: &RecoveryPlan, member: Option<&Member>) -> String {
    let kept = &plan.kept;
    let mut fields = vec![
        ("lost", format!("cluster {}, epoch {}", plan.cluster_id, kept.epoch)),
        (
            "keeps",
            format!(
                "{} instances at revision {}, cluster time {} ms, log index {}: all that node {} has",
                plan.instances, kept.revision, kept.cluster_time, kept.applied_index, plan.node_id
            ),
        ),
        ("digest", kept.digest.to_string()),
    ];
    if plan.unknown_entries > 0 {
        fields.push((
            "uncertain",
            format!(
                "{} entries at the end of the log, with {} commands, are kept though this node does not know whether \
                 they were committed: writes may be among them that were never acknowledged",
                plan.unknown_entries, plan.unknown_commands
            ),
        ));
    }
    for dropped in &plan.dropped {
        let role = if dropped.is_voter { "voter" } else { "learner" };
        fields.push(("drops", format!("node {}, {role}, {}", dropped.node_id, dropped.member)));
    }
    fields.push(("", "and every write that others of them hold and this node never received".to_owned()));
    let address = member.map_or_else(|| "at addresses that are not known".to_owned(), Member::to_string);
    fields.push((
        "becomes",
        format!("a cluster of its own under a new id, epoch {}, with node {}, {address}", plan.epoch, plan.node_id),
    ));
    if plan.goes_on {
        fields.push(("", "as an earlier recovery, which was cut short, began".to_owned()));
    }
    output::fields(&fields)
}

pub(super) fn recover(global: &Global, args: &Recover) -> Result<(), Failure> {
    process::keep_private();
    let failed = |source| Failure::Recover { source };
    let recovery = Recovery::open(&args.data_dir).map_err(failed)?;
    let known = recovery.plan().member.clone();
    let api_address = args.advertise.clone().or_else(|| known.as_ref().map(|known| known.api_address.clone()));
    let peer_address = args.peer_advertise.clone().or_else(|| known.as_ref().map(|known| known.peer_address.clone()));
    let member = api_address.zip(peer_address).map(|(api_address, peer_address)| Member {
        api_address,
        peer_address,
        learner: false,
        replaces: None,
        feature_level: FEATURE_LEVEL,
    });
    let mut plan = Plan::from(recovery.plan());
    let text = describe(recovery.plan(), member.as_ref());
    if args.dry_run {
        return output::show(global.output, &plan, |_| text + "nothing was changed\n");
    }
    match global.output {
        Format::Table => output::print(&text)?,
        Format::Json => output::tell(&text),
    }
    if !args.yes {
        confirm()?;
    }
    let (node_id, epoch) = (plan.node_id, recovery.plan().epoch.0);
    let peer_address = member.as_ref().map_or_else(String::new, |member| member.peer_address.clone());
    let cluster_id = recovery.finish(member).map_err(failed)?.to_string();
    plan.recovered = Some(Made { cluster_id: cluster_id.clone(), node_id, epoch });
    output::show(global.output, &plan, |_| {
        let made = format!("cluster {cluster_id}, epoch {epoch}, node {node_id} is its only member");
        output::fields(&[("recovered", made)]) + &next_steps(&args.data_dir, &peer_address)
    })
}

/// Asks whoever sits at the terminal.
fn confirm() -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Unconfirmed);
    }
    output::tell("Are the others gone for good? Type `yes` to recover: ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim() == "yes" { Ok(()) } else { Err(Failure::Unconfirmed) }
}
