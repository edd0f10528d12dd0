//! Waiting for conditions.

use std::time::Duration;

use tokio::time::Instant;

/// Short against every interval of a node, long enough that polling does not load the machine.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Asks `condition` again and again until it answers.
///
/// # Panics
/// When it has not answered by the deadline, with `what` was expected.
pub async fn wait_until<T, F>(what: &str, deadline: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = condition().await {
            return answer;
        }
        assert!(Instant::now() < end, "expected within {deadline:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Lets time pass where time itself is the condition: a TTL that must have run out.
pub async fn pass(duration: Duration) {
    let end = Instant::now() + duration;
    let elapsed = || async move { (Instant::now() >= end).then_some(()) };
    wait_until("time passes", duration + Duration::from_secs(60), elapsed).await;
}
