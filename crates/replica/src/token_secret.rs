//! The text of a token: what it names, and the secret that proves it. Drawn at the node that was asked for it, told once,
//! and known from then on by its digest alone.

use std::fmt::Write as _;

use rollcall_registry::SecretDigest;
use sha2::{Digest as _, Sha256};
use zeroize::{ZeroizeOnDrop, Zeroizing};

const ID_DIGITS: usize = 16;

const SECRET_BYTES: usize = 32;

/// A token as its bearer has it: `PREFIX-ID-SECRET`, both in hexadecimal digits. The prefix tells people, and programs that
/// look for secrets, what they found.
#[derive(ZeroizeOnDrop)]
pub struct TokenSecret {
    #[zeroize(skip)]
    id: u64,
    secret: [u8; SECRET_BYTES],
}

impl TokenSecret {
    /// A new one, of the system's random bits.
    pub fn draw() -> Self {
        Self { id: rand::random(), secret: rand::random() }
    }

    /// Another secret of a token that is there.
    pub fn draw_for(id: u64) -> Self {
        Self { id, secret: rand::random() }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn digest(&self) -> SecretDigest {
        SecretDigest(Sha256::digest(self.secret).into())
    }

    pub fn text(&self, prefix: &str) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + 2 + ID_DIGITS + 2 * SECRET_BYTES));
        write!(text, "{prefix}-{:016x}-", self.id).expect("writing to a string");
        self.secret.iter().for_each(|byte| write!(text, "{byte:02x}").expect("writing to a string"));
        text
    }

    /// None if the text is no token of this prefix.
    pub fn parse(prefix: &str, text: &str) -> Option<Self> {
        let (id, digits) = text.trim().strip_prefix(prefix)?.strip_prefix('-')?.split_once('-')?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let plain = |text: &str, count| text.len() == count && text.bytes().all(is_digit);
        if !plain(id, ID_DIGITS) || !plain(digits, 2 * SECRET_BYTES) {
            return None;
        }
        let mut secret = [0; SECRET_BYTES];
        for (byte, at) in secret.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
        }
        Some(Self { id: u64::from_str_radix(id, 16).ok()?, secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let secret = TokenSecret::draw();
        let text = secret.text("rcx");
        assert_eq!(text.len(), 3 + 1 + 16 + 1 + 64);
        let read = TokenSecret::parse("rcx", &format!("{}\n", *text)).unwrap();
        assert_eq!((read.id(), read.digest()), (secret.id(), secret.digest()));
        let again = TokenSecret::draw_for(secret.id());
        assert_eq!(again.id(), secret.id());
        assert_ne!(again.digest(), secret.digest());
        for wrong in [
            "",
            "rcx",
            "rcx-1-2",
            &text[1..],
            &text[..text.len() - 1],
            &text.replace('-', "_"),
            &text.replacen("rcx", "rcy", 1),
        ] {
            assert!(TokenSecret::parse("rcx", wrong).is_none(), "{wrong}");
        }
        assert!(TokenSecret::parse("rcx", &format!("{}é", &text[..text.len() - 2])).is_none());
    }
}
