//! How many connections this process may have.

/// Raises the soft limit on open files to the hard one: the usual 1,024 is less than many works have connections.
/// Where that fails, it shows in the connections that cannot be opened.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
