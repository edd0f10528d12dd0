//! Query parameters, checked; every fault named.

mod ranking;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::Query as UrlQuery;
use axum::http::Uri;
use rollcall_registry::ids::{NAME_BYTES_MAX, check_name};
use rollcall_registry::query::LIMIT_MAX;
use rollcall_registry::selector::{REQUIREMENTS_MAX, Selector};
use rollcall_registry::{Filter, Revision, Sort, VersionRange, Viewer};
use rollcall_replica::{Consistency, Terms};

use serde_json::{Map, Value};

use crate::fault::Faults;
use crate::limits::{POLL_MS_MAX, QUESTION_BYTES_MAX};
use crate::reply::Failure;

pub(crate) use ranking::{Picking, RankQuestion, pick};

const LIMIT_DEFAULT: usize = 50;

/// How long another cluster may take to answer: some round trips around the earth.
const FEDERATED_TIMEOUT_MS_DEFAULT: u64 = 1_000;
const FEDERATED_TIMEOUT_MS_MAX: u64 = 10_000;

const POLL_MS_DEFAULT: u64 = 30_000;

/// Most values of one filter. Each is a posting list to look up.
const VALUES_MAX: usize = 256;

/// Most version ranges of one filter. Each is held against every version there is.
const RANGES_MAX: usize = 16;

/// A request's query parameters, taken one by one; what is left at the end is unknown.
struct Params {
    given: BTreeMap<String, Vec<String>>,
    faults: Faults,
}

/// What is said of a watcher's question that is too long.
pub(crate) fn question_too_large() -> String {
    format!("is longer than {QUESTION_BYTES_MAX} bytes: what is watched has to be named shorter")
}

/// Whether what is percent-encoded is UTF-8.
fn is_text(encoded: &str) -> bool {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (mut rest, mut decoded) = (encoded.as_bytes(), Vec::new());
    while let Some((first, after)) = rest.split_first() {
        let pair = match after {
            [high, low, ..] if *first == b'%' => digit(high).zip(digit(low)),
            _ => None,
        };
        decoded.push(pair.map_or(*first, |(high, low)| (high << 4 | low) as u8));
        rest = if pair.is_some() { &after[2..] } else { after };
    }
    str::from_utf8(&decoded).is_ok()
}

impl Params {
    fn of(uri: &Uri) -> Self {
        let mut params = Self { given: BTreeMap::new(), faults: Faults::default() };
        // Decoding would put a replacement character there, and look for that.
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !is_text(pair)) {
            let name = pair.split('=').next().filter(|name| !name.contains('%')).unwrap_or_default();
            params.faults.push(name, "must be UTF-8");
        }
        match UrlQuery::<Vec<(String, String)>>::try_from_uri(uri) {
            Ok(UrlQuery(pairs)) => {
                for (name, value) in pairs {
                    params.given.entry(name).or_default().push(value);
                }
            }
            Err(error) => params.faults.push("", format!("the query does not parse: {error}")),
        }
        params
    }

    fn single(&mut self, name: &str) -> Option<String> {
        let mut values = self.given.remove(name)?;
        if values.len() > 1 {
            self.faults.push(name, "must not be given twice");
            return None;
        }
        values.pop()
    }

    fn number(&mut self, name: &str, min: u64, max: u64) -> Option<u64> {
        let text = self.single(name)?;
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|n| plain && (min..=max).contains(n));
        if number.is_none() {
            self.faults.push(name, format!("must be a whole number from {min} to {max}"));
        }
        number
    }

    fn one_of<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.single(name)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.faults.push(name, format!("must be one of {}", words.join(", ")));
        }
        found
    }

    /// A parameter that may be repeated, parsed value by value. Sorted and each once, so that the same question is the
    /// same filter however it was asked.
    fn many<T: Ord, E: std::fmt::Display>(
        &mut self,
        name: &str,
        commas: bool,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let given = self.given.remove(name).unwrap_or_default();
        let pieces: Vec<&str> = if commas {
            given.iter().flat_map(|value| value.split(',')).map(str::trim).collect()
        } else {
            given.iter().map(String::as_str).collect()
        };
        if pieces.len() > VALUES_MAX {
            self.faults.push(name, format!("has {} values, at most {VALUES_MAX} are allowed", pieces.len()));
            return Vec::new();
        }
        let mut values = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match parse(piece) {
                Ok(value) => values.push(value),
                Err(error) => self.faults.push(name, format!("`{}`: {error}", piece.escape_debug())),
            }
        }
        values.sort();
        values.dedup();
        values
    }

    fn names(&mut self, name: &str) -> Vec<Box<str>> {
        self.many(name, true, |text| check_name(text, NAME_BYTES_MAX).map(|()| text.into()))
    }

    fn words<T: Ord + FromStr<Err: std::fmt::Display>>(&mut self, name: &str) -> Vec<T> {
        self.many(name, true, T::from_str)
    }

    fn consistency(&mut self) -> Consistency {
        Consistency {
            linearizable: self.one_of("consistency", &[("local", false), ("linearizable", true)]).unwrap_or(false),
            min_revision: self.number("min_revision", 0, u64::MAX).map(Revision),
            max_staleness_ms: self.number("max_staleness_ms", 0, u64::MAX),
        }
    }

    /// Whether other clusters' instances are asked for too.
    fn federated(&mut self) -> bool {
        self.one_of("include_federated", &[("true", true), ("false", false)]).unwrap_or(false)
    }

    /// Whether they are asked for too, and how fresh they are to be.
    fn federation(&mut self) -> Federated {
        let is_said = self.given.contains_key("include_federated");
        let included = self.federated();
        let is_live = self.one_of("federated", &[("live", true), ("copy", false)]);
        let patience = self.number("federated_timeout_ms", 1, FEDERATED_TIMEOUT_MS_MAX);
        if is_live.is_some() && is_said && !included {
            self.faults.push("federated", "contradicts include_federated=false");
        }
        if patience.is_some() && is_live != Some(true) {
            self.faults.push("federated_timeout_ms", "needs federated=live");
        }
        match is_live {
            Some(true) => Federated::Live(Duration::from_millis(patience.unwrap_or(FEDERATED_TIMEOUT_MS_DEFAULT))),
            Some(false) => Federated::Copy,
            None if included => Federated::Copy,
            None => Federated::No,
        }
    }

    fn filter(&mut self) -> Filter {
        Filter {
            names: self.names("name"),
            kinds: self.words("type"),
            tags: self.names("tags"),
            capabilities: self.names("capabilities"),
            statuses: self.words("status"),
            visibilities: self.words("visibility"),
            owners: self.names("owner"),
            protocols: self.words("protocol"),
            // Commas belong to a range, `>=1.0, <2.0`, and to a selector.
            versions: self.ranges(),
            consumed_events: self.names("consumed_event"),
            produced_events: self.names("produced_event"),
            regions: self.names("region"),
            zones: self.names("zone"),
            selector: selector(self),
            // Set by whoever knows who asks.
            viewer: Viewer::All,
        }
    }

    fn ranges(&mut self) -> Vec<VersionRange> {
        let ranges = self.many("version", false, VersionRange::parse);
        if ranges.len() > RANGES_MAX {
            self.faults.push("version", format!("has {} ranges, at most {RANGES_MAX} are allowed", ranges.len()));
        }
        ranges
    }

    /// Who asks. Checked and set aside: it proves nothing, and whoever brings a token is known by that.
    fn requester(&mut self) {
        if let Some(Err(error)) = self.single("requester_id").map(|text| check_name(&text, NAME_BYTES_MAX)) {
            self.faults.push("requester_id", error.to_string());
        }
    }

    fn finished(mut self) -> Faults {
        for name in self.given.into_keys() {
            self.faults.push(name, "unknown parameter");
        }
        self.faults
    }

    /// The question is kept for as long as somebody watches.
    fn watched(&mut self, uri: &Uri) {
        if uri.query().is_some_and(|query| query.len() > QUESTION_BYTES_MAX) {
            self.faults.push("query", question_too_large());
        }
    }

    fn finish(self) -> Result<(), Failure> {
        let faults = self.finished();
        if faults.is_empty() { Ok(()) } else { Err(Failure::faulty(faults)) }
    }
}

/// Parameters of a contract that passes over what it does not know, and takes the last of what is repeated. An empty one
/// is none.
#[derive(Debug)]
pub(crate) struct Last(BTreeMap<String, String>);

impl Last {
    pub(crate) fn of(uri: &Uri) -> Self {
        let pairs = UrlQuery::<Vec<(String, String)>>::try_from_uri(uri).map(|UrlQuery(pairs)| pairs);
        Self(pairs.unwrap_or_default().into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }

    /// The first of several that is given, each under any of its names; with its place among them.
    pub(crate) fn first_of(&self, names: &[&[&str]]) -> Option<(usize, String)> {
        let given = |names: &&[&str]| names.iter().find_map(|name| self.0.get(*name).cloned());
        names.iter().enumerate().find_map(|(n, names)| given(names).map(|value| (n, value)))
    }
}

/// What discovery asks for, but for the cursor, which is read against the rest.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    pub(crate) filter: Filter,
    pub(crate) sort: Sort,
    /// Nothing unless sorted by rank.
    pub(crate) rank: RankQuestion,
    /// Show what each rank came of.
    pub(crate) explain: bool,
    pub(crate) limit: usize,
    pub(crate) cursor: Option<String>,
    pub(crate) poll: Option<Poll>,
    pub(crate) consistency: Consistency,
    pub(crate) federated: Federated,
}

/// Whether other clusters' instances are asked for too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Federated {
    #[default]
    No,
    /// As they told of them.
    Copy,
    /// As their rolls have them now, if they answer within this time.
    Live(Duration),
}

impl Federated {
    pub(crate) fn is_asked(self) -> bool {
        self != Self::No
    }
}

/// A wait for a change before the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Poll {
    pub(crate) after: Revision,
    pub(crate) wait: Duration,
}

/// What a watcher asks for.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) filter: Filter,
    pub(crate) from_revision: Option<u64>,
    /// Of `from_revision`.
    pub(crate) epoch: Option<u64>,
    pub(crate) consistency: Consistency,
    /// Other clusters' instances too.
    pub(crate) federated: bool,
}

pub(crate) fn watch(uri: &Uri) -> Result<Watch, Failure> {
    let mut params = Params::of(uri);
    let filter = params.filter();
    params.watched(uri);
    let from_revision = params.number("from_revision", 0, u64::MAX);
    let epoch = params.number("epoch", 0, u64::MAX);
    if epoch.is_some() && from_revision.is_none() {
        params.faults.push("epoch", "needs from_revision");
    }
    let consistency = params.consistency();
    let federated = params.federated();
    params.requester();
    params.finish()?;
    Ok(Watch { filter, from_revision, epoch, consistency, federated })
}

/// The same filters as members of a JSON object, each a text, a number, or a list of such.
pub(crate) fn filter_of(path: &str, members: Map<String, Value>, faults: &mut Faults) -> Filter {
    let mut params = Params { given: BTreeMap::new(), faults: Faults::default() };
    for (name, value) in members {
        // The kAI text calls it so.
        let name = if name == "types" { "type".to_owned() } else { name };
        let values = match value {
            Value::Null => continue,
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            match value {
                Value::String(text) => params.given.entry(name.clone()).or_default().push(text),
                Value::Number(number) => params.given.entry(name.clone()).or_default().push(number.to_string()),
                _ => params.faults.push(name.clone(), "must be a string or a list of strings"),
            }
        }
    }
    let filter = params.filter();
    params.requester();
    for fault in params.finished().into_vec() {
        faults.push(format!("{path}.{}", fault.field), fault.message);
    }
    filter
}

pub(crate) fn discovery(uri: &Uri) -> Result<Discovery, Failure> {
    let mut params = Params::of(uri);
    let filter = params.filter();
    let sort =
        params.one_of("sort", &[("id", Sort::Id), ("rank", Sort::Rank), ("lease", Sort::Lease)]).unwrap_or_default();
    if sort != Sort::Rank {
        params.only_ranked();
    }
    let (rank, explain) = (params.rank(), params.explain());
    let rank = if sort == Sort::Rank { rank } else { RankQuestion::default() };
    let limit = params.number("limit", 1, LIMIT_MAX as u64).and_then(|limit| usize::try_from(limit).ok());
    let cursor = params.single("cursor");
    let poll = poll(&mut params, cursor.is_some());
    if poll.is_some() {
        params.watched(uri);
    }
    let consistency = params.consistency();
    let federated = params.federation();
    params.finish()?;
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    Ok(Discovery { filter, sort, rank, explain, limit, cursor, poll, consistency, federated })
}

fn poll(params: &mut Params, has_cursor: bool) -> Option<Poll> {
    let after = params.number("after_revision", 0, u64::MAX);
    let wait_ms = params.number("wait_ms", 0, POLL_MS_MAX);
    match (after, wait_ms) {
        (None, None) => None,
        (None, Some(_)) => {
            params.faults.push("wait_ms", "needs after_revision: the revision of the answer before");
            None
        }
        (Some(_), _) if has_cursor => {
            params.faults.push("after_revision", "cannot be combined with cursor, whose pages do not change");
            None
        }
        (Some(after), wait_ms) => {
            let wait = Duration::from_millis(wait_ms.unwrap_or(POLL_MS_DEFAULT));
            Some(Poll { after: Revision(after), wait })
        }
    }
}

fn selector(params: &mut Params) -> Selector {
    let selectors: Vec<Selector> = params.many("selector", false, Selector::from_str);
    let mut requirements: Vec<_> = selectors.into_iter().flat_map(|selector| selector.0).collect();
    requirements.sort();
    requirements.dedup();
    let values: usize = requirements.iter().map(|requirement| requirement.values().len()).sum();
    if values > VALUES_MAX {
        params.faults.push("selector", format!("has {values} values, at most {VALUES_MAX} are allowed"));
    }
    if requirements.len() > REQUIREMENTS_MAX {
        let count = requirements.len();
        params.faults.push("selector", format!("has {count} requirements, at most {REQUIREMENTS_MAX} are allowed"));
    }
    Selector(requirements.into())
}

/// The parameters of a read of one instance.
pub(crate) fn read(uri: &Uri) -> Result<Consistency, Failure> {
    let mut params = Params::of(uri);
    let consistency = params.consistency();
    params.requester();
    params.finish().map(|()| consistency)
}

/// For the read of one instance.
pub(crate) fn read_instance(uri: &Uri) -> Result<(Consistency, Federated), Failure> {
    let mut params = Params::of(uri);
    let (consistency, federated) = (params.consistency(), params.federation());
    params.requester();
    params.finish().map(|()| (consistency, federated))
}

/// For reads that take nothing else.
pub(crate) fn consistency(uri: &Uri) -> Result<Consistency, Failure> {
    let mut params = Params::of(uri);
    let consistency = params.consistency();
    params.finish().map(|()| consistency)
}

/// A page of owners: after whom, and how many.
pub(crate) fn owner_page(uri: &Uri) -> Result<(Option<String>, usize), Failure> {
    let mut params = Params::of(uri);
    let after = params.single("after");
    let limit = params.number("limit", 1, LIMIT_MAX as u64).and_then(|limit| usize::try_from(limit).ok());
    params.finish().map(|()| (after, limit.unwrap_or(LIMIT_DEFAULT)))
}

/// `lease_id` of a deregistration.
pub(crate) fn lease(uri: &Uri) -> Result<Option<u64>, Failure> {
    let mut params = Params::of(uri);
    let lease = params.number("lease_id", 0, u64::MAX);
    params.finish().map(|()| lease)
}

/// `index` of a digest.
pub(crate) fn index(uri: &Uri) -> Result<Option<u64>, Failure> {
    let mut params = Params::of(uri);
    let index = params.number("index", 0, u64::MAX);
    params.finish().map(|()| index)
}

/// How an operation on the cluster is meant.
pub(crate) fn terms(uri: &Uri, can_be_forced: bool) -> Result<Terms, Failure> {
    let mut params = Params::of(uri);
    let dry_run = params.one_of("dry_run", SWITCH).unwrap_or(false);
    let force = can_be_forced && params.one_of("force", SWITCH).unwrap_or(false);
    let if_membership = params.number("if_membership", 0, u64::MAX);
    params.finish().map(|()| Terms { dry_run, force, if_membership })
}

/// A parameter that needs no value.
const SWITCH: &[(&str, bool)] = &[("", true), ("true", true), ("1", true), ("false", false), ("0", false)];

/// `verbose`, which needs no value.
pub(crate) fn verbose(uri: &Uri) -> Result<bool, Failure> {
    let mut params = Params::of(uri);
    let verbose = params.one_of("verbose", SWITCH);
    params.finish().map(|()| verbose.unwrap_or(false))
}

/// For routes that take none.
pub(crate) fn none(uri: &Uri) -> Result<(), Failure> {
    Params::of(uri).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn discover(query: &str) -> Result<Discovery, Failure> {
        discovery(&format!("/api/services?{query}").parse().unwrap())
    }

    fn detail(query: &str) -> String {
        discover(query).expect_err(query).detail().to_owned()
    }

    #[test]
    fn repeated_and_comma_separated_are_the_same() {
        let repeated = discover("tags=b&tags=a&type=agent&type=tool").unwrap();
        let separated = discover("tags=a,b,a&type=tool,%20agent").unwrap();
        assert_eq!(repeated.filter, separated.filter);
        assert_eq!(repeated.limit, 50);
    }

    #[test]
    fn commas_of_ranges_and_selectors_stay() {
        let discovery =
            discover("version=%3E%3D1.0,%3C2.0&selector=env%3Dprod,tier%20in%20(a,b)&selector=!old").unwrap();
        assert_eq!(discovery.filter.versions.len(), 1);
        assert_eq!(discovery.filter.selector.0.len(), 3);
    }

    #[test]
    fn every_fault_is_named() {
        let detail = detail(
            "limit=-1&limt=5&sort=name&sort=id&type=robot&tags=a,,b&version=%3E%3D&selector=a%20b&min_revision=x\
             &consistency=strong&include_federated=maybe",
        );
        for part in
            ["limit must", "limt unknown", "sort must not be given twice", "type `robot`", "tags ``", "version `>=`"]
        {
            assert!(detail.contains(part), "{part} in {detail}");
        }
        for part in ["selector `a b`", "min_revision must", "consistency must", "include_federated must"] {
            assert!(detail.contains(part), "{part} in {detail}");
        }
    }

    #[test]
    fn limits_are_one_to_a_thousand() {
        assert_eq!(discover("limit=1000").unwrap().limit, 1_000);
        for bad in ["limit=0", "limit=1001", "limit=-1", "limit=%2B1", "limit=", "limit=1.5"] {
            assert!(detail(bad).contains("limit must be a whole number"), "{bad}");
        }
    }

    #[test]
    fn a_read_takes_the_parameters_of_consistency_only() {
        let uri = |query: &str| format!("/api/services/x?{query}").parse::<Uri>().unwrap();
        let consistency = read(&uri("consistency=linearizable&min_revision=7&max_staleness_ms=0")).unwrap();
        assert!(consistency.linearizable);
        assert_eq!((consistency.min_revision, consistency.max_staleness_ms), (Some(Revision(7)), Some(0)));
        assert!(read(&uri("limit=1")).is_err());
    }

    #[test]
    fn what_is_no_text_is_refused_by_name() {
        for (query, field) in [("name=a%ffb", "name"), ("tags=x&zone=%c3", "zone"), ("%fe=1", "")] {
            let uri: Uri = format!("/api/services?{query}").parse().unwrap();
            let mut params = Params::of(&uri);
            let faults = std::mem::take(&mut params.faults).into_vec();
            assert!(
                faults.iter().any(|fault| fault.field == field && fault.message == "must be UTF-8"),
                "{faults:?}"
            );
        }
        for query in ["name=%C3%B6", "name=ö", "name=100%", "name=%zz", "selector=a%3Db&x=%20"] {
            assert!(is_text(query), "{query}");
        }
    }

    proptest! {
        #[test]
        fn no_query_makes_it_panic(query in "[a-z]{0,8}=[%0-9A-Za-z,()!=&.<>^~*+-]{0,40}") {
            if let Ok(uri) = format!("/?{query}").parse() {
                let _ = discovery(&uri);
            }
        }
    }
}
