//! What a service manager is told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::support::{Running, rollcall};

/// Far beyond what a node on a loaded machine takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where the service manager listens.
fn manager(directory: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(directory.join("notify")).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    socket
}

/// What was told, line by line, up to the line that begins like this.
fn heard(manager: &UnixDatagram, beginning: &str) -> Vec<String> {
    let (mut lines, mut buffer) = (Vec::new(), [0; 4_096]);
    loop {
        let length =
            manager.recv(&mut buffer).unwrap_or_else(|error| panic!("no {beginning} after {lines:?}: {error}"));
        let text = String::from_utf8(buffer[..length].to_vec()).expect("text");
        lines.extend(text.lines().map(str::to_owned));
        if lines.iter().any(|line| line.starts_with(beginning)) {
            return lines;
        }
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").to_string()
}

/// Asked once: what it says of itself at this moment.
fn readyz(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn serve(
    directory: &Path,
    listen: &str,
    founding: &[&str],
    configure: impl FnOnce(&mut std::process::Command),
) -> Running {
    let mut command = rollcall(&["serve", "--listen", listen, "--peer-listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(directory.join("data")).args(founding).env("NOTIFY_SOCKET", directory.join("notify"));
    configure(&mut command);
    Running(command.spawn().expect("the program starts"))
}

fn terminate(node: &mut Running) {
    kill_process(node.pid(), Signal::TERM).expect("a signal reaches a child that was not waited for");
    assert!(node.0.wait().expect("the node ends").success());
}

#[test]
fn the_service_manager_is_told_when_the_node_is_ready_that_it_moves_and_that_it_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let (manager, address) = (manager(directory.path()), free_address());
    let mut node = serve(directory.path(), &address, &["--bootstrap"], |command| {
        command.env("WATCHDOG_USEC", "400000");
    });
    heard(&manager, "READY=1");
    let readyz = readyz(&address);
    assert!(readyz.starts_with("HTTP/1.1 200"), "it says that it is ready and is not: {readyz}");
    let again = [heard(&manager, "WATCHDOG=1"), heard(&manager, "WATCHDOG=1")].concat();
    assert!(!again.contains(&"READY=1".to_owned()), "{again:?}");
    terminate(&mut node);
    heard(&manager, "STOPPING=1");
}

#[test]
fn a_node_that_waits_for_others_says_so_and_is_not_ready() {
    let directory = tempfile::tempdir().expect("a directory");
    let (manager, nobody) = (manager(directory.path()), free_address());
    let mut node = serve(directory.path(), "127.0.0.1:0", &["--join", &nobody], |_| ());
    let told = heard(&manager, "STATUS=not ready: it reads its data, or waits for a member that takes it in");
    terminate(&mut node);
    let all = [told, heard(&manager, "STOPPING=1")].concat();
    assert!(all.iter().all(|line| !line.starts_with("READY") && !line.starts_with("WATCHDOG")), "{all:?}");
}
