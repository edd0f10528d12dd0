//! A way to one address that can be cut and broken, as a network between two places is.

use std::pin::pin;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Forwards connections to one address until it is dropped.
#[derive(Debug)]
pub struct Wire {
    address: String,
    is_cut: watch::Sender<bool>,
    _serving: AbortOnDropHandle<()>,
}

impl Wire {
    /// # Panics
    /// When there is no free port.
    pub async fn to(node: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address").to_string();
        let (is_cut, cuts) = watch::channel(false);
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, node, cuts)));
        Self { address, is_cut, _serving: serving }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on nothing passes. Neither side is told: what was under way is lost, and whoever comes waits.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// From now on it is whole. What waited is closed: it has to come again.
    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }

    /// Closes what is open, with whatever was under way. What comes then passes, if nothing is cut.
    pub fn sever(&self) {
        self.is_cut.send_modify(|_| {});
    }
}

async fn serve(listener: TcpListener, node: String, cuts: watch::Receiver<bool>) {
    let mut carriers = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while carriers.try_join_next().is_some() {}
        carriers.spawn(carry(client, node.clone(), cuts.clone()));
    }
}

async fn carry(mut client: TcpStream, node: String, mut cuts: watch::Receiver<bool>) {
    let mut way = pin!(async {
        if let Ok(mut node) = TcpStream::connect(node).await {
            // Either side may go at any time.
            let _ = copy_bidirectional(&mut client, &mut node).await;
        }
    });
    if !*cuts.borrow_and_update() {
        tokio::select! {
            () = &mut way => return,
            _ = cuts.changed() => {}
        }
    }
    // Both ends stay open until then. An error says that the wire itself is gone, and so is what it held.
    let _ = cuts.wait_for(|is_cut| !is_cut).await;
}
