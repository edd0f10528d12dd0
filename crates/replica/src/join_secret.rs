//! The text of a join token: what it names, and the secret that proves it. Drawn at the node that was asked for it, told
//! once, and known from then on by its digest alone.

use std::fmt::Write as _;

use rollcall_registry::{Admission, JoinTokenId, SecretDigest};
use sha2::{Digest as _, Sha256};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Tells people and secret scanners what they found.
const PREFIX: &str = "rcjoin";

const SECRET_BYTES: usize = 32;

/// A join token as its bearer has it: `rcjoin-ID-SECRET`, both in hexadecimal digits.
#[derive(ZeroizeOnDrop)]
pub struct JoinSecret {
    #[zeroize(skip)]
    id: JoinTokenId,
    secret: [u8; SECRET_BYTES],
}

impl JoinSecret {
    /// A new one, of the system's random bits.
    pub fn draw() -> Self {
        Self { id: JoinTokenId(rand::random()), secret: rand::random() }
    }

    pub fn id(&self) -> JoinTokenId {
        self.id
    }

    pub fn digest(&self) -> SecretDigest {
        SecretDigest(Sha256::digest(self.secret).into())
    }

    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 + 16 + 2 * SECRET_BYTES));
        write!(text, "{PREFIX}-{}-", self.id).expect("writing to a string");
        self.secret.iter().for_each(|byte| write!(text, "{byte:02x}").expect("writing to a string"));
        text
    }

    /// None if the text is no token.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, digits) = text.trim().strip_prefix(PREFIX)?.strip_prefix('-')?.split_once('-')?;
        let mut secret = [0; SECRET_BYTES];
        if digits.len() != 2 * SECRET_BYTES || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, at) in secret.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
        }
        Some(Self { id: id.parse().ok()?, secret })
    }

    /// What a node at this peer address asks by it.
    pub(crate) fn admission(&self, address: &str, learner: bool) -> Admission {
        Admission { id: self.id, secret: self.digest(), address: address.into(), learner }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let secret = JoinSecret::draw();
        let text = secret.text();
        assert_eq!(text.len(), 6 + 1 + 16 + 1 + 64);
        let read = JoinSecret::parse(&format!("{}\n", *text)).unwrap();
        assert_eq!((read.id(), read.digest()), (secret.id(), secret.digest()));
        assert_ne!(JoinSecret::draw().digest(), secret.digest());
        for wrong in ["", "rcjoin", "rcjoin-1-2", &text[1..], &text[..text.len() - 1], &text.replace('-', "_")] {
            assert!(JoinSecret::parse(wrong).is_none(), "{wrong}");
        }
        assert!(JoinSecret::parse(&format!("{}é", &text[..text.len() - 2])).is_none());
    }
}
