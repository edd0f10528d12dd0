//! Ports that a node can have again after a restart, and that no other test takes meanwhile.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range that the kernel takes outgoing ports from, so that none of them is in use by chance.
const FIRST: u16 = 15_000;
const COUNT: u16 = 15_000;

/// One TCP port on loopback. While it is held the UDP port of the same number is bound, which nobody wants but other
/// tests that look for a port: so it is reserved between processes without being in the node's way.
#[derive(Debug)]
pub struct Port {
    pub(crate) number: u16,
    _reservation: UdpSocket,
}

impl Port {
    /// # Panics
    /// When no port is free.
    pub fn reserve() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + ((u32::from(start) * 37 + u32::from(step)) % u32::from(COUNT)) as u16;
            if let Ok(reservation) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number))
                && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
            {
                return Self { number, _reservation: reservation };
            }
        }
        panic!("no port is free");
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
