//! One gateway, by `igd-next`. Requests are sent from the address that the mapping leads to: in secure mode, which is the
//! usual one, a gateway maps ports only to the sender.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use futures::TryFutureExt;
use futures::future::{join, join_all};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use igd_next::aio::{Gateway as Igd, Provider};
use igd_next::{
    AddPortError, GetGenericPortMappingEntryError, PinholeError, PortMappingProtocol, RemovePortError,
    RequestError, SearchOptions,
};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::mapping::{MappingKey, PortMapping};
use super::table::ListedMapping;
use crate::model::service::Protocol;
use crate::model::{Family, IfIndex, PerFamily};

/// Wait for responses to a search.
const SEARCH: Duration = Duration::from_secs(2);
/// Limit of a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest response, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;
/// Mappings that are listed: no home router has room for more.
const MOST_ENTRIES: u32 = 1024;
/// A lease of zero is permanent.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
/// Of IGD version 2 (WANIPConnection:2 §2.3.21), and of a pinhole (WANIPv6FirewallControl:1 §2.3.9).
const LONGEST_LEASE: Duration = Duration::from_secs(604_800);
const LONGEST_PINHOLE: Duration = Duration::from_secs(86_400);
/// Where gateways listen for searches (UPnP Device Architecture §1.3).
const SEARCH_GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);

tokio::task_local! {
    /// Source address of the requests of this task.
    static SOURCE: IpAddr;
}

/// Requests from [`SOURCE`].
#[derive(Debug, Clone, Copy)]
struct FromSource;

impl Provider for FromSource {
    async fn send_async(url: &str, action: &str, body: &str) -> Result<String, RequestError> {
        let source = SOURCE.try_with(|source| *source).ok();
        match timeout(PATIENCE, request(source, url, action, body)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}

async fn request(
    source: Option<IpAddr>,
    url: &str,
    action: &str,
    body: &str,
) -> Result<String, RequestError> {
    let invalid = |what: &str| RequestError::InvalidResponse(format!("{what} in `{url}`"));
    let rest = url.strip_prefix("http://").ok_or_else(|| invalid("no http"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address: SocketAddr = host.parse().map_err(|_| invalid("no address and port"))?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        // With BGP or the routing table the address may be on no interface: use the host's own.
        match socket.bind(SocketAddr::new(source, 0)) {
            Err(error) if error.kind() != std::io::ErrorKind::AddrNotAvailable => return Err(error.into()),
            _ => {}
        }
    }
    let stream = socket.connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::post(format!("/{path}"))
        .header(http::header::HOST, host)
        .header("SOAPAction", action)
        .header(http::header::CONTENT_TYPE, "text/xml; charset=\"utf-8\"")
        .body(Full::new(Bytes::from(body.to_owned())))?;
    let answered = async {
        let answer = sender.send_request(request).await?;
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| RequestError::InvalidResponse(error.to_string()))?;
        Ok(String::from_utf8(body.to_bytes().to_vec())?)
    };
    // The connection lives as long as the request does.
    tokio::select! {
        answer = answered => answer,
        Err(error) = connection.map_ok(|()| ()) => Err(error.into()),
    }
}

/// Why a request to a gateway failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    #[error("the gateway does not answer: {0}")]
    Away(String),
    #[error("the gateway denied it: {0}")]
    Refused(String),
}

impl From<RequestError> for GatewayError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::ErrorCode(code, text) => Self::Refused(format!("error {code} ({})", short(&text))),
            RequestError::UnsupportedAction(action) => Self::Refused(format!("unsupported action {action}")),
            RequestError::InvalidResponse(text) => {
                Self::Refused(format!("malformed response: {}", short(&text)))
            }
            other => Self::Away(short(&other.to_string())),
        }
    }
}

impl From<PinholeError> for GatewayError {
    fn from(error: PinholeError) -> Self {
        match error {
            PinholeError::RequestError(error) => error.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<AddPortError> for GatewayError {
    fn from(error: AddPortError) -> Self {
        Self::Refused(match error {
            AddPortError::RequestError(error) => return error.into(),
            AddPortError::PortInUse => {
                "the port is mapped to another host: remove that mapping on the gateway, or request another port"
                    .to_owned()
            }
            AddPortError::ActionNotAuthorized => {
                "606 Action not authorized: enable UPnP on it and check its allowed ports and addresses"
                    .to_owned()
            }
            other => other.to_string(),
        })
    }
}

/// A gateway's text, shortened for a log line.
fn short(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(160).collect()
}

/// A gateway for one address family: its ports for IPv4, or its firewall for IPv6.
#[derive(Debug)]
pub struct Gateway {
    family: Family,
    igd: Igd<FromSource>,
    /// IDs of the pinholes that this process opened.
    pinholes: BTreeMap<MappingKey, u16>,
}

/// The gateways that respond on an interface. Searches are sent from its own addresses; only responders are contacted.
pub async fn search(own: PerFamily<Option<IpAddr>>, interface: IfIndex) -> Vec<Gateway> {
    let v4 = async {
        let Some(own) = own.v4 else { return Vec::new() };
        let queries = responders(own).await.unwrap_or_default().into_iter().map(async |responder| {
            let mut options = SearchOptions::default();
            options.bind_addr = SocketAddr::new(own, 0);
            options.broadcast_address = SocketAddr::new(responder.into(), SEARCH_GROUP.port());
            options.timeout = Some(PATIENCE);
            options.single_search_timeout = Some(SEARCH);
            igd_next::aio::tokio::search_gateway(options)
                .await
                .inspect_err(|error| tracing::debug!(%responder, %error, "not a usable gateway"))
                .ok()
        });
        join_all(queries).await.into_iter().flatten().collect()
    };
    let v6 = async {
        let mut options = SearchOptions::ipv6(interface.0);
        // A gateway responds from the address in its description.
        if let Some(own) = own.v6 {
            options.bind_addr = SocketAddr::new(own, 0);
        }
        options.timeout = Some(SEARCH);
        options.single_search_timeout = Some(SEARCH);
        igd_next::aio::tokio::search_ipv6_firewall_gateway(options).await.ok()
    };
    let (v4, v6) = join(v4, v6).await;
    let v4 = v4.into_iter().map(|found| Gateway {
        family: Family::V4,
        igd: Igd {
            addr: found.addr,
            root_url: found.root_url,
            control_url: found.control_url,
            control_schema_url: found.control_schema_url,
            control_schema: found.control_schema,
            service_type: found.service_type,
            ipv6_firewall_control_url: None,
            provider: FromSource,
        },
        pinholes: BTreeMap::new(),
    });
    let v6 = v6.map(|found| Gateway {
        family: Family::V6,
        igd: Igd {
            addr: found.addr,
            root_url: found.root_url,
            control_url: String::new(),
            control_schema_url: String::new(),
            control_schema: Default::default(),
            service_type: String::new(),
            ipv6_firewall_control_url: Some(found.control_url),
            provider: FromSource,
        },
        pinholes: BTreeMap::new(),
    });
    v4.chain(v6).collect()
}

/// The responders to a search for gateways.
async fn responders(own: IpAddr) -> std::io::Result<Vec<Ipv4Addr>> {
    let socket = UdpSocket::bind(SocketAddr::new(own, 0)).await?;
    for version in [1, 2] {
        let search = format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: {SEARCH_GROUP}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
             ST: urn:schemas-upnp-org:device:InternetGatewayDevice:{version}\r\n\r\n"
        );
        socket.send_to(search.as_bytes(), SEARCH_GROUP).await?;
    }
    // Responses arrive in any order.
    let mut found = BTreeSet::new();
    let mut buffer = [0; 1500];
    let listen = async {
        while let Ok((_, SocketAddr::V4(from))) = socket.recv_from(&mut buffer).await {
            found.insert(*from.ip());
        }
    };
    drop(timeout(SEARCH, listen).await);
    Ok(found.into_iter().take(8).collect())
}

fn protocol(protocol: Protocol) -> PortMappingProtocol {
    if protocol == Protocol::Udp { PortMappingProtocol::UDP } else { PortMappingProtocol::TCP }
}

fn seconds(lease: Duration) -> u32 {
    u32::try_from(lease.as_secs()).unwrap_or(u32::MAX)
}

impl Gateway {
    pub fn address(&self) -> IpAddr {
        self.igd.addr.ip()
    }

    /// The family of the addresses that it can map ports to.
    pub fn family(&self) -> Family {
        self.family
    }

    pub async fn external_address(&self) -> Option<IpAddr> {
        match self.family {
            Family::V4 => self.igd.get_external_ip().await.ok(),
            Family::V6 => None,
        }
    }

    /// All mappings for IPv4, each of which is a request.
    pub async fn list(&self, limit: Duration) -> Result<Vec<ListedMapping>, GatewayError> {
        let too_long =
            |_| GatewayError::Refused(format!("listing its port mappings takes longer than {limit:?}"));
        timeout(limit, self.list_all()).await.map_err(too_long)?
    }

    async fn list_all(&self) -> Result<Vec<ListedMapping>, GatewayError> {
        let mut entries = Vec::new();
        if self.family == Family::V6 {
            return Ok(entries);
        }
        for index in 0..MOST_ENTRIES {
            match self.igd.get_generic_port_mapping_entry(index).await {
                Ok(entry) => entries.push(ListedMapping {
                    protocol: match entry.protocol {
                        PortMappingProtocol::TCP => Protocol::Tcp,
                        PortMappingProtocol::UDP => Protocol::Udp,
                    },
                    external: entry.external_port,
                    client: entry.internal_client.parse().ok(),
                    port: entry.internal_port,
                    description: short(&entry.port_mapping_description),
                }),
                Err(GetGenericPortMappingEntryError::ActionNotAuthorized) => {
                    return Err(GatewayError::Refused("listing port mappings".into()));
                }
                // Gateways report the end of the list in different ways.
                Err(
                    GetGenericPortMappingEntryError::SpecifiedArrayIndexInvalid
                    | GetGenericPortMappingEntryError::RequestError(RequestError::ErrorCode(..)),
                ) => break,
                Err(GetGenericPortMappingEntryError::RequestError(error)) => return Err(error.into()),
            }
        }
        Ok(entries)
    }

    /// Opens or renews a mapping. Returns its lease; none is permanent.
    pub async fn open(&mut self, mapping: &PortMapping) -> Result<Option<Duration>, GatewayError> {
        let opening = async {
            match mapping.key.address {
                IpAddr::V4(_) => self.open_port(mapping).await,
                IpAddr::V6(address) => self.open_pinhole(mapping, address).await.map(Some),
            }
        };
        SOURCE.scope(mapping.key.address, opening).await
    }

    async fn open_port(&self, mapping: &PortMapping) -> Result<Option<Duration>, GatewayError> {
        let key = &mapping.key;
        let inside = SocketAddr::new(key.address, mapping.port);
        let add = async |lease| {
            let text = &mapping.description;
            self.igd.add_port(protocol(key.protocol), key.external, inside, lease, text).await
        };
        let lease = mapping.lease.map(|lease| lease.clamp(SHORTEST_LEASE, LONGEST_LEASE));
        match add(lease.map_or(0, seconds)).await {
            Err(AddPortError::OnlyPermanentLeasesSupported) => {
                add(0).await?;
                Ok(None)
            }
            added => Ok(added.map(|()| lease)?),
        }
    }

    async fn open_pinhole(
        &mut self,
        mapping: &PortMapping,
        address: Ipv6Addr,
    ) -> Result<Duration, GatewayError> {
        let lease = mapping.lease.unwrap_or(LONGEST_PINHOLE).clamp(SHORTEST_LEASE, LONGEST_PINHOLE);
        if let Some(number) = self.pinholes.get(&mapping.key) {
            match self.igd.update_pinhole(*number, seconds(lease)).await.map_err(GatewayError::from) {
                Ok(()) => return Ok(lease),
                Err(error @ GatewayError::Away(_)) => return Err(error),
                // The gateway has lost it.
                Err(GatewayError::Refused(_)) => drop(self.pinholes.remove(&mapping.key)),
            }
        }
        let inside = SocketAddrV6::new(address, mapping.port, 0, 0);
        let number = self.igd.add_pinhole(protocol(mapping.key.protocol), inside, seconds(lease)).await?;
        self.pinholes.insert(mapping.key.clone(), number);
        Ok(lease)
    }

    /// Closes a mapping; one that is closed already is no error.
    pub async fn close(&mut self, key: &MappingKey) -> Result<(), GatewayError> {
        let pinhole = self.pinholes.remove(key);
        let closing = async {
            match pinhole {
                Some(number) => match self.igd.remove_pinhole(number).await {
                    Err(PinholeError::RequestError(error)) => Err(error.into()),
                    _ => Ok(()),
                },
                None if key.address.is_ipv6() => Ok(()),
                None => match self.igd.remove_port(protocol(key.protocol), key.external).await {
                    Ok(()) | Err(RemovePortError::NoSuchPortMapping) => Ok(()),
                    Err(RemovePortError::RequestError(error)) => Err(error.into()),
                    Err(error) => Err(GatewayError::Refused(error.to_string())),
                },
            }
        };
        SOURCE.scope(key.address, closing).await
    }
}

#[cfg(test)]
impl Gateway {
    /// A gateway for IPv4 at this address.
    pub(super) fn example(address: SocketAddr) -> Self {
        let arguments = ["NewExternalPort", "NewProtocol", "NewInternalClient", "NewInternalPort"];
        let igd = Igd {
            addr: address,
            root_url: "/".into(),
            control_url: "/control".into(),
            control_schema_url: "/schema".into(),
            control_schema: [("AddPortMapping".into(), arguments.map(str::to_owned).into())].into(),
            service_type: "urn:schemas-upnp-org:service:WANIPConnection:1".into(),
            ipv6_firewall_control_url: None,
            provider: FromSource,
        };
        Self { family: Family::V4, igd, pinholes: BTreeMap::new() }
    }
}
