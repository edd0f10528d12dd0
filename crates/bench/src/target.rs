//! The cluster under load: its endpoints, and which of them a work asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use rollcall_api::header::{REQUEST_TIMEOUT_MS, TENANT_ID};
use rollcall_api::{ClusterStatusResponse, Role};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::args::{Common, Node};
use crate::error::{Error, RequestError};
use crate::http::{Call, Connection, Endpoint, Keep, Tls};
use crate::usage::Processes;

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// The longest deadline that a node accepts.
const NODE_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Where a cluster is and how it is spoken to.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Client ports as `https://127.0.0.1:7900`, `http://127.0.0.1:7900`, or `127.0.0.1:7900`, which is https where
    /// an authority is given.
    pub endpoints: Vec<String>,
    /// The authority (PEM) of the nodes' certificates.
    pub ca: Option<Vec<u8>>,
    pub token: Option<String>,
    pub tenant: Option<String>,
    /// Of one request; 10 s if absent.
    pub timeout: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(crate) struct Target {
    access: Access,
    /// Those that were given. Never empty.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) timeout: Duration,
    cluster: ClusterStatusResponse,
}

impl Target {
    /// Finds the cluster.
    ///
    /// # Errors
    /// When an endpoint is none, or none of them answers.
    pub(crate) async fn find(access: Access) -> Result<Self, Error> {
        let timeout = access.timeout.unwrap_or(TIMEOUT_DEFAULT);
        let mut endpoints = Vec::new();
        for text in access.endpoints.iter().filter(|text| !text.is_empty()) {
            endpoints.push(resolve(text, &access, timeout).await?);
        }
        let cluster = status(&endpoints, timeout).await?;
        Ok(Self { access, endpoints, timeout, cluster })
    }

    /// Asks again who leads.
    ///
    /// # Errors
    /// When no endpoint answers.
    pub(crate) async fn leader(&self) -> Result<Option<(u64, String)>, Error> {
        let now = status(&self.endpoints, self.timeout).await?;
        Ok(leader_of(&now).map(|(id, address)| (id, address.to_owned())))
    }

    /// The client address of the leader when the cluster was found.
    pub(crate) fn leader_address(&self) -> Option<&str> {
        leader_of(&self.cluster).map(|(_, address)| address)
    }

    /// The nodes that a work asks.
    ///
    /// # Errors
    /// When there is no such node.
    pub(crate) async fn nodes(&self, node: Node) -> Result<Vec<Arc<Endpoint>>, Error> {
        let leader = self.cluster.leader_id;
        let addresses: Vec<_> = match node {
            Node::Any => return Ok(self.endpoints.clone()),
            Node::Leader => self.leader_address().into_iter().collect(),
            Node::Followers => {
                let voters = self.cluster.members.iter().filter(|member| member.role == Role::Voter);
                voters
                    .filter(|member| Some(member.node_id) != leader && leader.is_some())
                    .map(|member| member.api_address.as_str())
                    .collect()
            }
        };
        if addresses.is_empty() {
            return Err(Error::Usage { what: format!("--node {}: the cluster has none now", node.word()) });
        }
        let mut nodes = Vec::new();
        for address in addresses {
            nodes.push(resolve(address, &self.access, self.timeout).await?);
        }
        Ok(nodes)
    }

    /// The first of the nodes that a work asks.
    ///
    /// # Errors
    /// When there is no such node.
    pub(crate) async fn first(&self, node: Node) -> Result<Arc<Endpoint>, Error> {
        Ok(self.nodes(node).await?.swap_remove(0))
    }

    /// The endpoints, whose requests say that they wait no longer than this.
    pub(crate) fn endpoints_with_timeout(&self, timeout: Duration) -> Vec<Arc<Endpoint>> {
        let impatient = |endpoint: &Arc<Endpoint>| {
            let mut endpoint = Endpoint::clone(endpoint);
            for headers in [&mut endpoint.headers, &mut endpoint.headers_of_json] {
                headers.insert(REQUEST_TIMEOUT_MS, timeout_value(timeout));
            }
            Arc::new(endpoint)
        };
        self.endpoints.iter().map(impatient).collect()
    }

    /// Opens that many connections, to the nodes in turn.
    ///
    /// # Errors
    /// When one of the nodes cannot be reached.
    pub(crate) async fn connect(&self, node: Node, count: u16) -> Result<Vec<Connection>, Error> {
        let nodes = self.nodes(node).await?;
        let mut connections = Vec::with_capacity(count.into());
        for endpoint in nodes.iter().cycle().take(count.into()) {
            let connection = Connection::open(endpoint.clone(), self.timeout).await;
            connections.push(connection.map_err(|source| Error::Request { action: "reach every node", source })?);
        }
        Ok(connections)
    }

    /// One connection to the first endpoint that can be reached.
    ///
    /// # Errors
    /// When none can.
    pub(crate) async fn connect_any(&self) -> Result<Connection, Error> {
        connect_any(&self.endpoints, self.timeout).await
    }

    /// The nodes' processes: those that were named, else those that are found on this machine.
    pub(crate) async fn processes(&self, common: &Common) -> Processes {
        if !common.pids.is_empty() {
            return Processes::new(common.pids.clone());
        }
        let mut addresses: Vec<SocketAddr> = self.endpoints.iter().map(|endpoint| endpoint.address).collect();
        for member in &self.cluster.members {
            // A member that has no address here has no process here.
            if let Ok(endpoint) = resolve(&member.api_address, &self.access, self.timeout).await
                && !addresses.contains(&endpoint.address)
            {
                addresses.push(endpoint.address);
            }
        }
        addresses.retain(|address| address.ip().is_loopback());
        Processes::listening_at(&addresses)
    }
}

fn leader_of(cluster: &ClusterStatusResponse) -> Option<(u64, &str)> {
    let leader = cluster.members.iter().find(|member| Some(member.node_id) == cluster.leader_id)?;
    Some((leader.node_id, &leader.api_address))
}

async fn connect_any(endpoints: &[Arc<Endpoint>], timeout: Duration) -> Result<Connection, Error> {
    let mut last = None;
    for endpoint in endpoints {
        match Connection::open(endpoint.clone(), timeout).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(source) => Error::Request { action: "reach a node", source },
        None => Error::Usage { what: "no endpoint is given".to_owned() },
    })
}

async fn status(endpoints: &[Arc<Endpoint>], timeout: Duration) -> Result<ClusterStatusResponse, Error> {
    let mut connection = connect_any(endpoints, timeout).await?;
    let failed = |source| Error::Request { action: "ask for the cluster status", source };
    let call = Call::get(Uri::from_static("/api/cluster/status")).keep(Keep::All);
    connection.send(&call).await.map_err(failed)?;
    serde_json::from_slice(connection.body())
        .map_err(|error| failed(RequestError::Unexpected { what: format!("no cluster status: {error}") }))
}

async fn resolve(text: &str, access: &Access, timeout: Duration) -> Result<Arc<Endpoint>, Error> {
    let wrong = |why: &str| Error::Usage { what: format!("endpoint `{text}`: {why}") };
    let scheme = if access.ca.is_some() { "https" } else { "http" };
    let whole = if text.contains("://") { text.to_owned() } else { format!("{scheme}://{text}") };
    let uri: Uri = whole.parse().map_err(|_| wrong("it is no http URL"))?;
    if uri.scheme_str() != Some(scheme) {
        return Err(wrong("it is https with a certificate authority (--ca), and http without"));
    }
    if uri.path().len() > 1 || uri.query().is_some() {
        return Err(wrong("nodes are asked directly, without a path before the API's own"));
    }
    let host = uri.host().ok_or_else(|| wrong("it names no host"))?;
    let port = uri.port_u16().unwrap_or(80);
    let address = tokio::net::lookup_host(format!("{host}:{port}")).await.ok().and_then(|mut found| found.next());
    let address = address.ok_or_else(|| wrong("its host has no address"))?;

    let tls = match &access.ca {
        None => None,
        Some(ca) => {
            let bare = host.trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(bare).map_err(|_| wrong("its host can stand in no certificate"))?;
            Some(Tls { config: trusting(ca)?, name })
        }
    };
    let authority = format!("{host}:{port}");
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, text: &str| {
        let value = HeaderValue::from_str(text);
        let unfit = |_| Error::Usage { what: "the token or the tenant does not fit into a header".to_owned() };
        headers.insert(name, value.map_err(unfit)?);
        Ok(())
    };
    add(HOST, &authority)?;
    if let Some(token) = &access.token {
        add(AUTHORIZATION, &format!("Bearer {token}"))?;
    }
    if let Some(tenant) = &access.tenant {
        add(HeaderName::from_static(TENANT_ID), tenant)?;
    }
    headers.insert(REQUEST_TIMEOUT_MS, timeout_value(timeout));
    let mut headers_of_json = headers.clone();
    headers_of_json.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Arc::new(Endpoint { authority, address, tls, headers, headers_of_json }))
}

fn trusting(ca: &[u8]) -> Result<Arc<ClientConfig>, Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::Usage { what: format!("the certificate authority: {error}") };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"it holds no PEM certificate"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(|error| wrong(&error))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn timeout_value(timeout: Duration) -> HeaderValue {
    let timeout = timeout.clamp(Duration::from_millis(1), NODE_TIMEOUT_MAX);
    HeaderValue::from(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
}
