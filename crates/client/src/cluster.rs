//! Changes of the cluster itself, for operators.

use reqwest::Method;
use rollcall_api::{AddMemberRequest, RelocateMemberRequest, ReplaceMemberRequest, TransferLeaderRequest};

use crate::error::Error;
use crate::request::{Repeat, Request};

/// One step of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterChange {
    /// Takes in a node that waits to be added.
    Add(AddMemberRequest),
    /// Makes a voter of a learner that has caught up.
    Promote {
        node_id: u64,
    },
    /// Makes a learner of a voter.
    Demote {
        node_id: u64,
    },
    Remove {
        node_id: u64,
    },
    /// Takes in a node that takes the place of another once it has caught up.
    Replace {
        node_id: u64,
        successor: ReplaceMemberRequest,
    },
    /// Says where a node is reached from now on.
    Relocate {
        node_id: u64,
        to: RelocateMemberRequest,
    },
    /// Hands over the lead.
    Transfer(TransferLeaderRequest),
}

/// How a change is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeTerms {
    /// Check everything and change nothing.
    pub dry_run: bool,
    /// Even if too few of the voters that would remain can be reached.
    pub force: bool,
    /// Only if the membership is still that of this log entry.
    pub if_membership: Option<u64>,
}

impl ClusterChange {
    pub(crate) fn request(&self) -> Result<Request, Error> {
        let of = |method, path: &[&str]| Request::new(method, path, Repeat::IfNotApplied);
        let member = |method, node_id: &u64, rest: &[&str]| {
            let node_id = node_id.to_string();
            of(method, &[&["api", "cluster", "members", &node_id], rest].concat())
        };
        match self {
            Self::Add(node) => of(Method::POST, &["api", "cluster", "members"]).json(node),
            Self::Promote { node_id } => Ok(member(Method::POST, node_id, &["promote"])),
            Self::Demote { node_id } => Ok(member(Method::POST, node_id, &["demote"])),
            Self::Remove { node_id } => Ok(member(Method::DELETE, node_id, &[])),
            Self::Replace { node_id, successor } => member(Method::POST, node_id, &["replace"]).json(successor),
            Self::Relocate { node_id, to } => member(Method::POST, node_id, &["address"]).json(to),
            Self::Transfer(to) => of(Method::POST, &["api", "cluster", "leader"]).json(to),
        }
    }
}

impl ChangeTerms {
    pub(crate) fn parameters(self) -> Vec<(&'static str, String)> {
        let mut parameters = Vec::new();
        for (name, set) in [("dry_run", self.dry_run), ("force", self.force)] {
            if set {
                parameters.push((name, "true".to_owned()));
            }
        }
        parameters.extend(self.if_membership.map(|index| ("if_membership", index.to_string())));
        parameters
    }
}
