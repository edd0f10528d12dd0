//! Other clusters, for operators.

use reqwest::Method;
use rollcall_api::{AddPeerRequest, FederationKeyResponse, FederationResponse, PeerInfo, RemovePeerResponse};

use crate::client::{Client, addressable};
use crate::error::Error;
use crate::request::{Repeat, Request};

const FEDERATION: [&str; 2] = ["api", "federation"];
const PEERS: [&str; 3] = ["api", "federation", "peers"];

impl Client {
    /// The other clusters, and how it goes with them. How they are told only the leader says.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn federation(&self) -> Result<FederationResponse, Error> {
        self.send(&Request::new(Method::GET, &FEDERATION, Repeat::Safe)).await
    }

    /// The key by which other clusters name this one. It is made if there is none yet.
    ///
    /// # Errors
    /// 409 `feature_level_too_low`.
    pub async fn federation_key(&self) -> Result<FederationKeyResponse, Error> {
        let [api, federation] = FEDERATION;
        self.send(&Request::new(Method::POST, &[api, federation, "key"], Repeat::Safe)).await
    }

    /// Names another cluster, which is told and believed from then on.
    ///
    /// # Errors
    /// 400 for faulty terms; 409 `peer_exists`, `peer_leaving`, `too_many_peers`.
    pub async fn add_peer(&self, peer: &AddPeerRequest) -> Result<PeerInfo, Error> {
        self.send(&Request::new(Method::POST, &PEERS, Repeat::IfNotApplied).json(peer)?).await
    }

    /// Has nothing more to do with another cluster, and forgets what is known of it.
    ///
    /// # Errors
    /// 404 `peer_not_found`.
    pub async fn remove_peer(&self, name: &str) -> Result<RemovePeerResponse, Error> {
        let [api, federation, peers] = PEERS;
        let path = [api, federation, peers, addressable(name)?];
        self.send(&Request::new(Method::DELETE, &path, Repeat::IfNotApplied)).await
    }

    /// Has a rest from another cluster, or goes on with it.
    ///
    /// # Errors
    /// 404 `peer_not_found`.
    pub async fn pause_peer(&self, name: &str, paused: bool) -> Result<PeerInfo, Error> {
        let [api, federation, peers] = PEERS;
        let step = if paused { "pause" } else { "resume" };
        let path = [api, federation, peers, addressable(name)?, step];
        self.send(&Request::new(Method::POST, &path, Repeat::Safe)).await
    }
}
