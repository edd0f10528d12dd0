//! The search for an order, after Wing and Gong, with what was tried already remembered as Lowe has it.
//!
//! Three things keep it short where every third outcome is unknown.
//! - Of unknown calls that do the same, and whose effects no answer tells apart, only the earliest is tried: they are
//!   interchangeable, and the earliest can come whenever a later one can.
//! - An unknown call comes only right before an answer that it makes possible. What brings in a value that somebody was
//!   shown stands there until that, so it can wait for the first answer that goes with it; only a removal may be followed
//!   by another unknown call, which creates.
//! - A value does not go before everybody was shown it who was.

use std::collections::HashMap;

use super::{Ask, Call, Known, Told};

pub(crate) enum Verdict {
    Explained,
    Undecided,
    Violated(String),
}

/// What stands there; a value that no answer tells is as good as any other such.
type Standing = Option<u64>;

const UNTOLD: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Put(u64),
    PutIfAbsent(u64),
    /// None if no answer tells which value that revision is: it never stands there.
    PutIf(u64, Option<u64>),
    Clear,
    Show(Standing),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Refused,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    asked_us: u64,
    told_us: u64,
    deed: Deed,
    outcome: Outcome,
    /// The revision that it makes, where that is known.
    revision: Option<u64>,
    /// The call's place in the history.
    call: usize,
    hash: u128,
}

impl Step {
    /// What stands there afterwards, if it can have gone so.
    fn follows(&self, standing: Standing) -> Option<Standing> {
        let (holds, after) = match self.deed {
            Deed::Put(value) => (true, Some(value)),
            Deed::PutIfAbsent(value) => (standing.is_none(), Some(value)),
            Deed::PutIf(value, expected) => (expected.is_some() && standing == expected, Some(value)),
            Deed::Clear => (standing.is_some(), None),
            Deed::Show(shown) => return (shown == standing).then_some(standing),
        };
        match (self.outcome, holds) {
            (Outcome::Done | Outcome::Unknown, true) => Some(after),
            (Outcome::Refused, false) => Some(standing),
            // An unknown call that changes nothing need not take a place.
            _ => None,
        }
    }

    /// The value that it brings in, if an answer tells that.
    fn brings(&self) -> Option<u64> {
        match self.deed {
            Deed::Put(value) | Deed::PutIfAbsent(value) | Deed::PutIf(value, _) => Some(value),
            Deed::Clear | Deed::Show(_) => None,
        }
        .filter(|value| *value != UNTOLD)
    }

    /// Of those whose effects nothing tells apart, which.
    fn sort(&self) -> Option<usize> {
        match self.deed {
            Deed::PutIfAbsent(UNTOLD) => Some(0),
            Deed::Put(UNTOLD) => Some(1),
            Deed::Clear => Some(2),
            _ => None,
        }
    }

    /// The value that must stand there for this to have been answered so.
    fn needs(&self) -> Option<u64> {
        match self.deed {
            Deed::Show(shown) => shown,
            Deed::PutIf(_, expected) if self.outcome == Outcome::Done => expected,
            _ => None,
        }
    }
}

fn step(calls: &[Call], known: &Known, at: usize) -> Option<Step> {
    let Call { asked_us, told_us, ask, told, .. } = calls[at];
    let outcome = match told {
        Told::Done { .. } | Told::Shown(_) => Outcome::Done,
        Told::Refused => Outcome::Refused,
        Told::Unknown => Outcome::Unknown,
        Told::NotApplied => return None,
    };
    let canonical = |value| if known.revisions.contains_key(&value) { value } else { UNTOLD };
    let deed = match (ask, told) {
        (Ask::Write { value }, _) => Deed::Put(canonical(value)),
        (Ask::Create { value }, _) => Deed::PutIfAbsent(canonical(value)),
        (Ask::Replace { value, expected }, _) => Deed::PutIf(canonical(value), known.values.get(&expected).copied()),
        (Ask::Remove, _) => Deed::Clear,
        (Ask::Read, Told::Shown(shown)) => Deed::Show(shown.map(|(_, value)| value)),
        // A read without an answer says nothing.
        (Ask::Read, _) => return None,
    };
    let revision = match (told, ask.value()) {
        (Told::Done { revision }, _) => Some(revision),
        (Told::Unknown, Some(value)) => known.revisions.get(&value).copied(),
        _ => None,
    };
    let told_us = if outcome == Outcome::Unknown { u64::MAX } else { told_us };
    Some(Step { asked_us, told_us, deed, outcome, revision, call: at, hash: hash(at as u64) })
}

/// SplitMix64, twice: sums of these name sets of calls.
fn hash(n: u64) -> u128 {
    let mix = |seed: u64| {
        let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        u128::from(z ^ (z >> 31))
    };
    mix(0x5EED) << 64 | mix(0xBEE5)
}

/// How many unknown calls of each sort have their place whose effects nothing tells apart.
type Spent = [u32; 3];

/// A point in the search.
struct Point {
    standing: Standing,
    /// The latest revision that is known to be reached.
    revision: u64,
    /// Names the calls that have their place, but for those that are counted.
    taken: u128,
    spent: Spent,
    /// Before this one all answered calls have their place.
    first: usize,
    /// What may come next, the likeliest last.
    next: Vec<Choice>,
    /// What led here.
    by: Option<Choice>,
}

#[derive(Clone, Copy)]
enum Choice {
    Answered(usize),
    Open(usize),
}

struct Search {
    /// Answered calls and those of unknown outcome, each in the order in which they were asked.
    answered: Vec<Step>,
    open: Vec<Step>,
    answered_taken: Vec<bool>,
    open_taken: Vec<bool>,
    /// How many answers that are left need a value.
    due: HashMap<u64, u32>,
    /// Where the search has been, and how little it had spent by then.
    tried: HashMap<(u128, Standing), Vec<Spent>>,
}

pub(crate) fn search(calls: &[Call], known: &Known, steps_max: u64) -> (Verdict, u64) {
    let mut steps: Vec<Step> = (0..calls.len()).filter_map(|at| step(calls, known, at)).collect();
    steps.sort_by_key(|step| (step.asked_us, step.told_us));
    let (open, answered): (Vec<_>, Vec<_>) = steps.into_iter().partition(|step| step.outcome == Outcome::Unknown);
    let (answered_taken, open_taken) = (vec![false; answered.len()], vec![false; open.len()]);
    let mut due = HashMap::new();
    answered.iter().filter_map(Step::needs).for_each(|value| *due.entry(value).or_default() += 1);
    Search { answered, open, answered_taken, open_taken, due, tried: HashMap::new() }.run(calls, steps_max)
}

impl Search {
    fn run(&mut self, calls: &[Call], steps_max: u64) -> (Verdict, u64) {
        let mut begin = Point {
            standing: None,
            revision: 0,
            taken: 0,
            spent: Spent::default(),
            first: 0,
            next: Vec::new(),
            by: None,
        };
        begin.next = self.choices(&begin);
        let mut way = vec![begin];
        let (mut steps, mut placed, mut stuck) = (0, 0, String::new());
        while let Some(point) = way.last_mut() {
            if point.first == self.answered.len() {
                return (Verdict::Explained, steps);
            }
            let Some(choice) = point.next.pop() else {
                if placed < way.len() || stuck.is_empty() {
                    (placed, stuck) = (way.len(), self.stuck(&way, calls));
                }
                if let Some(Point { by: Some(by), .. }) = way.pop() {
                    self.mark(by, false);
                }
                continue;
            };
            steps += 1;
            if steps > steps_max {
                return (Verdict::Undecided, steps);
            }
            let Some(after) = self.after(way.last().expect("the way is not left yet"), choice) else { continue };
            way.push(after);
        }
        (Verdict::Violated(stuck), steps)
    }

    fn step(&self, choice: Choice) -> &Step {
        match choice {
            Choice::Answered(at) => &self.answered[at],
            Choice::Open(at) => &self.open[at],
        }
    }

    fn mark(&mut self, choice: Choice, taken: bool) {
        match choice {
            Choice::Answered(at) => self.answered_taken[at] = taken,
            Choice::Open(at) => self.open_taken[at] = taken,
        }
        if let Some(due) = self.step(choice).needs().and_then(|value| self.due.get_mut(&value)) {
            *due = if taken { *due - 1 } else { *due + 1 };
        }
    }

    /// Takes a step, unless it leads where the search has been.
    fn after(&mut self, point: &Point, choice: Choice) -> Option<Point> {
        let step = *self.step(choice);
        let standing = step.follows(point.standing)?;
        if step.revision.is_some_and(|revision| revision <= point.revision) {
            return None;
        }
        if let Some(value) = point.standing.filter(|_| standing != point.standing) {
            let others = self.due.get(&value).map_or(0, |due| due - u32::from(step.needs() == Some(value)));
            if others > 0 {
                return None;
            }
        }
        let (mut taken, mut spent) = (point.taken, point.spent);
        match (choice, step.sort()) {
            (Choice::Open(_), Some(sort)) => spent[sort] += 1,
            _ => taken = taken.wrapping_add(step.hash),
        }
        let before = self.tried.entry((taken, standing)).or_default();
        let no_more = |less: &Spent, more: &Spent| less.iter().zip(more).all(|(less, more)| less <= more);
        if before.iter().any(|less| no_more(less, &spent)) {
            return None;
        }
        before.retain(|more| !no_more(&spent, more));
        before.push(spent);
        self.mark(choice, true);
        let is_taken = |at: &usize| self.answered_taken.get(*at).copied().unwrap_or(false);
        let first = (point.first..).find(|at| !is_taken(at)).expect("the calls end");
        let revision = step.revision.unwrap_or(point.revision);
        let mut after = Point { standing, revision, taken, spent, first, next: Vec::new(), by: Some(choice) };
        after.next = self.choices(&after);
        Some(after)
    }

    /// What can come next: everything that was asked before the first of what is left was answered.
    fn choices(&self, point: &Point) -> Vec<Choice> {
        let mut until = u64::MAX;
        let mut answered = Vec::new();
        for (at, step) in self.answered.iter().enumerate().skip(point.first) {
            if step.asked_us > until {
                break;
            }
            if !self.answered_taken[at] {
                until = until.min(step.told_us);
                answered.push(at);
            }
        }
        answered.retain(|at| self.answered[*at].asked_us <= until);
        let mut open: Vec<(u32, usize)> = Vec::new();
        let mut alike: Vec<Deed> = Vec::new();
        for (at, step) in self.open.iter().enumerate().take_while(|(_, step)| step.asked_us <= until) {
            let Some(after) = step.follows(point.standing).filter(|_| !self.open_taken[at]) else { continue };
            if step.brings().is_none() {
                if alike.contains(&step.deed) {
                    continue;
                }
                alike.push(step.deed);
            }
            let due = answered.iter().map(|at| &self.answered[*at]);
            let helped: Vec<&Step> = due.filter(|due| due.follows(after).is_some()).collect();
            let is_named = helped.iter().any(|due| due.needs().is_some() && due.needs() == step.brings());
            match (helped.is_empty(), is_named, step.brings()) {
                (true, ..) if step.deed != Deed::Clear => {}
                (true, ..) => open.push((0, at)),
                (false, false, Some(_)) => open.push((1, at)),
                // A creation can come nowhere else.
                (false, false, None) => open.push((if step.sort() == Some(0) { 3 } else { 2 }, at)),
                (false, true, _) => open.push((4, at)),
            }
        }
        // The last is tried first.
        open.sort_by_key(|(rank, _)| *rank);
        answered.retain(|at| self.answered[*at].follows(point.standing).is_some());
        answered.sort_by_key(|at| std::cmp::Reverse(self.answered[*at].told_us));
        let open = open.into_iter().map(|(_, at)| Choice::Open(at));
        open.chain(answered.into_iter().map(Choice::Answered)).collect()
    }

    /// What a person needs to see why it cannot go on.
    fn stuck(&self, way: &[Point], calls: &[Call]) -> String {
        const SHOWN: usize = 4;
        let point = way.last().expect("the way begins somewhere");
        let told = |step: &Step| format!("\n    {}", calls[step.call]);
        let before = way.iter().rev().filter_map(|point| point.by).take(SHOWN).map(|by| told(self.step(by)));
        let before: Vec<String> = before.collect();
        let left = (point.first..self.answered.len()).filter(|at| !self.answered_taken[*at]);
        let left: String = left.take(SHOWN).map(|at| told(&self.answered[at])).collect();
        let standing = match point.standing {
            None => "nothing".to_owned(),
            Some(UNTOLD) => "a value of unknown outcome".to_owned(),
            Some(value) => format!("value {value}"),
        };
        let before: String = before.into_iter().rev().collect();
        let placed = self.answered_taken.iter().filter(|taken| **taken).count();
        format!(
            "no order explains all answers; the longest places {placed} of {}, the last of them{before}\n  and then \
             {standing} stands there, which explains none of{left}",
            self.answered.len()
        )
    }
}
