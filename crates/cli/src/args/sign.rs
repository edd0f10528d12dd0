//! `rollcall sign`, `rollcall owner-key`, `rollcall signatures`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// By which key a registration is signed.
#[derive(Args, Debug, Default)]
pub(crate) struct SignKey {
    /// Sign by this Ed25519 key (PKCS #8, PEM), which is the owner's
    #[arg(long, value_name = "FILE", env = "ROLLCALL_SIGN_KEY")]
    pub(crate) sign_key: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(subcommand_negates_reqs = true)]
pub(crate) struct Sign {
    #[command(subcommand)]
    pub(crate) step: Option<SignStep>,
    /// The registration as JSON; `-` reads standard input. What is printed has its public key and signature
    #[arg(value_name = "FILE", required = true)]
    pub(crate) file: Option<PathBuf>,
    /// The owner's Ed25519 key (PKCS #8, PEM)
    #[arg(long, value_name = "FILE", env = "ROLLCALL_SIGN_KEY", required = true)]
    pub(crate) key: Option<PathBuf>,
    /// Put the time into its metadata, so that it differs from what was signed and withdrawn before
    #[arg(long)]
    pub(crate) stamp: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SignStep {
    /// Make a key. Its public half is printed; nothing is overwritten
    Keygen {
        /// Where to: readable by its owner only
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the public half of a key
    PublicKey {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the signature under which an instance can be taken off
    Deregistration {
        /// The instance
        id: String,
        #[arg(long)]
        owner: String,
        /// Of the registration, as the instance shows it
        #[arg(long, value_name = "SIGNATURE")]
        registration_signature: String,
        /// The owner's Ed25519 key (PKCS #8, PEM)
        #[arg(long, value_name = "FILE", env = "ROLLCALL_SIGN_KEY")]
        key: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum OwnerKey {
    /// Show the owners who have a key
    List,
    /// Give an owner a key, or another one: only who signs by it acts in the owner's name from then on
    Replace {
        owner: String,
        /// In base64 or hexadecimal, as `rollcall sign public-key` prints it
        #[arg(value_name = "PUBLIC_KEY")]
        public_key: String,
    },
    /// Take an owner's key away: the next one that signs in the owner's name is the owner's
    Remove { owner: String },
}

#[derive(Args, Debug)]
pub(crate) struct Signatures {
    /// off, accepted or required; `default` is what the nodes are configured to [default: show how they are taken]
    #[arg(value_name = "MODE")]
    pub(crate) mode: Option<String>,
}
