//! Makes two authorities of one's own and certificates for a trial: one authority for what clients see, one for nodes
//! among themselves. A directory that holds the authorities already gets certificates for further nodes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;

/// Authorities outlive what they sign.
const AUTHORITY_DAYS: u32 = 3_650;

/// Beyond the authorities nothing is of use.
pub const DAYS_MAX: u32 = AUTHORITY_DAYS;

const DIRECTORY_MODE: u32 = 0o700;
const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

/// Clients on the node's own machine reach it there; nodes among themselves do so only where they are told to.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Trial {
    pub dir: PathBuf,
    pub nodes: Vec<Hosts>,
    /// Clients that are to have certificates of their own, by name.
    pub clients: Vec<String>,
    /// How long the certificates are good, at most [`DAYS_MAX`].
    pub days: u32,
}

/// A node and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// Its first host, and the name of its directory.
    pub name: String,
    /// Further names and addresses.
    pub others: Vec<String>,
}

/// What was made, by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub client_ca: PathBuf,
    pub peer_ca: PathBuf,
    /// Whether the authorities were there before.
    pub authorities_kept: bool,
    pub nodes: Vec<MadeNode>,
    pub clients: Vec<MadeClient>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeNode {
    pub name: String,
    pub tls_cert: PathBuf,
    pub tls_key: PathBuf,
    pub peer_tls_cert: PathBuf,
    pub peer_tls_key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeClient {
    pub name: String,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why nothing was made, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("`{name}` is no host name or address that can stand in a certificate")]
    Name { name: String },
    #[error("`{name}` is named twice")]
    Twice { name: String },
    #[error("{} there already", listed(paths))]
    Exists { paths: Vec<PathBuf> },
    #[error("{path} is there and {missing} is not: the authority is not whole")]
    Halved { path: PathBuf, missing: PathBuf },
    #[error("{path} was not made for this: {reason}")]
    Foreign { path: PathBuf, reason: String },
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("make {what}")]
    Make {
        what: String,
        #[source]
        source: rcgen::Error,
    },
}

fn listed(paths: &[PathBuf]) -> String {
    let all: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    format!("{} {}", all.join(", "), if all.len() == 1 { "is" } else { "are" })
}

impl Hosts {
    /// `NAME[,ADDRESS…]`
    pub fn parse(text: &str) -> Result<Self, InitError> {
        let mut all = text.split(',').map(|host| host.trim().trim_matches(['[', ']']).to_owned());
        let name = all.next().unwrap_or_default();
        let hosts = Self { name, others: all.collect() };
        for host in hosts.all() {
            check_name(host)?;
        }
        Ok(hosts)
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.others.iter().map(String::as_str))
    }
}

/// What stands in certificates is a good name for a directory too: it holds no slash, and is neither `.` nor `..`.
fn check_name(name: &str) -> Result<(), InitError> {
    ServerName::try_from(name).map(drop).map_err(|_| InitError::Name { name: name.to_owned() })
}

/// A file to be.
struct Draft {
    path: PathBuf,
    text: String,
    mode: u32,
}

/// An authority with its key at hand.
struct Authority {
    what: &'static str,
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
    is_new: bool,
}

/// Makes it all, or, where anything of it is there already, nothing. Everything is made before the first file is
/// written.
pub fn init(trial: &Trial) -> Result<Made, InitError> {
    let names = trial.nodes.iter().map(|node| &node.name).chain(&trial.clients);
    let mut known = std::collections::BTreeSet::new();
    for name in names {
        check_name(name)?;
        if !known.insert(name) {
            return Err(InitError::Twice { name: name.clone() });
        }
    }
    let mut drafts = Vec::new();
    let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let clients = Authority::find_or_make(&trial.dir, "client-ca", "Rollcall client CA", today, &mut drafts)?;
    let peers = Authority::find_or_make(&trial.dir, "peer-ca", "Rollcall peer CA", today, &mut drafts)?;
    let until = later(today, trial.days.min(DAYS_MAX));
    let mut nodes = Vec::new();
    for node in &trial.nodes {
        let here = trial.dir.join(&node.name);
        let hosts: Vec<&str> = node.all().collect();
        let seen: Vec<&str> =
            hosts.iter().copied().chain(LOOPBACK.into_iter().filter(|h| !hosts.contains(h))).collect();
        let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        let (tls_cert, tls_key) = clients.issue(
            &here.join("tls"),
            &node.name,
            &seen,
            std::slice::from_ref(&server),
            (today, until),
            &mut drafts,
        )?;
        let (peer_tls_cert, peer_tls_key) =
            peers.issue(&here.join("peer"), &node.name, &hosts, &[server, client], (today, until), &mut drafts)?;
        nodes.push(MadeNode { name: node.name.clone(), tls_cert, tls_key, peer_tls_cert, peer_tls_key });
    }
    let mut made_clients = Vec::new();
    for name in &trial.clients {
        let (stem, purposes) = (trial.dir.join(name).join("client"), [ExtendedKeyUsagePurpose::ClientAuth]);
        let (cert, key) = clients.issue(&stem, name, &[name], &purposes, (today, until), &mut drafts)?;
        made_clients.push(MadeClient { name: name.clone(), cert, key });
    }
    write_all(&trial.dir, &drafts)?;
    Ok(Made {
        authorities_kept: !clients.is_new && !peers.is_new,
        client_ca: clients.ca,
        peer_ca: peers.ca,
        nodes,
        clients: made_clients,
    })
}

impl Authority {
    fn find_or_make(
        dir: &Path,
        stem: &str,
        what: &'static str,
        today: Date,
        drafts: &mut Vec<Draft>,
    ) -> Result<Self, InitError> {
        let (ca, key_path) = (dir.join(format!("{stem}.pem")), dir.join(format!("{stem}.key")));
        let (has_ca, has_key) = (ca.exists(), key_path.exists());
        if has_ca != has_key {
            let (path, missing) = if has_ca { (ca, key_path) } else { (key_path, ca) };
            return Err(InitError::Halved { path, missing });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = named(what);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, earlier(today), later(today, AUTHORITY_DAYS));
        if has_ca {
            let key = kept_key(&key_path)?;
            check_kept(&ca, &key, what)?;
            return Ok(Self { what, issuer: Issuer::new(params, key), ca, is_new: false });
        }
        let failed = |source| InitError::Make { what: what.to_owned(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        drafts.push(Draft { path: ca.clone(), text: certificate.pem(), mode: PUBLIC_MODE });
        drafts.push(Draft { path: key_path, text: key.serialize_pem(), mode: SECRET_MODE });
        Ok(Self { what, issuer: Issuer::new(params, key), ca, is_new: true })
    }

    fn issue(
        &self,
        stem: &Path,
        name: &str,
        hosts: &[&str],
        purposes: &[ExtendedKeyUsagePurpose],
        (from, until): (Date, Date),
        drafts: &mut Vec<Draft>,
    ) -> Result<(PathBuf, PathBuf), InitError> {
        let failed =
            |source| InitError::Make { what: format!("a certificate of the {} for {name}", self.what), source };
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).map_err(failed)?;
        params.distinguished_name = named(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes.to_vec();
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, earlier(from), until);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let (cert_path, key_path) = (stem.with_extension("pem"), stem.with_extension("key"));
        drafts.push(Draft { path: cert_path.clone(), text: certificate.pem(), mode: PUBLIC_MODE });
        drafts.push(Draft { path: key_path.clone(), text: key.serialize_pem(), mode: SECRET_MODE });
        Ok((cert_path, key_path))
    }
}

fn kept_key(path: &Path) -> Result<KeyPair, InitError> {
    let text = fs::read_to_string(path).map_err(|source| InitError::Read { path: path.to_owned(), source })?;
    let text = zeroize::Zeroizing::new(text);
    KeyPair::from_pem(&text).map_err(|error| InitError::Foreign { path: path.to_owned(), reason: error.to_string() })
}

/// What is signed names its authority by these words and this key, so they must be those of the certificate.
fn check_kept(ca: &Path, key: &KeyPair, what: &str) -> Result<(), InitError> {
    use rcgen::PublicKeyData;
    let foreign = |reason: &str| InitError::Foreign { path: ca.to_owned(), reason: reason.to_owned() };
    let text = fs::read(ca).map_err(|source| InitError::Read { path: ca.to_owned(), source })?;
    let der =
        rustls::pki_types::CertificateDer::from_pem_slice(&text).map_err(|_| foreign("it is no certificate"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| foreign("it is no certificate"))?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    if name != Some(what) {
        return Err(foreign("it is another authority's"));
    }
    if parsed.public_key().subject_public_key.data != key.der_bytes() {
        return Err(foreign("the key beside it is another's"));
    }
    Ok(())
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A day before, so that clocks may differ.
fn earlier(date: Date) -> Date {
    date.saturating_sub(Span::new().days(1))
}

fn later(date: Date, days: u32) -> Date {
    date.saturating_add(Span::new().days(i64::from(days)))
}

fn set_validity(params: &mut CertificateParams, from: Date, until: Date) {
    let part = |number: i8| u8::try_from(number).expect("months and days are positive");
    let midnight = |date: Date| rcgen::date_time_ymd(date.year().into(), part(date.month()), part(date.day()));
    // To the end of the last day.
    (params.not_before, params.not_after) = (midnight(from), midnight(later(until, 1)));
}

fn write_all(dir: &Path, drafts: &[Draft]) -> Result<(), InitError> {
    let paths: Vec<PathBuf> = drafts.iter().map(|draft| &draft.path).filter(|path| path.exists()).cloned().collect();
    if !paths.is_empty() {
        return Err(InitError::Exists { paths });
    }
    for draft in drafts {
        let failed = |source| InitError::Write { path: draft.path.clone(), source };
        let parent = draft.path.parent().unwrap_or(dir);
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(parent).map_err(failed)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(draft.mode).open(&draft.path);
        let written = file.and_then(|mut file| {
            file.write_all(draft.text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(failed)?;
    }
    Ok(())
}
