//! A join token as its bearer has it.

use rollcall_registry::{Admission, JoinTokenId, SecretDigest};
use zeroize::Zeroizing;

use crate::token_secret::TokenSecret;

const PREFIX: &str = "rcjoin";

/// `rcjoin-ID-SECRET`.
pub struct JoinSecret(TokenSecret);

impl JoinSecret {
    /// A new one, of the system's random bits.
    pub fn draw() -> Self {
        Self(TokenSecret::draw())
    }

    pub fn id(&self) -> JoinTokenId {
        JoinTokenId(self.0.id())
    }

    pub fn digest(&self) -> SecretDigest {
        self.0.digest()
    }

    pub fn text(&self) -> Zeroizing<String> {
        self.0.text(PREFIX)
    }

    /// None if the text is no token.
    pub fn parse(text: &str) -> Option<Self> {
        TokenSecret::parse(PREFIX, text).map(Self)
    }

    /// What a node at this peer address asks by it.
    pub(crate) fn admission(&self, address: &str, learner: bool) -> Admission {
        Admission { id: self.id(), secret: self.digest(), address: address.into(), learner }
    }
}
