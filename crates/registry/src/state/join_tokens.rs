//! Join tokens: what proves that a node may join. A table of its own, beside the roll: it takes no revision, is no event,
//! and belongs to no tenant.
//!
//! The state knows the digest of a secret and never the secret. A token is good until its time has passed, by cluster
//! time, or until all its uses are spent; a node that was admitted and asks again from the same address, because its first
//! answer was lost, spends nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::State;
use super::touched::{TableDelta, Touched};
use crate::access::{SecretDigest, TokenIdError, token_number};
use crate::command::{Outcome, Refusal};
use crate::digest;
use crate::ids::{ClusterTime, WallTime};

/// Tokens there may be at once. One is made for each growth of a cluster and lasts an hour or so.
pub const JOIN_TOKENS_MAX: usize = 256;

/// Longest life of a token, 30 days: a secret that lies about for longer is found by somebody.
pub const JOIN_TOKEN_TTL_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// Uses that can be counted. Each is kept with its address, so that all tokens together stay below 8 MiB; a cluster has a
/// dozen nodes.
pub const JOIN_TOKEN_USES_MAX: u32 = 100;

/// Longest address of a node: a DNS name has at most 253 bytes, and a port five digits.
pub const NODE_ADDRESS_BYTES_MAX: usize = 260;

/// Names a token. Drawn by the node that made it, and no part of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JoinTokenId(pub u64);

impl fmt::Display for JoinTokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for JoinTokenId {
    type Err = TokenIdError;

    fn from_str(text: &str) -> Result<Self, TokenIdError> {
        token_number(text).map(Self)
    }
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    pub id: JoinTokenId,
    pub secret: SecretDigest,
    /// Admits only nodes that stay learners.
    pub learners_only: bool,
    pub expires_at: ClusterTime,
    /// None: any number of nodes.
    pub uses_max: Option<u32>,
    pub uses: u32,
    /// Whom it admitted, where uses are counted.
    pub admitted: Vec<Box<str>>,
    pub created_at: WallTime,
}

/// What is asked of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinTokenCommand {
    Create {
        id: JoinTokenId,
        secret: SecretDigest,
        learners_only: bool,
        ttl_ms: u64,
        uses_max: Option<u32>,
    },
    Revoke {
        id: JoinTokenId,
    },
    /// A node shows a token at the door.
    Spend(Admission),
}

/// Who wants to come in, and what proves that it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    pub id: JoinTokenId,
    pub secret: SecretDigest,
    /// The node's peer address.
    pub address: Box<str>,
    /// It is to stay a learner.
    pub learner: bool,
}

/// Why a token was not made, or admits nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinTokenRefusal {
    /// Said of a wrong secret too, so that ids cannot be tried out.
    #[error("the join token is not known to this cluster: it is wrong, was revoked, or expired long ago")]
    Unknown,
    #[error("the join token has expired")]
    Expired,
    #[error("the join token has admitted the {uses_max} nodes that it was made for")]
    UsedUp { uses_max: u32 },
    #[error("the join token admits learners only")]
    LearnersOnly,
    #[error("there is a join token of this id already")]
    Exists,
    #[error("there are {max} join tokens already; revoke some, or wait until they expire")]
    TooMany { max: u32 },
    #[error("a join token, or the address of who brings it, is beyond what is kept")]
    OutOfBounds,
}

pub type JoinTokenDelta = TableDelta<JoinTokenId, JoinToken>;

#[derive(Debug, Default)]
pub(super) struct JoinTokens {
    rows: BTreeMap<JoinTokenId, JoinToken>,
    touched: Touched<JoinTokenId>,
}

impl JoinTokens {
    pub(super) fn rows(&self) -> impl Iterator<Item = &JoinToken> {
        self.rows.values()
    }

    pub(super) fn take_delta(&mut self) -> JoinTokenDelta {
        self.touched.take(|id| self.rows.get(id).cloned())
    }
}

impl State {
    /// All join tokens by their ids, those that have expired and were not cleared away yet among them.
    pub fn join_tokens(&self) -> impl Iterator<Item = &JoinToken> {
        self.join_tokens.rows()
    }

    /// Whether a token would admit a node at this cluster time, which may be later than that of the last entry.
    pub fn check_admission(&self, admission: &Admission, now: ClusterTime) -> Result<(), JoinTokenRefusal> {
        let Admission { id, secret, address, learner } = admission;
        let token = self.join_tokens.rows.get(id).filter(|token| token.secret == *secret);
        let token = token.ok_or(JoinTokenRefusal::Unknown)?;
        if address.len() > NODE_ADDRESS_BYTES_MAX {
            return Err(JoinTokenRefusal::OutOfBounds);
        }
        if token.expires_at <= now {
            return Err(JoinTokenRefusal::Expired);
        }
        if token.learners_only && !learner {
            return Err(JoinTokenRefusal::LearnersOnly);
        }
        match token.uses_max {
            Some(uses_max) if token.uses >= uses_max && !token.admitted.contains(address) => {
                Err(JoinTokenRefusal::UsedUp { uses_max })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn join_token(&mut self, command: &JoinTokenCommand) -> Result<Outcome, Refusal> {
        let row = match command {
            JoinTokenCommand::Create { id, secret, learners_only, ttl_ms, uses_max } => {
                let within = (1..=JOIN_TOKEN_TTL_MS_MAX).contains(ttl_ms)
                    && uses_max.is_none_or(|uses| (1..=JOIN_TOKEN_USES_MAX).contains(&uses));
                if !within {
                    return Err(JoinTokenRefusal::OutOfBounds.into());
                }
                self.clear_expired_join_tokens();
                if self.join_tokens.rows.contains_key(id) {
                    return Err(JoinTokenRefusal::Exists.into());
                }
                if self.join_tokens.rows.len() >= JOIN_TOKENS_MAX {
                    return Err(JoinTokenRefusal::TooMany { max: JOIN_TOKENS_MAX as u32 }.into());
                }
                JoinToken {
                    id: *id,
                    secret: *secret,
                    learners_only: *learners_only,
                    expires_at: self.now.plus_ms(*ttl_ms),
                    uses_max: *uses_max,
                    uses: 0,
                    admitted: Vec::new(),
                    created_at: self.wall,
                }
            }
            JoinTokenCommand::Revoke { id } => {
                let revoked = self.remove_join_token(*id).ok_or(JoinTokenRefusal::Unknown)?;
                return Ok(Outcome::JoinToken(Box::new(revoked)));
            }
            JoinTokenCommand::Spend(admission) => {
                self.check_admission(admission, self.now)?;
                let mut token = self.join_tokens.rows[&admission.id].clone();
                if token.admitted.contains(&admission.address) {
                    return Ok(Outcome::JoinToken(Box::new(token)));
                }
                token.uses = token.uses.saturating_add(1);
                if token.uses_max.is_some() {
                    token.admitted.push(admission.address.clone());
                }
                token
            }
        };
        self.put_join_token(row.clone());
        Ok(Outcome::JoinToken(Box::new(row)))
    }

    fn put_join_token(&mut self, row: JoinToken) {
        self.rows.add(digest::of_join_token(&row));
        self.join_tokens.touched.touch(row.id);
        if let Some(before) = self.join_tokens.rows.insert(row.id, row) {
            self.rows.remove(digest::of_join_token(&before));
        }
    }

    fn remove_join_token(&mut self, id: JoinTokenId) -> Option<JoinToken> {
        let row = self.join_tokens.rows.remove(&id)?;
        self.rows.remove(digest::of_join_token(&row));
        self.join_tokens.touched.touch(id);
        Some(row)
    }

    /// Makes room. Until then who brings one is told that it expired, which helps more than that it is unknown.
    fn clear_expired_join_tokens(&mut self) {
        let rows = self.join_tokens.rows();
        let expired: Vec<_> = rows.filter(|row| row.expires_at <= self.now).map(|row| row.id).collect();
        expired.into_iter().for_each(|id| drop(self.remove_join_token(id)));
    }

    /// A row that is in the checkpoint. False if it cannot be one.
    pub(super) fn restore_join_token(&mut self, row: JoinToken) -> bool {
        let within = self.join_tokens.rows.len() < JOIN_TOKENS_MAX
            && row.uses_max.is_none_or(|max| row.uses <= max && max <= JOIN_TOKEN_USES_MAX)
            && row.admitted.len() <= row.uses as usize
            && row.expires_at <= self.now.plus_ms(JOIN_TOKEN_TTL_MS_MAX);
        let id = row.id;
        if !within || self.join_tokens.rows.contains_key(&id) {
            return false;
        }
        self.put_join_token(row);
        self.join_tokens.touched.restored(id);
        true
    }
}
