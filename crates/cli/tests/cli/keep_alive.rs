use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::{Signal, kill_process};

use crate::support::{Running, Stub, node, problem, rollcall, run, wait_until};

const REGISTER: [&str; 6] = ["register", "--name", "web", "--url", "http://a", "--keep-alive"];

impl Running {
    fn start(stub: &Stub, script: &str) -> Self {
        let arguments = [&REGISTER[..], &["--endpoint", &stub.endpoint, "--", "sh", "-c", script]].concat();
        Self(rollcall(&arguments).stdout(Stdio::piped()).spawn().expect("the program starts"))
    }

    /// The first line that `wanted` takes.
    fn line<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> T {
        let stdout = self.0.stdout.take().expect("a pipe that was not read yet");
        BufReader::new(stdout).lines().map_while(Result::ok).find_map(|line| wanted(&line)).expect("the line")
    }
}

#[test]
fn a_wrapped_program_gives_the_exit_code_and_is_deregistered() {
    let stub = node();
    let mut running = Running::start(&stub, "exit 7");
    assert_eq!(running.0.wait().expect("it ends").code(), Some(7));
    stub.until("POST /api/services/register");
    stub.until("DELETE /api/services/web-1?lease_id=3");
}

#[test]
fn signals_are_passed_on_to_a_wrapped_program() {
    let stub = node();
    let script = "trap 'exit 9' TERM; echo trapped; while :; do sleep 0.05; done";
    let mut running = Running::start(&stub, script);
    running.line(|line| (line == "trapped").then_some(()));
    kill_process(running.pid(), Signal::TERM).expect("it runs");
    assert_eq!(running.0.wait().expect("it ends").code(), Some(9));
    stub.until("DELETE /api/services/web-1?lease_id=3");
}

#[test]
#[cfg(target_os = "linux")]
fn a_wrapped_program_dies_with_a_wrapper_that_is_killed() {
    let stub = node();
    let mut running = Running::start(&stub, "echo pid $$; exec sleep 1000");
    let pid: i32 = running.line(|line| line.strip_prefix("pid ")?.parse().ok());
    stub.until("POST /api/services/register");
    kill_process(running.pid(), Signal::KILL).expect("it runs");
    wait_until("the program is gone too", || !is_alive(pid));
}

/// Whether a process runs; one that ended and that nobody waited for does not.
#[cfg(target_os = "linux")]
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|fields| !fields.is_empty() && !fields.starts_with('Z'))
}

#[test]
fn without_a_program_it_beats_until_a_signal_and_deregisters() {
    let stub = node();
    let arguments = [&REGISTER[..], &["--endpoint", &stub.endpoint]].concat();
    let mut running = Running(rollcall(&arguments).stdout(Stdio::null()).spawn().expect("the program starts"));
    stub.until("POST /api/services/web-1/heartbeat");
    kill_process(running.pid(), Signal::INT).expect("it runs");
    assert_eq!(running.0.wait().expect("it ends").code(), Some(0));
    stub.until("DELETE /api/services/web-1?lease_id=3");
}

#[test]
fn a_refused_registration_ends_the_wrapped_program() {
    let stub = Stub::start(|_| (403, problem(403, "unknown_tenant")));
    let arguments = [&REGISTER[..], &["--endpoint", &stub.endpoint, "--", "sleep", "1000"]].concat();
    let (code, _, err) = run(&mut rollcall(&arguments));
    assert_eq!(code, Some(5), "{err}");
}

#[test]
fn a_program_that_cannot_be_started_is_not_registered() {
    let stub = node();
    let arguments = [&REGISTER[..], &["--endpoint", &stub.endpoint, "--", "/no/such/program"]].concat();
    let (code, _, err) = run(&mut rollcall(&arguments));
    assert_eq!(code, Some(1), "{err}");
    assert!(stub.requests.try_recv().is_err());
}
