//! `rollcall token reset`: by the directory of a node, and without asking any.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rollcall_server::{ADMIN_TOKEN, RESET_REQUEST};
use tokio::time::Instant;

use crate::args::{Global, TokenReset};
use crate::failure::Failure;
use crate::output;

/// How long a reset waits unless it is told.
const TIMEOUT: Duration = Duration::from_secs(30);

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Leaves a request in a node's directory, which nobody else can, and waits until the node has answered it there.
pub(super) async fn run(global: &Global, args: &TokenReset) -> Result<(), Failure> {
    let (dir, wait) = (&args.data_dir, global.timeout.unwrap_or(TIMEOUT));
    let request = dir.join(RESET_REQUEST);
    let answered = {
        let failed = |source| Failure::TokenReset { path: dir.clone(), source };
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&request) {
            Ok(_) => {}
            // Somebody asked before and did not wait for it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let until = Instant::now() + wait;
        loop {
            if !request.try_exists().map_err(failed)? {
                break true;
            }
            if Instant::now() >= until {
                break false;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    if !answered {
        // A node that is started later must not find it.
        let _ = fs::remove_file(&request);
        return Err(Failure::TokenResetUnanswered { path: dir.clone(), timeout_ms: wait.as_millis() });
    }
    let token = take(&dir.join(ADMIN_TOKEN)).map_err(|source| Failure::TokenReset { path: dir.clone(), source })?;
    output::note(
        "note: the administrators of all tenants were revoked, and this is the new one; it is shown this once",
    );
    output::print(&format!("{token}\n"))
}

fn take(path: &Path) -> io::Result<String> {
    let token = fs::read_to_string(path)?;
    fs::remove_file(path)?;
    Ok(token)
}
