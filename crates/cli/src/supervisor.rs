//! What a service manager is told where it asks for it by `NOTIFY_SOCKET` (systemd: `Type=notify`): when the node is ready
//! to take work, what it lacks meanwhile, that it still moves, and that it ends.

use std::convert::Infallible;
use std::time::Duration;

use rollcall_server::Probe;
use sd_notify::NotifyState;
use tokio::time::Instant;

/// Short for whoever waits: a person, or the next step of a rolling update.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A service manager that does not take a message within this time does without it.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells how the node is, for as long as it is polled.
pub(crate) async fn keep_informed(probe: &Probe) -> Infallible {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return std::future::pending().await;
    }
    // Half of what it allows, so that one late sign of life ends nobody.
    let beat_interval = sd_notify::watchdog_enabled().map(|allowed| allowed / 2);
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let (mut was_ready, mut told, mut beaten_at) = (false, None, None::<Instant>);
    loop {
        looks.tick().await;
        let lacks = probe.lacks();
        let status = if lacks.is_empty() {
            "ready to take work".to_owned()
        } else {
            format!("not ready: {}", lacks.join("; ").replace('\n', " "))
        };
        let mut news = Vec::new();
        if lacks.is_empty() && !was_ready {
            was_ready = true;
            news.push(NotifyState::Ready.to_string());
        }
        if told.as_ref() != Some(&status) {
            news.push(NotifyState::Status(&status).to_string());
            told = Some(status);
        }
        let is_due = |interval| beaten_at.is_none_or(|at| at.elapsed() >= interval);
        if beat_interval.is_some_and(is_due) && probe.is_alive() {
            news.push(NotifyState::Watchdog.to_string());
            beaten_at = Some(Instant::now());
        }
        tell(news).await;
    }
}

pub(crate) async fn tell_stopping() {
    tell(vec![NotifyState::Stopping.to_string(), NotifyState::Status("shutting down").to_string()]).await;
}

async fn tell(news: Vec<String>) {
    if news.is_empty() {
        return;
    }
    // Sending waits where nobody reads, and that must not hold up the node.
    let sent = tokio::task::spawn_blocking(move || {
        let news: Vec<_> = news.iter().map(|line| NotifyState::Custom(line)).collect();
        sd_notify::notify(&news)
    });
    if let Ok(Ok(Err(error))) = tokio::time::timeout(TELL_TIMEOUT, sent).await {
        tracing::warn!(%error, "cannot tell the service manager how this node is; is its socket in reach?");
    }
}
