//! A backup as it comes from a node.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use reqwest::Response;

/// A node that reads its disk and sends what it read is not silent for that long.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A backup that has begun to come. What is in it, and whether it is whole, only reading it shows.
#[derive(Debug)]
pub struct Backup {
    pub(crate) endpoint: String,
    pub(crate) response: Response,
}

impl Backup {
    /// The node that it comes from.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The bytes of the backup. Ends with an error when the connection breaks or nothing comes for a minute.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let chunks = Box::pin(self.response.bytes_stream());
        stream::unfold(Some(chunks), |chunks| async {
            let mut chunks = chunks?;
            match tokio::time::timeout(SILENCE_MAX, chunks.next()).await {
                Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(chunks))),
                Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
                Ok(None) => None,
                Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
            }
        })
    }
}
