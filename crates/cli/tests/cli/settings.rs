use std::net::TcpListener;

use crate::support::{Stub, roll, rollcall, run};

/// A port in use makes a node say which address it was told to take, before it touches anything else.
fn taken() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

#[test]
fn flags_win_over_environment_over_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let ((_a, flag), (_b, environment), (_c, file)) = (taken(), taken(), taken());
    let config = directory.path().join("node.toml");
    let data_dir = directory.path().join("data");
    std::fs::write(&config, format!("data_dir = {data_dir:?}\nbootstrap = true\nlisten = \"{file}\"\n"))
        .expect("a file");
    let config = config.to_str().expect("a path");

    let mut with_flag = rollcall(&["serve", "--config", config, "--listen", &flag]);
    let mut with_environment = rollcall(&["serve", "--config", config]);
    let mut with_file = rollcall(&["serve", "--config", config]);
    with_flag.env("ROLLCALL_LISTEN", &environment);
    with_environment.env("ROLLCALL_LISTEN", &environment);
    for (command, address) in [(&mut with_flag, flag), (&mut with_environment, environment), (&mut with_file, file)] {
        let (code, _, err) = run(command);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains(&address), "{address}: {err}");
    }
}

#[test]
fn endpoints_come_from_flags_or_the_environment() {
    let (flag, environment) = (Stub::start(|_| (200, roll(Vec::new()))), Stub::start(|_| (200, roll(Vec::new()))));
    let (_nobody, gone) = taken();
    drop(_nobody);
    let endpoints = format!("http://{gone},{}", environment.endpoint);
    assert_eq!(run(rollcall(&["discover"]).env("ROLLCALL_ENDPOINTS", &endpoints)).0, Some(0));
    environment.until("GET /api/services");
    let mut command = rollcall(&["discover", "--endpoint", &flag.endpoint]);
    assert_eq!(run(command.env("ROLLCALL_ENDPOINTS", &endpoints)).0, Some(0));
    flag.until("GET /api/services");
}

#[test]
fn filters_become_parameters() {
    let stub = Stub::start(|_| (200, roll(Vec::new())));
    let arguments = [
        "discover",
        "--capability",
        "a,b",
        "--tag",
        "x",
        "--tags",
        "y",
        "--limit",
        "3",
        "--consistency",
        "linearizable",
    ];
    assert_eq!(run(rollcall(&arguments).env("ROLLCALL_ENDPOINTS", &stub.endpoint)).0, Some(0));
    stub.until("GET /api/services?tags=x&tags=y&capabilities=a%2Cb&limit=3&consistency=linearizable");
}

#[test]
fn a_configuration_file_is_checked_with_every_fault_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("node.toml");
    let path = file.to_str().expect("a path");
    std::fs::write(&file, "data_dir = \"d\"\nbootstrap = true\n").expect("a file");
    let (code, out, err) = run(&mut rollcall(&["config", "check", path]));
    assert_eq!((code, out), (Some(0), format!("{path}: ok\n")), "{err}");

    std::fs::write(&file, "data_dir = \"d\"\nnonsense = 1\nsnapshot_entries = 0\n").expect("a file");
    let (code, out, err) = run(&mut rollcall(&["config", "check", path]));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("nonsense") && err.contains("snapshot_entries"), "{err}");
}

#[test]
fn the_ready_configurations_are_valid() {
    let cluster = concat!(env!("CARGO_MANIFEST_DIR"), "/../../cluster");
    for file in ["local/node1.toml", "local/node2.toml", "local/node3.toml", "systemd/node.toml"] {
        let (code, _, err) = run(&mut rollcall(&["config", "check", &format!("{cluster}/{file}")]));
        assert_eq!(code, Some(0), "{file}: {err}");
    }
}
