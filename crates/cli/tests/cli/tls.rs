use std::path::Path;

use crate::support::{Stub, roll, rollcall, run};

fn init(dir: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let dir = dir.to_str().expect("a path");
    run(&mut rollcall(&[&["tls", "init", dir], more].concat()))
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().expect("a path").to_owned()
}

#[test]
fn init_prints_the_flags_and_overwrites_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    let (code, out, err) = init(dir, &["--node", "n1,127.0.0.1", "--client", "agent"]);
    assert_eq!(code, Some(0), "{err}");
    for flag in
        ["--tls-cert", "--tls-key", "--peer-tls-cert", "--peer-tls-key", "--peer-tls-ca", "--ca", "--client-cert"]
    {
        assert!(out.contains(&format!("{flag} {}/", dir.display())), "{flag} in {out}");
    }
    let (code, _, err) = init(dir, &["--node", "n1"]);
    assert_eq!(code, Some(4), "{err}");
    assert!(err.contains("n1/tls.pem") && err.contains("nothing is overwritten"), "{err}");
    let (code, out, err) = init(dir, &["--node", "n2", "-o", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let made: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(made["authorities_kept"], true);
    assert_eq!(made["nodes"][0]["peer_tls_key"], path(dir, "n2/peer.key"));
}

#[test]
fn init_refuses_what_it_cannot_make() {
    let directory = tempfile::tempdir().expect("a directory");
    for (arguments, code, told) in [
        (&["--node", "n1:7900"][..], 2, "`n1:7900` is no host name"),
        (&["--node", "n1", "--client", "n1"], 2, "named twice"),
        (&["--node", "n1", "--days", "0"], 2, "0 is not in 1..=3650"),
        (&[], 2, "required"),
    ] {
        let (found, _, err) = init(directory.path(), arguments);
        assert_eq!(found, Some(code), "{err}");
        assert!(err.contains(told), "{err}");
    }
}

#[test]
fn config_check_names_every_fault_of_the_certificates() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    assert_eq!(init(dir, &["--node", "n1,127.0.0.1"]).0, Some(0));
    let check = |text: &str| {
        let file = dir.join("node.toml");
        std::fs::write(&file, format!("data_dir = \"d\"\n{text}")).expect("a file");
        run(&mut rollcall(&["config", "check", file.to_str().expect("a path")]))
    };
    let good = format!(
        "tls_cert = {:?}\ntls_key = {:?}\npeer_tls_cert = {:?}\npeer_tls_key = {:?}\npeer_tls_ca = {:?}\n",
        path(dir, "n1/tls.pem"),
        path(dir, "n1/tls.key"),
        path(dir, "n1/peer.pem"),
        path(dir, "n1/peer.key"),
        path(dir, "peer-ca.pem"),
    );
    assert_eq!(check(&good).0, Some(0));
    let (code, _, err) = check(&good.replace("n1/tls.key", "n1/peer.key").replace("peer-ca.pem", "client-ca.pem"));
    assert_eq!(code, Some(1), "{err}");
    for told in ["tls_key: ", "is not the key of the certificate", "peer_tls_cert: ", "not signed by the authority"] {
        assert!(err.contains(told), "{told}: {err}");
    }
    // Certificates for another host than the one that peers dial.
    let (code, _, err) = check(&format!("{good}peer_advertise = \"n2:7901\"\n"));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("is not valid for n2"), "{err}");
    let (code, _, err) = check(&format!("tls_cert = {:?}\n", path(dir, "n1/tls.pem")));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("tls_key: must be given together with tls_cert"), "{err}");
}

#[test]
fn with_an_authority_nothing_goes_over_plain_http() {
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(init(directory.path(), &["--node", "n1"]).0, Some(0));
    let ca = path(directory.path(), "client-ca.pem");
    let stub = Stub::start(|_| (200, roll(Vec::new())));
    let (code, _, err) = run(&mut rollcall(&["discover", "--ca", &ca, "--endpoint", &stub.endpoint]));
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("use https"), "{err}");
    // Without a scheme https is meant; the stub speaks none.
    let address = stub.endpoint.trim_start_matches("http://");
    let (code, _, err) = run(&mut rollcall(&["discover", "--ca", &ca, "--endpoint", address]));
    assert_eq!(code, Some(6), "{err}");
    assert!(err.contains("the port speaks no TLS"), "{err}");
    let (code, _, err) = run(&mut rollcall(&["discover", "--ca", "/none.pem", "--endpoint", address]));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("/none.pem"), "{err}");
    let (code, _, err) = run(&mut rollcall(&["discover", "--client-cert", &ca]));
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("--client-key"), "{err}");
}
