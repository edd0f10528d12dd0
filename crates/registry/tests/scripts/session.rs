//! The script language: one command a line, `verb [subject] key=value …`; a value with spaces stands in quotes.

use std::collections::BTreeMap;

use rollcall_registry::registration::{Capability, Extras};
use rollcall_registry::state::{Delta, Header, InstanceKey, Past, Restoring};
use rollcall_registry::{
    ClusterTime, Command, Condition, Definition, DefinitionKey, Digest, Draw, HistoryLimits, Instance, LeaseId,
    LeaseSet, MetadataValue, Once, Options, Origin, Outcome, Page, Picked, Position, Proposal, Query, Ranking,
    Registration, Revision, Score, ServiceName, Sort, State, TenantId, Term, View, WallTime, Write,
};

use access::KeptAccess;
use arguments::Arguments;
use changes::{change_line, shown};
use rulings::KeptRulings;
use signatures::KeptSignatures;
use tokens::KeptTokens;
mod access;
mod arguments;
mod changes;
mod definitions;
mod refusals;
mod rulings;
mod signatures;
mod tokens;
/// One state machine and the leader that writes to it.
///
/// Writes, each an entry of its own unless it stands between `begin` and `commit`; `commit node= start= batch=` commits
/// what was begun as that batch of that process of a node, to be applied once:
/// - `register ID [service= type= protocol= visibility= weight= ttl_ms= reap_after_ms= url= version= owner= tags=
///   capabilities= consumes= produces= region= zone= at= meta.KEY= if=] [tenant=]`
/// - `heartbeat lease=1,2 [tenant=]` renews leases; `beat ID [lease= status= meta.KEY=]` says more
/// - `deregister ID [lease= if=]`
/// - `create-token ID secret= ttl_ms= [uses= role=learner]`, `spend-token ID secret= address= [role=learner]`,
///   `revoke-token ID`
/// - `define_event NAME [topic= document=]`, `define_schema NAME version= [schema= owner= mode= latest=eN]`, where mode and
///   latest are what the edge compared with, `set_compatibility NAME mode=`, `undefine event|schema|compatibility NAME
///   [version=]`; `document=filler:N` is one of N bytes
/// - `grant ID secret= [reach= role= services= verbs= ttl_ms= description= by= first=]`, `rotate ID secret= [overlap_ms= within=
///   services= verbs=]`, `withdraw ID [within=]`, `use tokens=1,2`, `reset ID secret=`: access tokens; `within` is how far
///   whoever asks may go
/// - `by=PRINCIPAL [power=own|tenant|PREFIX,…]` at a write of the roll: on whose behalf it is
/// - `order ID kind= [reason=]`, `lift ID kind=`, `trust OWNER [hundredths=]`, `ranking [weights=]`,
///   `quota [registrations= bytes= watchers= requests=]`, `protect [share= window_ms= rate= min=]`, `release`,
///   `target NAME [url= form= secret= interval_ms=]`, `told NAME up_to=rN [begun= in_force=]`;
///   `observe ID lease= verdict=` is what checks say
/// - `signatures MODE|default`, `put-key OWNER key=`, `remove-key OWNER`; `register … [mode= key= document= signature=]` and
///   `deregister … [mode= key=]` are signed by whom they name
/// - `expire [term= up_to= limit=]` is proposed once; `tick MS` passes time and expires until nothing is due
///
/// The world: `advance MS` passes time, `clock MS` sets the leader's clock, `term N` elects, `history changes=` starts
/// anew with a short history, `checkpoint` tells what a checkpoint would write, `restore` goes on from what was
/// written.
///
/// Questions: `get ID`, `query [filters] [sort= limit= at=]`, which ranks by `weights= prefer= near_region= near_zone=
/// near=`, `next` (the page after the last one), `pick [filters] draw=best|turn|weighted [n=]`, `count`, `changes after=`,
/// `tokens`, `keys [after=]`, `grants`, `admit ID secret=`, `definitions`, `latest NAME`, `rulings`, `usage`, `protection`, `now`,
/// `digest`, `remember NAME` and `compare NAME` (digests).
pub(crate) struct Session {
    state: State,
    options: Options,
    /// The leader's clock.
    clock: ClusterTime,
    term: Term,
    entry: Option<Vec<Command>>,
    kept: Kept,
    digests: BTreeMap<String, Digest>,
    page: Option<(Query, Revision, Option<Position>)>,
}

/// What storage would hold.
#[derive(Default)]
struct Kept {
    header: Option<Header>,
    instances: BTreeMap<InstanceKey, Instance>,
    deadlines: BTreeMap<LeaseId, ClusterTime>,
    past: Vec<(Revision, Vec<Past>)>,
    tokens: KeptTokens,
    access: KeptAccess,
    signatures: KeptSignatures,
    definitions: BTreeMap<(TenantId, DefinitionKey), Definition>,
    rulings: KeptRulings,
}

type Said = Result<Vec<String>, String>;

impl Session {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        Self {
            state: State::new(options),
            options,
            clock: ClusterTime(0),
            term: Term(1),
            entry: None,
            kept: Kept::default(),
            digests: BTreeMap::new(),
            page: None,
        }
    }

    pub(crate) fn command(&mut self, line: &str) -> Said {
        let mut arguments = Arguments::parse(line)?;
        let verb = arguments.verb.clone();
        let said = match verb.as_str() {
            "register" | "heartbeat" | "beat" | "deregister" | "expire" | "create-token" | "spend-token"
            | "revoke-token" | "grant" | "rotate" | "withdraw" | "use" | "reset" | "define_event"
            | "define_schema" | "set_compatibility" | "undefine" | "order" | "lift" | "trust" | "ranking"
            | "quota" | "protect" | "release" | "target" | "told" | "observe" | "unchecked" | "checks"
            | "signatures" | "put-key" | "remove-key" => {
                let command = self.write(&verb, &mut arguments)?;
                match &mut self.entry {
                    Some(entry) => {
                        entry.push(command);
                        Vec::new()
                    }
                    None => self.apply(vec![command]),
                }
            }
            "begin" => {
                self.entry = Some(Vec::new());
                Vec::new()
            }
            "commit" => {
                let commands = self.entry.take().ok_or("nothing was begun")?;
                match arguments.number("node")? {
                    Some(node) => {
                        let number = |number: Option<u64>, key: &str| number.ok_or(format!("{key}= is missing"));
                        let start = number(arguments.number("start")?, "start")?;
                        let batch = number(arguments.number("batch")?, "batch")?;
                        let once = Once { origin: Origin { node, start, batch }, commands };
                        self.apply_entry(Vec::new(), vec![once])
                    }
                    None => self.apply(commands),
                }
            }
            "tick" => {
                self.clock = self.clock.plus_ms(arguments.subject()?);
                self.tick()
            }
            "advance" => {
                self.clock = self.clock.plus_ms(arguments.subject()?);
                Vec::new()
            }
            "clock" => {
                self.clock = ClusterTime(arguments.subject()?);
                self.apply(Vec::new())
            }
            "term" => {
                self.term = Term(arguments.subject()?);
                Vec::new()
            }
            "history" => {
                let history = HistoryLimits {
                    changes_max: arguments.number("changes")?.unwrap_or(usize::MAX),
                    bytes_max: arguments.number("bytes")?.unwrap_or(usize::MAX),
                };
                *self = Self::with(Options { history, ..self.options });
                Vec::new()
            }
            "checkpoint" => self.checkpoint(),
            "restore" => self.restore()?,
            "get" => vec![self.get(&mut arguments)?],
            "query" => self.query(&mut arguments)?,
            "next" => self.next()?,
            "pick" => self.pick(&mut arguments)?,
            "protection" => vec![rulings::protecting(&self.state, &arguments.tenant()?)],
            "rulings" => rulings::list(&self.state, &arguments.tenant()?),
            "usage" => rulings::usage(&self.state, &arguments.tenant()?),
            "count" => {
                let tenant = arguments.tenant()?;
                vec![format!("{} of {} instances", self.state.tenant_len(&tenant), self.state.len())]
            }
            "changes" => {
                let after = Revision(arguments.number("after")?.unwrap_or(0));
                match self.state.changes_after(after) {
                    Some(changes) => changes.map(change_line).collect(),
                    None => vec![format!("r{after}: forgotten, the oldest known is r{}", self.state.oldest_known())],
                }
            }
            "grants" => self.state.access_tokens().map(access::line).collect(),
            "admit" => vec![access::admit(&self.state, self.clock, &mut arguments)?],
            "tokens" => self.state.join_tokens().map(tokens::line).collect(),
            "keys" => signatures::list(&self.state, &mut arguments)?,
            "definitions" => definitions::list(&self.state, &mut arguments)?,
            "latest" => definitions::latest(&self.state, &mut arguments)?,
            "now" => {
                let due = self
                    .state
                    .next_due_by(ClusterTime(u64::MAX))
                    .map_or("nothing due".to_owned(), |due| format!("next due at {due}"));
                vec![format!("{} ms, r{}, {due}", self.state.now(), self.state.revision())]
            }
            "digest" => vec![self.state.digest().to_string()],
            "remember" => {
                self.digests.insert(arguments.subject()?, self.state.digest());
                Vec::new()
            }
            "compare" => {
                let name: String = arguments.subject()?;
                let digest = self.digests.get(&name).ok_or_else(|| format!("`{name}` was not remembered"))?;
                let word = if *digest == self.state.digest() { "equal" } else { "different" };
                vec![format!("{name}: {word}")]
            }
            _ => return Err("no such command".to_owned()),
        };
        arguments.finish()?;
        self.state.assert_consistent();
        Ok(said)
    }

    fn write(&self, verb: &str, arguments: &mut Arguments) -> Result<Command, String> {
        if let Some(command) = tokens::command(verb, arguments)? {
            return Ok(Command::JoinToken(command));
        }
        if let Some(command) = access::command(verb, arguments)? {
            return Ok(Command::AccessToken(command));
        }
        if let Some(command) = rulings::command(verb, arguments)? {
            return Ok(command);
        }
        let actor = access::actor(arguments)?;
        let tenant = arguments.tenant()?;
        if let Some(change) = definitions::change(verb, arguments)? {
            return Ok(Command::Define { tenant, change });
        }
        if let Some(command) = signatures::command(verb, &tenant, arguments)? {
            return Ok(Command::Signatures(command));
        }
        let command = match verb {
            "register" => {
                let (condition, signing) = (condition(arguments)?, signatures::signing(arguments)?);
                let registration = registration(arguments)?.pack();
                match signing {
                    None => Command::Register { tenant, registration, condition },
                    Some(signing) => Command::RegisterSigned { tenant, registration, condition, signing },
                }
            }
            "deregister" => {
                let (id, lease) = (arguments.id()?, arguments.number("lease")?.map(LeaseId));
                let condition = condition(arguments)?;
                match signatures::signing(arguments)? {
                    None => Command::Deregister { tenant, id, lease, condition },
                    Some(signing) => Command::DeregisterSigned { tenant, id, lease, condition, signing },
                }
            }
            "heartbeat" => {
                let leases = arguments.list("lease").iter().map(|n| n.parse().map(LeaseId)).collect::<Result<_, _>>();
                Command::Renew { tenant, leases: LeaseSet::new(leases.map_err(|e| format!("lease: {e}"))?) }
            }
            "beat" => Command::Beat {
                tenant,
                id: arguments.id()?,
                lease: arguments.number("lease")?.map(LeaseId),
                status: arguments.word("status")?,
                metadata: Some(arguments.metadata()).filter(|metadata| !metadata.pairs().is_empty()),
            },
            _ => Command::Expire {
                term: Term(arguments.number("term")?.unwrap_or(self.term.0)),
                up_to: ClusterTime(arguments.number("up_to")?.unwrap_or(self.clock.0)),
                limit: arguments.number("limit")?.unwrap_or(u32::MAX),
            },
        };
        Ok(match actor {
            Some(actor) => command.by(actor),
            None => command,
        })
    }

    fn apply(&mut self, commands: Vec<Command>) -> Vec<String> {
        self.apply_entry(commands, Vec::new())
    }

    /// Applies one entry; says the changes it made, then the answers that are no change.
    fn apply_entry(&mut self, commands: Vec<Command>, once: Vec<Once>) -> Vec<String> {
        let before = self.state.revision();
        let proposal = Proposal { stamp: self.clock, wall: WallTime(1_000_000 + self.clock.0), commands, once };
        let outcomes = self.state.apply(self.term, &proposal);
        let mut said: Vec<String> = self.state.changes_after(before).into_iter().flatten().map(change_line).collect();
        let commands = proposal.commands.iter().chain(proposal.once.iter().flat_map(|once| &once.commands));
        for (command, outcome) in commands.zip(outcomes) {
            said.extend(answer_lines(command, &outcome, before));
        }
        said
    }

    fn tick(&mut self) -> Vec<String> {
        let mut said = self.apply(Vec::new());
        while self.state.next_due_by(self.state.now()).is_some() {
            let before = self.state.digest();
            let expire = Command::Expire { term: self.term, up_to: self.clock, limit: 100 };
            said.extend(self.apply(vec![expire]).into_iter().filter(|line| line.starts_with('r')));
            assert_ne!(before, self.state.digest(), "what was due was not done");
        }
        said
    }

    fn checkpoint(&mut self) -> Vec<String> {
        let Delta {
            header,
            removed,
            removed_leases,
            instances,
            deadlines,
            past,
            join_tokens,
            access_tokens,
            definitions,
            rulings,
            signatures,
            ..
        } = self.state.take_delta();
        let mut said = Vec::new();
        for key in &removed {
            self.kept.instances.remove(key);
            said.push(format!("- instance {} {}", key.0, key.1));
        }
        for lease in &removed_leases {
            self.kept.deadlines.remove(lease);
            said.push(format!("- deadline {lease}"));
        }
        for instance in instances {
            said.push(format!("+ instance {} {} r{}", instance.tenant, instance.id(), instance.revision));
            self.kept.instances.insert(instance.key(), (*instance).clone());
        }
        for (lease, deadline) in deadlines {
            said.push(format!("+ deadline {lease} = {deadline}"));
            self.kept.deadlines.insert(lease, deadline);
        }
        if !past.changes.is_empty() {
            said.push(format!("+ history from r{}, {} changes", past.first, past.changes.len()));
            self.kept.past.push((past.first, past.changes));
        }
        said.extend(self.kept.tokens.take(join_tokens));
        said.extend(self.kept.access.take(access_tokens));
        said.extend(self.kept.signatures.take(signatures));
        for (tenant, key) in definitions.removed {
            said.push(format!("- definition {tenant} {key:?}"));
            self.kept.definitions.remove(&(tenant, key));
        }
        for definition in definitions.put {
            let key = definition.content.key();
            said.push(format!("+ definition {} {key:?} e{}", definition.tenant, definition.edition));
            self.kept.definitions.insert((definition.tenant.clone(), key), (*definition).clone());
        }
        said.extend(self.kept.rulings.take(rulings));
        self.kept.header = Some(header);
        said
    }

    fn restore(&mut self) -> Said {
        let header = self.kept.header.clone().ok_or("nothing was checkpointed")?;
        let mut restoring = Restoring::new(self.options, header);
        for (lease, deadline) in &self.kept.deadlines {
            restoring.deadline(*lease, *deadline);
        }
        for instance in self.kept.instances.values() {
            restoring.instance(instance.clone()).map_err(|e| e.to_string())?;
        }
        for (first, changes) in &self.kept.past {
            restoring.past(*first, changes.clone());
        }
        self.kept.tokens.restore(&mut restoring)?;
        self.kept.access.restore(&mut restoring)?;
        self.kept.signatures.restore(&mut restoring)?;
        for definition in self.kept.definitions.values() {
            restoring.definition(definition.clone()).map_err(|e| e.to_string())?;
        }
        self.kept.rulings.restore(&mut restoring)?;
        self.state = restoring.finish().map_err(|e| e.to_string())?;
        Ok(vec![format!("{} instances at r{}", self.state.len(), self.state.revision())])
    }

    fn get(&self, arguments: &mut Arguments) -> Result<String, String> {
        let (tenant, id) = (arguments.tenant()?, arguments.id()?);
        let Some(View { instance, deadline }) = self.state.get(&tenant, &id) else {
            return Ok(format!("{id}: not on the roll"));
        };
        let metadata: Vec<String> = instance
            .metadata()
            .map(|(key, value)| match value {
                MetadataValue::Text(text) => format!(" {key}={text}"),
                MetadataValue::Json(json) => format!(" {key}={json}"),
            })
            .collect();
        Ok(format!(
            "{id}: {} {} {} lease={} r{} created=r{} registered_at={} until {deadline}{}",
            instance.registration().name,
            instance.registration().url,
            instance.status(),
            instance.lease,
            instance.revision,
            instance.created_revision,
            instance.registered_at,
            metadata.concat(),
        ))
    }

    fn query(&mut self, arguments: &mut Arguments) -> Said {
        let sort = match arguments.take("sort").as_deref() {
            None | Some("id") => Sort::Id,
            Some("rank") => Sort::Rank,
            Some("lease") => Sort::Lease,
            Some(other) => return Err(format!("sort: `{other}`")),
        };
        let limit = arguments.number("limit")?.unwrap_or(100);
        let at = arguments.revision("at")?;
        let (tenant, ranking) = (arguments.tenant()?, rulings::ranking(arguments)?);
        let query = Query { tenant, filter: arguments.filter()?, sort, ranking, after: None, limit };
        let page = match at {
            None => self.state.query(&query),
            Some(revision) => match self.state.query_at(&query, revision) {
                Ok(page) => page,
                Err(forgotten) => return Ok(vec![forgotten.to_string()]),
            },
        };
        Ok(self.page(query, page))
    }

    fn next(&mut self) -> Said {
        let (query, revision, next) = self.page.take().ok_or("there was no page before")?;
        let Some(next) = next else { return Ok(vec!["no page follows".to_owned()]) };
        let query = Query { after: Some(next), ..query };
        match self.state.query_at(&query, revision) {
            Ok(page) => Ok(self.page(query, page)),
            Err(forgotten) => Ok(vec![forgotten.to_string()]),
        }
    }

    fn pick(&self, arguments: &mut Arguments) -> Said {
        let n = arguments.number("n")?.unwrap_or(0);
        let draw = match arguments.take("draw").as_deref() {
            Some("best") => Draw::Best,
            Some("turn") => Draw::Turn(n),
            Some("weighted") => Draw::Weighted(n),
            other => return Err(format!("draw: {other:?}")),
        };
        let (tenant, ranking) = (arguments.tenant()?, rulings::ranking(arguments)?);
        let filter = arguments.filter()?;
        let query = Query { tenant, filter, sort: Sort::Id, ranking, after: None, limit: 1 };
        let picked = self.state.pick(&query, draw);
        if self.state.suspects() == 0 {
            assert_eq!(picked.as_ref().map_or(0, |picked| picked.candidates), self.state.count(&query));
        }
        Ok(vec![match picked {
            Some(Picked { view, candidates, .. }) => format!("{} of {candidates}", view.instance.id()),
            None => "nobody".to_owned(),
        }])
    }

    fn page(&mut self, query: Query, page: Page) -> Vec<String> {
        // Only what makes a difference is told.
        let told = |score: &Score| match query.ranking == Ranking::default() {
            true => String::new(),
            false => rulings::score(score),
        };
        let scores = page.scores.iter().map(told).chain(std::iter::repeat(String::new()));
        let line =
            |(view, score): (&View, String)| format!("{} {}{score}", view.instance.id(), shown(&view.instance));
        let mut said: Vec<String> = page.found.iter().zip(scores).map(line).collect();
        let more = if page.next.is_some() { ", more follow" } else { "" };
        said.push(format!("{} of {} at r{}{more}", page.found.len(), page.total, page.revision));
        self.page = Some((query, page.revision, page.next));
        said
    }
}

fn answer_lines(command: &Command, outcome: &Outcome, before: Revision) -> Vec<String> {
    if let Command::By { tenant, write, .. } = command {
        return answer_lines(&plain(tenant.clone(), write.clone()), outcome, before);
    }
    match (command, outcome) {
        (
            Command::Register { registration, .. } | Command::RegisterSigned { registration, .. },
            Outcome::Registered(registered),
        ) if registered.revision <= before => {
            if registered.created {
                return vec![format!("{}: answered again, as r{}", registration.id(), registered.revision)];
            }
            let id = registration.id();
            vec![format!("{id}: renewed lease {} until {}", registered.lease, registered.deadline)]
        }
        (Command::Renew { leases, .. }, Outcome::Renewed { not_found, superseded }) => leases
            .as_slice()
            .iter()
            .map(|lease| {
                let word = match (not_found.contains(*lease), superseded.contains(*lease)) {
                    (false, false) => "renewed",
                    (true, _) => "not found",
                    (_, true) => "superseded",
                };
                format!("lease {lease}: {word}")
            })
            .collect(),
        (Command::Beat { id, .. }, Outcome::Beaten(beaten)) if beaten.revision <= before => {
            vec![format!("{id}: renewed lease {} for {} ms", beaten.lease, beaten.ttl_ms)]
        }
        (Command::Expire { .. }, Outcome::Expired { count, more }) => {
            vec![format!("expired {count}{}", if *more { ", more are due" } else { "" })]
        }
        (_, Outcome::JoinToken(token)) => vec![tokens::line(token)],
        (_, Outcome::AccessToken(token)) => vec![access::line(token)],
        (_, Outcome::OwnerKey { key, .. }) => vec![signatures::answer(*key)],
        (Command::Define { change, .. }, Outcome::Defined(defined)) => vec![definitions::answer(change, defined)],
        (_, Outcome::Ruled(ruled)) => rulings::answer(*ruled),
        (_, Outcome::Observed { revision }) if *revision <= before => vec![format!("no change at r{revision}")],
        (_, Outcome::Refused(refusal)) => {
            let name = refusals::name(refusal);
            vec![format!("refused, {name}: {refusal}")]
        }
        _ => Vec::new(),
    }
}

/// The write as it would be on nobody's behalf: it is told alike.
fn plain(tenant: TenantId, write: Write) -> Command {
    match write {
        Write::Register { registration, condition } => Command::Register { tenant, registration, condition },
        Write::Renew { leases } => Command::Renew { tenant, leases },
        Write::Beat { id, lease, status, metadata } => Command::Beat { tenant, id, lease, status, metadata },
        Write::Deregister { id, lease, condition } => Command::Deregister { tenant, id, lease, condition },
        Write::RegisterSigned { registration, condition, signing } => {
            Command::RegisterSigned { tenant, registration, condition, signing }
        }
        Write::DeregisterSigned { id, lease, condition, signing } => {
            Command::DeregisterSigned { tenant, id, lease, condition, signing }
        }
    }
}

fn condition(arguments: &mut Arguments) -> Result<Condition, String> {
    match arguments.take("if").as_deref() {
        None => Ok(Condition::None),
        Some("absent") => Ok(Condition::Absent),
        Some("present") => Ok(Condition::Present),
        Some("anew") => Ok(Condition::Anew),
        Some(text) => match text.strip_prefix('r').and_then(|n| n.parse().ok()) {
            Some(revision) => Ok(Condition::Unchanged(Revision(revision))),
            None => Err(format!("if: `{text}`")),
        },
    }
}

fn registration(arguments: &mut Arguments) -> Result<Registration, String> {
    let id = arguments.id()?;
    let mut text = |key: &str| arguments.take(key).map(String::into_boxed_str);
    let (version, owner, url) = (text("version"), text("owner"), text("url"));
    let (region, zone, name) = (text("region"), text("zone"), text("service"));
    let coordinates = rulings::coordinates(arguments, "at")?;
    let extras = Extras { region, zone, coordinates, ..Extras::default() };
    let name = name.unwrap_or_else(|| "web".into());
    let capability = |name: String| Capability { name: name.into(), detail: None };
    Ok(Registration {
        id,
        name: ServiceName::parse(&name).map_err(|e| e.to_string())?,
        kind: arguments.word("type")?.unwrap_or(rollcall_registry::Kind::Service),
        protocol: arguments.word("protocol")?.unwrap_or(rollcall_registry::Protocol::Http),
        visibility: arguments.word("visibility")?.unwrap_or(rollcall_registry::Visibility::Private),
        weight: arguments.number("weight")?.unwrap_or(1),
        ttl_ms: arguments.number("ttl_ms")?.unwrap_or(10_000),
        reap_after_ms: arguments.number("reap_after_ms")?.unwrap_or(0),
        url: url.unwrap_or_else(|| "http://a".into()),
        version,
        owner,
        tags: arguments.texts("tags").into(),
        capabilities: arguments.list("capabilities").into_iter().map(capability).collect(),
        consumed_events: arguments.texts("consumes").into(),
        produced_events: arguments.texts("produces").into(),
        metadata: arguments.metadata(),
        extras: signatures::extras(arguments, extras),
    })
}
