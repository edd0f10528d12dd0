//! Keys and signatures, and their spellings.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use pem::{EncodeConfig, LineEnding, Pem};
use zeroize::Zeroizing;

const PUBLIC_KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// May stand before a key or a signature.
const PREFIX: &str = "ed25519:";

/// The tag of a PKCS #8 private key in PEM, as OpenSSL writes it.
const PRIVATE_KEY: &str = "PRIVATE KEY";

/// The points of small order, without their sign. As a public key one of them makes signatures that are right for
/// anything; no key was ever made so.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    with_ends([1, 0], 0),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    with_ends([0xec, 0xff], 0x7f),
    with_ends([0xed, 0xff], 0x7f),
    with_ends([0xee, 0xff], 0x7f),
];

/// 32 bytes: a first one, a last one, and 30 alike between them.
const fn with_ends([first, between]: [u8; 2], last: u8) -> [u8; 32] {
    let mut bytes = [between; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// Why a text is no key or no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("must be {bytes} bytes in base64 or hexadecimal")]
    Spelling { bytes: usize },
    #[error("is no Ed25519 public key")]
    NoPoint,
}

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    /// From base64 (either alphabet, padded or not) or hexadecimal, with or without `ed25519:` before it.
    ///
    /// # Errors
    /// When it is spelled wrong, or is no key of anybody.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(decode(text).ok_or(KeyError::Spelling { bytes: PUBLIC_KEY_BYTES })?)
    }

    /// # Errors
    /// When they are no key of anybody.
    pub fn from_bytes(bytes: [u8; PUBLIC_KEY_BYTES]) -> Result<Self, KeyError> {
        if is_small_or_misspelled(bytes) { Err(KeyError::NoPoint) } else { Ok(Self(bytes)) }
    }

    pub fn as_bytes(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.0
    }

    /// Whether a signature is this key's for a message.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let mut point = [0; 32];
        point.copy_from_slice(&signature.0[..32]);
        // The verifier takes one spelling of each scalar and of each point, and lacks this.
        !is_small_or_misspelled(point)
            && UnparsedPublicKey::new(&ED25519, &self.0).verify(message, &signature.0).is_ok()
    }
}

/// In base64 with padding.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

/// A signature, right or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature([u8; SIGNATURE_BYTES]);

impl Signature {
    /// As [`PublicKey::parse`].
    ///
    /// # Errors
    /// When it is spelled wrong.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self).ok_or(KeyError::Spelling { bytes: SIGNATURE_BYTES })
    }
}

/// In base64 with padding.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

/// Why there is no private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    #[error("it is no PEM with a PRIVATE KEY (PKCS #8)")]
    Pem,
    #[error("it is no Ed25519 key")]
    Algorithm,
}

/// A private key.
#[derive(Clone, Debug)]
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A new one.
    ///
    /// # Panics
    /// When the machine has no randomness to give.
    pub fn generate() -> Self {
        Self(Ed25519KeyPair::generate().expect("the machine gives randomness"))
    }

    /// The key that is made of a seed (RFC 8032).
    ///
    /// # Panics
    /// Never: any 32 bytes are a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed"))
    }

    /// # Errors
    /// When the text is no PKCS #8 key in PEM, as [`to_pem`](Self::to_pem) and `openssl genpkey -algorithm ed25519` write it.
    pub fn from_pem(text: &str) -> Result<Self, SigningKeyError> {
        let pem = pem::parse(text).ok().filter(|pem| pem.tag() == PRIVATE_KEY).ok_or(SigningKeyError::Pem)?;
        let pkcs8 = Zeroizing::new(pem.into_contents());
        Ed25519KeyPair::from_pkcs8(&pkcs8).map(Self).map_err(|_| SigningKeyError::Algorithm)
    }

    /// # Panics
    /// When the library cannot write down its own key.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let pkcs8 = self.0.to_pkcs8v1().expect("a key can be written down");
        let pem = Pem::new(PRIVATE_KEY, pkcs8.as_ref());
        Zeroizing::new(pem::encode_config(&pem, EncodeConfig::new().set_line_ending(LineEnding::LF)))
    }

    pub fn public_key(&self) -> PublicKey {
        let bytes = self.0.public_key().as_ref().try_into().expect("a public key has 32 bytes");
        PublicKey(bytes)
    }

    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).as_ref().try_into().expect("a signature has 64 bytes"))
    }
}

/// A point of small order, or one whose coordinate is not below the field's prime, 2²⁵⁵ − 19.
fn is_small_or_misspelled(mut point: [u8; 32]) -> bool {
    point[31] &= 0x7f;
    let beyond = point[0] >= 0xed && point[1..31].iter().all(|byte| *byte == 0xff) && point[31] == 0x7f;
    beyond || SMALL_ORDER.contains(&point)
}

fn engine(alphabet: &Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

fn encode(bytes: &[u8]) -> String {
    engine(&STANDARD).encode(bytes)
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.strip_prefix(PREFIX).unwrap_or(text);
    if text.len() == 2 * N {
        return of_hex(text);
    }
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine(alphabet).decode(text).ok()?.try_into().ok()
}

fn of_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The order of the base point.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];

    #[test]
    fn a_key_has_many_spellings_and_is_shown_in_one() {
        let key = SigningKey::generate().public_key();
        let standard = key.to_string();
        let hex: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let url = standard.replace('+', "-").replace('/', "_");
        for spelling in
            [&standard, &hex, &hex.to_uppercase(), &url, url.trim_end_matches('='), standard.trim_end_matches('=')]
        {
            assert_eq!(PublicKey::parse(spelling), Ok(key), "{spelling}");
            assert_eq!(PublicKey::parse(&format!("ed25519:{spelling}")), Ok(key), "{spelling}");
        }
        for bad in [
            "",
            "ed25519:",
            &standard[1..],
            &format!("{standard}A"),
            &hex[2..],
            "é",
            &"z".repeat(64),
            &format!(" {standard}"),
        ] {
            assert_eq!(PublicKey::parse(bad), Err(KeyError::Spelling { bytes: 32 }), "{bad}");
        }
    }

    #[test]
    fn a_key_comes_back_from_its_pem() {
        let key = SigningKey::generate();
        let pem = key.to_pem();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n") && !pem.contains('\r'));
        assert_eq!(SigningKey::from_pem(&pem).unwrap().public_key(), key.public_key());
        let openssl = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
        let key = SigningKey::from_pem(openssl).unwrap().public_key();
        assert_eq!(key.to_string(), "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
        for (bad, error) in [
            ("", SigningKeyError::Pem),
            ("no PEM", SigningKeyError::Pem),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", SigningKeyError::Pem),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", SigningKeyError::Algorithm),
        ] {
            assert_eq!(SigningKey::from_pem(bad).unwrap_err(), error, "{bad}");
        }
    }

    #[test]
    fn keys_of_nobody_are_refused() {
        for point in SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut point = point;
                point[31] |= sign;
                assert_eq!(PublicKey::from_bytes(point), Err(KeyError::NoPoint), "{point:02x?}");
            }
        }
        // The neutral element as a key, and as the point of a signature with the scalar zero, would sign anything.
        let (neutral, mut signature) = (with_ends([1, 0], 0), [0; 64]);
        signature[0] = 1;
        assert!(
            UnparsedPublicKey::new(&ED25519, neutral).verify(b"anything", &signature).is_ok(),
            "it is for us to refuse"
        );
        // A coordinate that is written with the prime added.
        for first in 0xed..=0xff {
            assert!(PublicKey::from_bytes(with_ends([first, 0xff], 0x7f)).is_err());
        }
    }

    #[test]
    fn a_signature_has_one_spelling() {
        let key = SigningKey::generate();
        let signature = key.sign(b"message");
        assert!(key.public_key().verifies(b"message", &signature));
        // The scalar with the order added stands for the same scalar.
        let (mut other, mut carry) = (signature.0, 0);
        for (byte, order) in other[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert!(!key.public_key().verifies(b"message", &Signature(other)));
        // A point of small order in the signature.
        let mut small = signature.0;
        small[..32].copy_from_slice(&SMALL_ORDER[2]);
        assert!(!key.public_key().verifies(b"message", &Signature(small)));
    }

    proptest! {
        #[test]
        fn what_is_changed_no_longer_verifies(message in any::<[u8; 32]>(), bit in 0..(64 + 32) * 8usize) {
            let key = SigningKey::generate();
            let (mut changed, signature) = (message, key.sign(&message));
            let mut bytes = signature.0;
            match bit / 8 {
                at @ 0..64 => bytes[at] ^= 1 << (bit % 8),
                at => changed[at - 64] ^= 1 << (bit % 8),
            }
            prop_assert!(key.public_key().verifies(&message, &signature));
            prop_assert!(!key.public_key().verifies(&changed, &Signature(bytes)));
            prop_assert!(!SigningKey::generate().public_key().verifies(&message, &signature));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,140}") {
            let _ = PublicKey::parse(&text);
            let _ = Signature::parse(&text);
            let _ = SigningKey::from_pem(&text);
        }
    }
}
