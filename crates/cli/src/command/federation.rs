//! `rollcall federation`.

use std::collections::BTreeMap;

use rollcall_api::{
    AddPeerRequest, Direction, FederationKeyResponse, FederationResponse, Offered, PeerInfo, ReceivingInfo,
    SendingInfo,
};
use rollcall_client::Client;

use super::{attempt, build, builder, client, read_file, spoken_time};
use crate::args::{DirectionWord, Federation, FederationAdd, Global, OfferWord};
use crate::failure::Failure;
use crate::output::{self, Table, printable};

pub(super) async fn run(global: &Global, command: Federation) -> Result<(), Failure> {
    let client = client(global)?;
    match command {
        Federation::Key => {
            let key = attempt("get this cluster's key", client.federation_key().await)?;
            output::show(global.output, &key, |FederationKeyResponse { public_key, .. }| format!("{public_key}\n"))
        }
        Federation::Add(args) => {
            let request = request(*args)?;
            let peer = client.add_peer(&request).await;
            let peer = attempt(format!("name the peer `{}`", request.name), peer)?;
            output::show(global.output, &peer, |peer| format!("{} is a peer\n", printable(&peer.name)))
        }
        Federation::List => {
            let answer = attempt("list the peers", client.federation().await)?;
            output::show(global.output, &answer.peers, |peers| list(peers))
        }
        Federation::Status { name } => {
            let mut answer = attempt("ask how it goes with the peers", of_leader(global, &client).await)?;
            if let Some(name) = name {
                answer.peers.retain(|peer| peer.name == name);
                if answer.peers.is_empty() {
                    return Err(Failure::NoPeer { name });
                }
                if let Some(record) = &mut answer.propagation {
                    record.propagation_results.retain(|result| result.peer_id == name);
                }
            }
            output::show(global.output, &answer, status)
        }
        Federation::Pause { name } => pause(global, &client, &name, true).await,
        Federation::Resume { name } => pause(global, &client, &name, false).await,
        Federation::Remove { name } => {
            let removed = attempt(format!("remove the peer `{name}`"), client.remove_peer(&name).await)?;
            output::show(global.output, &removed, |removed| format!("{} is no peer any more\n", removed.name))
        }
    }
}

async fn pause(global: &Global, client: &Client, name: &str, paused: bool) -> Result<(), Failure> {
    let peer = client.pause_peer(name, paused).await;
    let peer = attempt(format!("{} the peer `{name}`", if paused { "pause" } else { "resume" }), peer)?;
    output::show(global.output, &peer, |peer| {
        let what = if peer.paused { "is paused" } else { "goes on" };
        format!("{} {what}\n", printable(&peer.name))
    })
}

/// The leader knows more than others; if it cannot be reached, what another node knows is shown.
async fn of_leader(global: &Global, client: &Client) -> Result<FederationResponse, rollcall_client::Error> {
    let answer = client.federation().await?;
    let Some(leader) = answer.leader_id.filter(|leader| *leader != answer.node_id) else { return Ok(answer) };
    let members = client.cluster_status().await?.members;
    let Some(leader) = members.into_iter().find(|member| member.node_id == leader) else { return Ok(answer) };
    let Ok(builder) = builder(global, global.tenant.as_deref()) else { return Ok(answer) };
    let is_secure = global.endpoints.iter().any(|endpoint| endpoint.starts_with("https:"));
    let scheme = if is_secure { "https://" } else { "" };
    match build(builder.only_endpoint(format!("{scheme}{}", leader.api_address))) {
        Ok(client) => Ok(client.federation().await.unwrap_or(answer)),
        Err(_) => Ok(answer),
    }
}

fn request(args: FederationAdd) -> Result<AddPeerRequest, Failure> {
    let FederationAdd { name, urls, key, peer_ca, direction, tenants, offer, selector, trust, priority } = args;
    let ca = peer_ca.map(|path| read_file(&path)).transpose()?;
    let mut pairs = BTreeMap::new();
    for (local, remote) in tenants {
        if pairs.insert(local.clone(), remote).is_some() {
            return Err(Failure::Usage { what: format!("--map names the tenant `{}` twice", printable(&local)) });
        }
    }
    Ok(AddPeerRequest {
        name,
        public_key: key,
        urls,
        ca: ca.map(|pem| String::from_utf8_lossy(&pem).into_owned()),
        direction: direction.map(|direction| match direction {
            DirectionWord::Send => Direction::Send,
            DirectionWord::Receive => Direction::Receive,
            DirectionWord::Both => Direction::Both,
        }),
        tenants: (!pairs.is_empty()).then_some(pairs),
        offered: offer.map(|offer| match offer {
            OfferWord::Public => Offered::Public,
            OfferWord::Internal => Offered::Internal,
        }),
        selector,
        trust,
        priority,
    })
}

fn list(peers: &[PeerInfo]) -> String {
    if peers.is_empty() {
        return "there are no peers\n".to_owned();
    }
    let mut table =
        Table::new(&["NAME", "DIRECTION", "TENANTS", "OFFERED", "TRUST", "PRIORITY", "INSTANCES", "STATE"]);
    for peer in peers {
        let tenants: Vec<_> = peer.tenants.iter().map(|(local, remote)| format!("{local}={remote}")).collect();
        let offered = match &peer.selector {
            Some(selector) => format!("{}: {selector}", peer.offered),
            None => peer.offered.to_string(),
        };
        table.row(vec![
            peer.name.clone(),
            peer.direction.to_string(),
            tenants.join(","),
            offered,
            peer.trust.to_string(),
            peer.priority.to_string(),
            peer.receiving.as_ref().map_or_else(String::new, |receiving| receiving.instances.to_string()),
            state(peer),
        ]);
    }
    table.render()
}

fn state(peer: &PeerInfo) -> String {
    let known = peer.receiving.as_ref();
    let word = if peer.leaving {
        "leaving"
    } else if peer.paused {
        "paused"
    } else if known.is_some_and(|known| known.heard_at.is_none()) {
        "not heard yet"
    } else if known.is_some_and(|known| known.stale) {
        "stale"
    } else {
        "current"
    };
    word.to_owned()
}

fn status(answer: &FederationResponse) -> String {
    let mut text = match &answer.public_key {
        Some(key) => format!("this cluster's key is {key}\n"),
        None => "this cluster has no key yet: `rollcall federation key` makes one\n".to_owned(),
    };
    let mut table = Table::new(&["NAME", "STATE", "TOLD", "LAG", "OK", "FAILED", "KNOWN", "HEARD", "LACKING"]);
    for peer in &answer.peers {
        let (told, lag, ok, failed) = peer.sending.as_ref().map_or_else(Default::default, sending);
        let (known, heard, lacking) = peer.receiving.as_ref().map_or_else(Default::default, receiving);
        table.row(vec![peer.name.clone(), state(peer), told, lag, ok, failed, known, heard, lacking]);
    }
    if answer.peers.is_empty() {
        text.push_str("there are no peers\n");
    } else {
        text.push_str(&table.render());
    }
    match &answer.propagation {
        Some(record) => {
            for result in &record.propagation_results {
                let peer = printable(&result.peer_id);
                if let Some(error) = &result.error {
                    text.push_str(&format!("{peer} cannot be told since {}: {}\n", result.at, printable(error)));
                }
            }
        }
        None => text.push_str("how they are told only the leader knows, and it did not answer\n"),
    }
    text
}

fn sending(sending: &SendingInfo) -> (String, String, String, String) {
    let told = match (&sending.resync, sending.acknowledged) {
        (Some(resync), _) => format!("{} of {}", resync.told, resync.total),
        (None, Some(revision)) => format!("r{revision}"),
        (None, None) => sending.state.to_string(),
    };
    let lag = sending.lag.map_or_else(String::new, |lag| lag.to_string());
    (told, lag, sending.successes.to_string(), sending.failures.to_string())
}

fn receiving(known: &ReceivingInfo) -> (String, String, String) {
    let state = match (known.resync_received, known.revision) {
        (Some(count), _) => format!("{} ({count} told so far)", known.instances),
        (None, Some(revision)) => format!("{} at r{revision}", known.instances),
        (None, None) => known.instances.to_string(),
    };
    let heard = match &known.heard_at {
        Some(at) if known.stale => format!("{at}, believed for {}", spoken_time(known.expires_in_ms)),
        Some(at) => at.clone(),
        None => "never".to_owned(),
    };
    (state, heard, known.lacking.to_string())
}
