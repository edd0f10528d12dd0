//! Certificates as an operator has them: whole, wrong in every way, and replaced while the node runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, Issuer, KeyPair};
use tempfile::TempDir;

use super::init::{Hosts, InitError, Made, MadeNode, Trial, init};
use super::*;

fn trial(dir: &Path, nodes: &[&str], clients: &[&str]) -> Trial {
    let nodes = nodes.iter().map(|text| Hosts::parse(text).unwrap()).collect();
    let clients = clients.iter().map(|&name| name.to_owned()).collect();
    Trial { dir: dir.to_owned(), nodes, clients, days: 30 }
}

/// Certificates of one node, at its host.
pub(crate) fn made(nodes: &[&str]) -> (TempDir, Made) {
    let dir = tempfile::tempdir().unwrap();
    let made = init(&trial(dir.path(), nodes, &["agent"])).unwrap();
    (dir, made)
}

pub(crate) fn peer_files(made: &Made, node: &MadeNode, host: &str) -> Files {
    Files {
        port: Port::Peer,
        cert: node.peer_tls_cert.clone(),
        key: node.peer_tls_key.clone(),
        ca: Some(made.peer_ca.clone()),
        host: Some(host.to_owned()),
    }
}

fn client_files(node: &MadeNode) -> Files {
    Files { port: Port::Client, cert: node.tls_cert.clone(), key: node.tls_key.clone(), ca: None, host: None }
}

/// The faults of a set of files, by setting.
fn faults(files: &Files) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    files.check(&mut |key: &str, text: &str| faults.push((key.to_owned(), text.to_owned())));
    faults
}

fn only_fault(files: &Files, key: &str, text: &str) {
    let faults = faults(files);
    let [(found, told)] = &faults[..] else { panic!("{faults:?}") };
    assert!(found == key && told.contains(text), "{found}: {told}");
}

#[test]
fn what_is_made_can_be_used() {
    let (_dir, made) = made(&["n1,10.0.0.1,::1", "n2"]);
    let [n1, n2] = &made.nodes[..] else { panic!("{made:?}") };
    for (node, host) in [(n1, "n1"), (n1, "10.0.0.1"), (n1, "::1"), (n2, "n2")] {
        assert_eq!(faults(&peer_files(&made, node, host)), [], "{host}");
        assert_eq!(faults(&client_files(node)), []);
    }
    let validity = client_files(n1).load().map_err(|faults| format!("{faults:?}")).unwrap().validity;
    assert_eq!(validity.fault(now_s(), EXPIRES_SOON_S), None);
    assert!(validity.fault(now_s() + 31 * 86_400, 0).unwrap().starts_with("expired at "));
    assert!(validity.fault(now_s() + 20 * 86_400, EXPIRES_SOON_S).unwrap().starts_with("expires at "));
    assert!(validity.fault(now_s() - 3 * 86_400, 0).unwrap().starts_with("is not valid before "));
}

#[test]
fn keys_are_their_owners_alone() {
    let (dir, made) = made(&["n1"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let secrets = ["client-ca.key", "peer-ca.key", "n1/tls.key", "n1/peer.key", "agent/client.key"];
    for secret in secrets {
        assert_eq!(mode(&dir.path().join(secret)), 0o600, "{secret}");
    }
    assert_eq!(mode(&made.client_ca), 0o644);
}

#[test]
fn nothing_is_overwritten_and_nodes_are_added() {
    let (dir, first) = made(&["n1"]);
    let read = |path: &PathBuf| fs::read(path).unwrap();
    let before = read(&first.nodes[0].peer_tls_key);
    let again = init(&trial(dir.path(), &["n2", "n1"], &[])).unwrap_err();
    let InitError::Exists { paths } = &again else { panic!("{again}") };
    assert_eq!(paths.len(), 4, "{again}");
    assert!(!dir.path().join("n2").exists(), "nothing is made where something is there");
    assert_eq!(read(&first.nodes[0].peer_tls_key), before);

    let second = init(&trial(dir.path(), &["n2"], &[])).unwrap();
    assert!(second.authorities_kept && !first.authorities_kept);
    assert_eq!(faults(&peer_files(&second, &second.nodes[0], "n2")), [], "signed by the authority of before");
}

#[test]
fn authorities_that_are_not_whole_or_another_s_are_refused() {
    let (dir, made) = made(&["n1"]);
    let (_other, others) = super::tests::made(&["n1"]);
    let key = dir.path().join("client-ca.key");
    fs::copy(others.client_ca.with_extension("key"), &key).unwrap();
    let refused = init(&trial(dir.path(), &["n2"], &[])).unwrap_err();
    assert!(matches!(&refused, InitError::Foreign { reason, .. } if reason.contains("key beside it")), "{refused}");
    fs::remove_file(&key).unwrap();
    let refused = init(&trial(dir.path(), &["n2"], &[])).unwrap_err();
    assert!(matches!(refused, InitError::Halved { .. }), "{refused}");
    fs::copy(&made.peer_ca, &made.client_ca).unwrap();
    fs::copy(made.peer_ca.with_extension("key"), &key).unwrap();
    let refused = init(&trial(dir.path(), &["n2"], &[])).unwrap_err();
    assert!(
        matches!(&refused, InitError::Foreign { reason, .. } if reason.contains("another authority")),
        "{refused}"
    );
}

#[test]
fn names_that_no_certificate_can_bear_are_refused() {
    for name in ["", "a b", "..", "a/b", "n1,,n2", "n1:7900", "-"] {
        assert!(matches!(Hosts::parse(name), Err(InitError::Name { .. })), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let twice = init(&trial(dir.path(), &["n1"], &["n1"])).unwrap_err();
    assert!(matches!(twice, InitError::Twice { .. }), "{twice}");
    assert_eq!(Hosts::parse("n1,[::1]").unwrap().others, ["::1"]);
}

#[test]
fn every_fault_of_the_files_is_named_with_its_setting() {
    let (dir, made) = made(&["n1"]);
    let (_other, others) = super::tests::made(&["n1"]);
    let good = peer_files(&made, &made.nodes[0], "n1");
    let text = |text: &str| {
        let path = dir.path().join("text");
        fs::write(&path, text).unwrap();
        path
    };
    only_fault(&Files { cert: "/none".into(), ..good.clone() }, "peer_tls_cert", "/none: No such file");
    only_fault(&Files { key: text("no PEM"), ..good.clone() }, "peer_tls_key", "holds no PEM private key");
    only_fault(&Files { cert: text("no PEM"), ..good.clone() }, "peer_tls_cert", "holds no PEM certificate");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    only_fault(&Files { cert: text(broken), ..good.clone() }, "peer_tls_cert", "cannot be read");
    only_fault(&Files { ca: Some(text(broken)), ..good.clone() }, "peer_tls_ca", "cannot be read");
    only_fault(&Files { cert: text(&" ".repeat(2 << 20)), ..good.clone() }, "peer_tls_cert", "larger than");
    let key = others.nodes[0].peer_tls_key.clone();
    only_fault(&Files { key, ..good.clone() }, "peer_tls_key", "is not the key of the certificate");
    let ca = Some(others.peer_ca.clone());
    only_fault(&Files { ca, ..good.clone() }, "peer_tls_cert", "not signed by the authority");
    let host = Some("n2".to_owned());
    only_fault(&Files { host, ..good.clone() }, "peer_tls_cert", "is not valid for n2");
    let both = Files { cert: "/none".into(), key: "/nor".into(), ca: Some("/nothing".into()), ..good.clone() };
    assert_eq!(faults(&both).len(), 3);
    // A certificate for servers alone: a node dials too.
    let server = client_files(&made.nodes[0]);
    let ca = Some(made.client_ca.clone());
    only_fault(&Files { cert: server.cert, key: server.key, ca, ..good }, "peer_tls_cert", "cannot be used");
}

#[test]
fn sets_that_are_not_whole_are_named() {
    let mut faults = Vec::new();
    let path = || Some(PathBuf::from("f"));
    let mut named = |port, paths| {
        faults.clear();
        let files = Files::named(port, paths, None, &mut |key: &str, _: &str| faults.push(key.to_owned()));
        (files.is_some(), faults.clone())
    };
    assert_eq!(named(Port::Client, [None, None, None]), (false, vec![]));
    assert_eq!(named(Port::Client, [path(), path(), None]), (true, vec![]));
    assert_eq!(named(Port::Client, [path(), None, None]), (false, vec!["tls_key".to_owned()]));
    assert_eq!(named(Port::Client, [None, None, path()]).1, ["tls_cert", "tls_key"]);
    assert_eq!(named(Port::Peer, [path(), path(), None]), (false, vec!["peer_tls_ca".to_owned()]));
    assert_eq!(named(Port::Peer, [path(), path(), path()]), (true, vec![]));
}

/// Signs a node's peer certificate anew, with dates of its own.
fn dated(made: &Made, from: (i32, u8, u8), until: (i32, u8, u8)) -> (String, String) {
    let key = KeyPair::from_pem(&fs::read_to_string(made.peer_ca.with_extension("key")).unwrap()).unwrap();
    let mut authority = CertificateParams::default();
    authority.distinguished_name = rcgen::DistinguishedName::new();
    authority.distinguished_name.push(rcgen::DnType::CommonName, "Rollcall peer CA");
    let issuer = Issuer::new(authority, key);
    let mut params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}

#[test]
fn what_expired_starts_all_the_same_and_is_told() {
    let (_dir, made) = made(&["n1"]);
    let files = peer_files(&made, &made.nodes[0], "n1");
    for (from, until, told) in
        [((2020, 1, 1), (2021, 1, 1), "expired at 2021"), ((2900, 1, 1), (2901, 1, 1), "before 2900")]
    {
        let (cert, key) = dated(&made, from, until);
        fs::write(&files.cert, cert).unwrap();
        fs::write(&files.key, key).unwrap();
        let port = Secured::load(&files).unwrap();
        let notices = port.notices(now_s());
        assert_eq!(notices[0].name, "peer_tls_expiry");
        assert!(notices[0].detail.contains(told), "{notices:?}");
    }
}

#[test]
fn files_that_changed_are_used_and_broken_ones_are_not() {
    let (_dir, made) = made(&["n1"]);
    let files = peer_files(&made, &made.nodes[0], "n1");
    let port = Secured::load(&files).unwrap();
    let first = port.validity();
    port.refresh(false);
    assert_eq!(port.reloads.get(), 0, "nothing changed");

    let (cert, key) = dated(&made, (2020, 1, 1), (2900, 1, 1));
    fs::write(&files.cert, &cert).unwrap();
    port.refresh(false);
    assert_eq!(port.validity(), first, "the key of before does not fit");
    assert!(port.is_stale());
    let notices = port.notices(now_s());
    assert_eq!(notices[0].name, "peer_tls_files");
    assert!(notices[0].detail.contains("peer_tls_key: "), "{notices:?}");

    fs::write(&files.key, &key).unwrap();
    port.refresh(false);
    assert_ne!(port.validity(), first);
    assert!(!port.is_stale() && port.notices(now_s()).is_empty());
    assert_eq!(port.reloads.get(), 1);
    port.refresh(true);
    assert_eq!(port.reloads.get(), 2, "whoever asks is obeyed");
    fs::remove_file(&files.cert).unwrap();
    port.refresh(false);
    assert!(port.is_stale() && port.reloads.get() == 2);
}
