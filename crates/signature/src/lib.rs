//! What agents sign, and how it is checked: Ed25519 (RFC 8032) over canonical JSON (RFC 8785).
//!
//! - What is signed is the document as it was sent, without the signature: [`statement`] says which bytes these are.
//! - Verification is strict. A public key that is no key of anybody (a point of small order, or one spelled otherwise than
//!   it should be) is refused when it is read, a signature has one spelling, and what verifies here verifies everywhere.
//! - A number that readers of JSON understand differently is refused rather than signed.
//!
//! The crate does no I/O and knows nothing of the roll: whose key counts for what is decided there.
//!
//! Read in this order: [`key`], [`canonical`](mod@canonical), [`statement`].

pub mod canonical;
pub mod key;
pub mod statement;

pub use canonical::{NotCanonical, canonical};
pub use key::{KeyError, PublicKey, Signature, SigningKey, SigningKeyError};
