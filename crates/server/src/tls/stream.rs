//! A connection that is plain or TLS. A plain one costs one branch more than a bare socket.

use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsStream;
use tokio_util::either::Either;

/// Boxed, because it is some kilobytes and most of what is moved about is plain.
type Session = Box<TlsStream<TcpStream>>;

/// Left is plain, right is TLS; so are its halves.
pub(crate) type Stream = Either<TcpStream, Session>;
pub(crate) type Reader = Either<OwnedReadHalf, ReadHalf<Session>>;
pub(crate) type Writer = Either<OwnedWriteHalf, WriteHalf<Session>>;

pub(crate) fn split(stream: Stream) -> (Reader, Writer) {
    match stream {
        Either::Left(stream) => {
            let (reader, writer) = stream.into_split();
            (Either::Left(reader), Either::Left(writer))
        }
        Either::Right(stream) => {
            let (reader, writer) = tokio::io::split(stream);
            (Either::Right(reader), Either::Right(writer))
        }
    }
}
