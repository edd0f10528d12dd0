//! What is measured, on which cluster, and how big.

use std::time::Duration;

/// How much of everything.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    /// Registrations before heartbeats are measured.
    instances: u32,
    /// Registrations for memory, restarts and queries.
    many: u32,
    pub(crate) sessions_most: u16,
    hold: u32,
    hold_duration: Duration,
    flat_duration: Duration,
    pub(crate) idle_duration: Duration,
    expiring: u32,
    /// Of one service, and of services of their own.
    watchers: u32,
    idle_watchers: u32,
    unwatched_rate: u32,
    /// How long is written before a leader ends, and after.
    before_kill: Duration,
    after_kill: Duration,
    /// With one hand-over a second.
    handing_over: Duration,
    /// Of what is held: its TTL, and how often it is renewed.
    hold_ttl: Duration,
    hold_every: Duration,
    /// Ends of a leader in each repetition.
    pub(crate) kills: u32,
}

impl Scale {
    pub(crate) fn whole(duration: Duration, warm_up: Duration, repetitions: u32) -> Self {
        Self {
            duration,
            warm_up,
            instances: 10_000,
            many: 200_000,
            sessions_most: 256,
            hold: 1_000_000,
            hold_duration: Duration::from_secs(300),
            flat_duration: Duration::from_secs(600),
            idle_duration: Duration::from_secs(10),
            expiring: 1_000,
            watchers: 1_000,
            idle_watchers: 10_000,
            unwatched_rate: 1_000,
            before_kill: Duration::from_secs(2),
            after_kill: Duration::from_secs(5),
            handing_over: Duration::from_secs(20),
            hold_ttl: Duration::from_secs(60),
            hold_every: Duration::from_secs(20),
            kills: KILLS_LEAST.div_ceil(repetitions),
        }
    }

    /// Everything once and tiny, to see that it works.
    pub(crate) fn quick() -> Self {
        Self {
            duration: Duration::from_millis(300),
            warm_up: Duration::from_millis(100),
            instances: 200,
            many: 500,
            sessions_most: 8,
            hold: 500,
            hold_duration: Duration::from_secs(3),
            flat_duration: Duration::from_secs(2),
            idle_duration: Duration::from_secs(1),
            expiring: 20,
            watchers: 20,
            idle_watchers: 50,
            unwatched_rate: 100,
            before_kill: Duration::from_millis(500),
            after_kill: Duration::from_secs(3),
            handing_over: Duration::from_secs(3),
            hold_ttl: Duration::from_secs(6),
            hold_every: Duration::from_secs(1),
            kills: 1,
        }
    }
}

/// So many ends of a leader make a median.
const KILLS_LEAST: u32 = 5;

/// What clients must bring to a cluster of Rollcall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Guard {
    #[default]
    None,
    Tokens,
    /// And TLS at all ports.
    TlsAndTokens,
}

/// Measurements that share one fresh cluster.
pub(crate) struct Scenario {
    pub(crate) key: &'static str,
    pub(crate) nodes: usize,
    /// For every node of Rollcall.
    pub(crate) settings: Vec<&'static str>,
    pub(crate) guard: Guard,
    pub(crate) steps: Vec<Step>,
    /// Minutes rather than seconds; once, not in repetitions.
    pub(crate) long: bool,
}

pub(crate) struct Step {
    pub(crate) key: String,
    pub(crate) action: Action,
    /// Whether etcd can be measured by it too.
    pub(crate) etcd: bool,
}

pub(crate) enum Action {
    /// The load generator with these arguments.
    Load(Vec<String>),
    /// The load generator ends leaders, which are then started again.
    Failover(Vec<String>),
    /// A node is killed and started.
    Restart,
    /// A node is started that never was.
    StartEmpty,
    /// First a fill by these arguments; then nothing is done, and nothing must happen.
    Idle(Vec<String>),
    /// The load generator with these arguments, and the nodes' memory early and late.
    Flat(Vec<String>),
}

impl Scenario {
    fn new(key: &'static str, steps: Vec<Step>) -> Self {
        Self { key, nodes: 3, settings: Vec::new(), guard: Guard::None, steps, long: false }
    }

    /// Whether one of these names means this scenario or a step of it.
    pub(crate) fn is_named(&self, names: &[String]) -> bool {
        names.iter().any(|name| name == self.key || self.steps.iter().any(|step| step.key == *name))
    }

    pub(crate) fn compares(&self) -> bool {
        self.steps.iter().any(|step| step.etcd)
    }
}

impl Step {
    fn new(key: impl Into<String>, action: Action) -> Self {
        Self { key: key.into(), action, etcd: false }
    }

    fn with_etcd(self) -> Self {
        Self { etcd: true, ..self }
    }
}

/// A duration as the flags take it.
fn shown(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

/// Everything, in the order in which it is measured.
pub(crate) fn scenarios(scale: &Scale) -> Vec<Scenario> {
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let window = format!("--duration {} --warm-up {}", shown(scale.duration), shown(scale.warm_up));
    let load = |key: &str, text: String| Step::new(key, Action::Load(words(text)));
    let few = scale.sessions_most.min(64);
    let Scale { instances, many, sessions_most, .. } = scale;

    let register =
        |key: &str, sessions: u16| load(key, format!("register --sessions {sessions} {window}")).with_etcd();
    let heartbeat = |key: &str, sessions: u16| {
        load(key, format!("heartbeat --sessions {sessions} --instances {instances} {window}")).with_etcd()
    };
    // The same load and the same roll, so that what differs is what clients bring.
    let guarded = |key: &'static str, guard: Guard| {
        let text = format!("heartbeat --sessions {few} --instances {instances} {window}");
        Scenario { guard, ..Scenario::new(key, vec![load(key, text)]) }
    };
    let alone = |work: &str, place: &str, more: &str| {
        let node = if place == "leader" { "leader" } else { "followers" };
        let text = format!("{work} --sessions 1 --rate 50 --node {node} {more} {window}");
        load(&format!("{work}-alone-{place}"), text).with_etcd()
    };
    let lookup = |kind: &str| {
        load(&format!("lookup-{kind}"), format!("lookup --sessions {few} --consistency {kind} {window}")).with_etcd()
    };
    let failover = |key: &str, signal: &str| {
        let (before, after) = (shown(scale.before_kill), shown(scale.after_kill));
        let text = format!("failover --kill --signal {signal} --warm-up {before} --duration {after}");
        Scenario::new(
            if signal == "KILL" { "failover-kill" } else { "failover-term" },
            vec![Step::new(key, Action::Failover(words(text))).with_etcd()],
        )
    };
    let checkpoint = |key: &'static str, entries: &'static str| {
        let rate = format!("register --sessions {few} --rate 2000 {window}");
        Scenario { settings: vec!["--snapshot-entries", entries], ..Scenario::new(key, vec![load(key, rate)]) }
    };
    let watch = |key: &str, watchers: u32, rate: u32| {
        let text = format!("watch --watchers {watchers} --at followers --rate {rate} {window}");
        load(key, text).with_etcd()
    };
    let fill = |key: &str| load(key, format!("fill --sessions {sessions_most} --instances {many} --ttl 2h"));

    vec![
        Scenario::new("register-64", vec![register("register-64", few)]),
        Scenario::new("register-256", vec![register("register-256", *sessions_most)]),
        Scenario::new(
            "heartbeat",
            vec![
                heartbeat("heartbeat-64", few),
                heartbeat("heartbeat-256", *sessions_most),
                load(
                    "heartbeat-batch-100",
                    format!("heartbeat --sessions {few} --instances {instances} --batch 100 {window}"),
                ),
            ],
        ),
        guarded("heartbeat-plain", Guard::None),
        guarded("heartbeat-tokens", Guard::Tokens),
        guarded("heartbeat-tls-tokens", Guard::TlsAndTokens),
        Scenario::new(
            "alone",
            vec![
                alone("register", "leader", ""),
                alone("register", "follower", ""),
                alone("heartbeat", "leader", "--instances 100"),
                alone("heartbeat", "follower", "--instances 100"),
            ],
        ),
        Scenario::new("lookup", vec![lookup("local"), lookup("linearizable")]),
        Scenario::new(
            "query",
            vec![load("query", format!("query --sessions 4 --rate 400 --instances {many} --hits 20 {window}"))],
        ),
        failover("failover-kill", "KILL"),
        failover("failover-term", "TERM"),
        Scenario::new(
            "transfer",
            vec![load(
                "transfer",
                format!("transfer --warm-up {} --duration {}", shown(scale.before_kill), shown(scale.handing_over)),
            )],
        ),
        Scenario::new("memory", vec![fill("memory").with_etcd(), Step::new("restart", Action::Restart).with_etcd()]),
        Scenario {
            nodes: 0,
            ..Scenario::new("start-empty", vec![Step::new("start-empty", Action::StartEmpty).with_etcd()])
        },
        Scenario::new(
            "idle",
            vec![Step::new(
                "idle",
                Action::Idle(words(format!("fill --sessions {few} --instances {instances} --ttl 2h"))),
            )],
        ),
        // Without any, and with several in every second.
        checkpoint("checkpoint-rare", "100000000"),
        checkpoint("checkpoint-often", "500"),
        Scenario::new("expiry", vec![load("expiry", format!("expiry --instances {} --ttl 3s", scale.expiring))]),
        Scenario::new("watch", vec![watch("watch-one", 1, 50), watch("watch-1000", scale.watchers, 20)]),
        Scenario::new(
            "watch-idle",
            vec![load(
                "watch-idle",
                format!(
                    "watch-idle --watchers {} --at followers --sessions {few} --rate {} --instances {instances} {window}",
                    scale.idle_watchers, scale.unwatched_rate
                ),
            )],
        ),
        Scenario::new(
            "watch-expiry",
            vec![load("watch-expiry", format!("watch-expiry --instances {} --ttl 3s", scale.expiring)).with_etcd()],
        ),
        Scenario {
            long: true,
            ..Scenario::new(
                "hold",
                vec![load(
                    "hold",
                    format!(
                        "hold --instances {} --ttl {} --every {} --batch 1000 --lookup-rate 100 --duration {}",
                        scale.hold,
                        shown(scale.hold_ttl),
                        shown(scale.hold_every),
                        shown(scale.hold_duration)
                    ),
                )],
            )
        },
        Scenario {
            long: true,
            // Within the first two minutes it is full: what it holds beyond these is bounded, and no growth.
            settings: vec!["--history-changes-max", "5000"],
            ..Scenario::new(
                "memory-flat",
                vec![Step::new(
                    "memory-flat",
                    Action::Flat(words(format!(
                        "mixed --sessions {sessions_most} --instances {instances} --warm-up 0s --duration {}",
                        shown(scale.flat_duration)
                    ))),
                )],
            )
        },
    ]
}
