//! The way in at a port: plain, or by a handshake that is bounded in time and number.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::either::Either;

use super::{Secured, Stream};
use crate::limits::DISCARDED_BYTES_MAX;

/// From the first byte to the end of the handshake: some round trips and, when thousands come at once, their turn.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A caller says its first word at once. Shorter than the handshake, which waits for its turn.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a caller that was turned away may take to read why.
const LINGER: Duration = Duration::from_secs(2);

/// What every TLS record of a handshake begins with.
const HANDSHAKE_RECORD: u8 = 22;

/// Where connections come in.
#[derive(Clone, Default)]
pub(crate) struct Gate(pub(super) Option<Arc<Secured>>);

/// Why a connection is none.
pub(crate) enum Refused {
    /// The caller speaks no TLS. It can be told so in its own words.
    Plain(TcpStream),
    Failed(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Gate {
    pub(crate) async fn enter(&self, stream: TcpStream) -> Result<Stream, Refused> {
        match &self.0 {
            None => Ok(Either::Left(stream)),
            Some(secured) => {
                let entered = secured.handshake(stream).await;
                if entered.is_err() {
                    secured.refused.inc();
                }
                entered
            }
        }
    }
}

impl Secured {
    async fn handshake(&self, stream: TcpStream) -> Result<Stream, Refused> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the handshake was not complete in time");
        let mut first = [0];
        // No place is taken for whoever says nothing.
        let peeked = tokio::time::timeout(FIRST_BYTE_TIMEOUT, stream.peek(&mut first)).await;
        match peeked.map_err(late)?? {
            0 => return Err(Refused::Failed(io::ErrorKind::UnexpectedEof.into())),
            _ if first[0] != HANDSHAKE_RECORD => return Err(Refused::Plain(stream)),
            _ => {}
        }
        let shaking = async {
            let _turn = self.handshakes.acquire().await.expect("the handshakes are never closed");
            let acceptor = TlsAcceptor::from(self.current().accept.clone());
            acceptor.accept(stream).into_fallible().await
        };
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking).await.map_err(late)?;
        match shaken {
            Ok(stream) => Ok(Either::Right(Box::new(TlsStream::Server(stream)))),
            Err((error, stream)) => {
                // The alert that says why is on its way; see `let_read`.
                let _ = let_read(stream).await;
                Err(Refused::Failed(error))
            }
        }
    }
}

/// Says something to whoever came to the wrong port, or in the wrong way, and ends the connection.
pub(crate) async fn turn_away(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    tokio::time::timeout(LINGER, stream.write_all(answer)).await??;
    let_read(stream).await
}

/// Ends a connection such that what was said last is read: what the caller still sends is taken in, for a while, or
/// the kernel would take the answer back.
async fn let_read(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = (&mut stream as &mut (dyn AsyncRead + Send + Unpin)).take(DISCARDED_BYTES_MAX as u64);
    tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await??;
    Ok(())
}
