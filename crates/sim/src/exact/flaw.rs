//! Deliberate breaks, to prove that the simulation can fail. Each takes away one rule that a promise stands on, in the
//! simulated world or on the way into and out of the product's logic; none is a switch of the product.

/// A rule that is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// A copy counts, and an append is answered, before it is flushed.
    UnflushedCounts,
    /// A restarted node forgets whom it voted for.
    VoteForgotten,
    /// A new leader's clock starts at nothing.
    ClockFromNothing,
    /// A leader is credited all the time that passed, also while it was away.
    NoStepCap,
    /// After a change of leader expiries go on at once.
    NoGrace,
    /// What a leader saw as lapsed is struck off by name, without looking at it again.
    ExpiryUnchecked,
    /// Whoever knows an instance's id may renew it with an older lease.
    IncarnationForgotten,
    /// What is proposed again gets another origin.
    NewOriginOnRetry,
    /// A node does not count how often its process has started.
    StartsForgotten,
    /// A lost answer is taken for a batch that was not sent.
    LostIsNotProposed,
    /// An entry that was cut off here is taken for one that is nowhere.
    DiscardedIsNotProposed,
    /// An entry stamped in one lead may enter the log of the next.
    Unpinned,
    /// A node that was never current since its start answers.
    ServesUnready,
    /// A read index is told without asking a quorum.
    ReadWithoutQuorum,
    /// A confirmed read does not wait until its index is applied.
    ReadWithoutApply,
    /// What a leader says counts from when it arrives, not from when it can have been said.
    FreshFromArrival,
    /// A restart applies the last entry of its checkpoint once more.
    ReplaysTwice,
    /// Answered as soon as the leader has applied it, before this node has.
    AnsweredBeforeApplied,
}

impl Flaw {
    pub const ALL: &[Self] = &[
        Self::UnflushedCounts,
        Self::VoteForgotten,
        Self::ClockFromNothing,
        Self::NoStepCap,
        Self::NoGrace,
        Self::ExpiryUnchecked,
        Self::IncarnationForgotten,
        Self::NewOriginOnRetry,
        Self::StartsForgotten,
        Self::LostIsNotProposed,
        Self::DiscardedIsNotProposed,
        Self::Unpinned,
        Self::ServesUnready,
        Self::ReadWithoutQuorum,
        Self::ReadWithoutApply,
        Self::FreshFromArrival,
        Self::ReplaysTwice,
        Self::AnsweredBeforeApplied,
    ];
}
