//! Questions to the neighbours, to routers and to the API server's port, and ports that are tried.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::api::Certificate;
use super::{Check, HostFacts, Outcome};
use crate::bgp::fsm::FsmState;
use crate::bgp::packet::{MAX_LENGTH, Message, Negotiated, decode};
use crate::bgp::peers;
use crate::bgp::status::PeerStatus;
use crate::config::Config;
use crate::model::Interface;
use crate::model::interface::hardware_text;
use crate::net::tcp::{self, Route};
use crate::status::Status;
use crate::{arp, ndp};

/// Probes are repeated, since one may be lost.
const PROBES: u32 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Hardware addresses of the hosts that reply for an address.
pub(super) async fn owners(interface: &Interface, vip: IpAddr) -> io::Result<BTreeSet<String>> {
    let mut owners = BTreeSet::new();
    match vip {
        IpAddr::V4(vip) => {
            let driver = arp::driver::Driver::open(interface)?;
            for _ in 0..PROBES {
                driver.probe(vip)?;
                let replies = async {
                    loop {
                        let packet = driver.receive().await?;
                        if packet.sender == vip {
                            owners.insert(hardware_text(&packet.sender_hardware));
                        }
                    }
                };
                if let Ok(Err::<(), io::Error>(error)) = timeout(PROBE_INTERVAL, replies).await {
                    return Err(error);
                }
            }
        }
        IpAddr::V6(vip) => {
            let driver = ndp::driver::Driver::open(interface).map_err(io::Error::other)?;
            for _ in 0..PROBES {
                driver.probe(vip)?;
                let replies = async {
                    loop {
                        if let ndp::packet::Packet::Advertisement { target, hardware, .. } =
                            driver.receive().await?
                            && target == vip
                        {
                            owners.insert(hardware_text(&hardware));
                        }
                    }
                };
                if let Ok(Err::<(), io::Error>(error)) = timeout(PROBE_INTERVAL, replies).await {
                    return Err(error);
                }
            }
        }
    }
    Ok(owners)
}

/// Whether clients that trust these CAs accept the server's certificate for a name or address.
pub(super) async fn certificate(url: &str, name: &str, roots: &[Vec<u8>]) -> Certificate {
    let (url, name, roots) = (url.to_owned(), name.to_owned(), roots.to_vec());
    let result = tokio::task::spawn_blocking(move || handshake(&url, name, roots)).await;
    match result {
        Ok(Ok(())) => Certificate::Valid,
        Ok(Err(problem)) => problem,
        Err(error) => Certificate::Unknown(error.to_string()),
    }
}

fn handshake(url: &str, name: String, roots: Vec<Vec<u8>>) -> Result<(), Certificate> {
    let unknown = |why: String| Certificate::Unknown(why);
    let server: http::Uri = url.parse().map_err(|_| unknown(format!("{url} is no URL")))?;
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.into_iter().map(CertificateDer::from));
    let config = ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
    let name = ServerName::try_from(name).map_err(|error| unknown(error.to_string()))?;
    let text = |error: io::Error| unknown(error.to_string());
    let mut addresses = (host, server.port_u16().unwrap_or(443)).to_socket_addrs().map_err(text)?;
    let address = addresses.next().ok_or_else(|| unknown(format!("{host} has no address")))?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).map_err(text)?;
    stream.set_read_timeout(Some(CONNECT_TIMEOUT)).map_err(text)?;
    let connection = ClientConnection::new(Arc::new(config), name);
    let mut connection = connection.map_err(|error| unknown(error.to_string()))?;
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut stream) {
            return Err(explain(&error));
        }
    }
    Ok(())
}

fn explain(error: &io::Error) -> Certificate {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => Certificate::Invalid(format!("it has the names {}", presented.join(", "))),
        Some(rustls::Error::InvalidCertificate(problem)) => Certificate::Invalid(format!("{problem:?}")),
        _ => Certificate::Unknown(error.to_string()),
    }
}

/// Ports of the settings that cannot be bound. Each is bound for a moment, without accepting connections.
pub(super) fn taken_ports(config: &Config) -> Vec<(&'static str, String, String)> {
    let metrics = config.telemetry.metrics.clone().map(|address| ("prometheus_server", address));
    let health = config.telemetry.health_port.map(|port| ("health_check_port", format!("[::]:{port}")));
    let passive = config.bgp.as_ref().filter(|bgp| bgp.peers.iter().any(|peer| peer.passive));
    let bgp = passive.map(|bgp| ("bgp_listen_port", format!("[::]:{}", bgp.listen_port)));
    let all = [metrics, health, bgp].into_iter().flatten();
    let taken = all.filter_map(|(setting, address)| {
        let error = TcpListener::bind(&address).err()?;
        // A host without IPv6 serves the port by IPv4.
        let error = match error.raw_os_error() {
            Some(nix::libc::EAFNOSUPPORT) => TcpListener::bind(address.replace("[::]", "0.0.0.0")).err()?,
            _ => error,
        };
        Some((setting, address, error.to_string()))
    });
    taken.collect()
}

/// The BGP peers: their sessions, or without a running process whether they accept a connection and have the expected AS.
pub(super) async fn peers(config: &Config, host: &HostFacts, running: &[Status]) -> Vec<Check> {
    let Some(bgp) = &config.bgp else { return Vec::new() };
    let check = |outcome, text| Check::new("bgp-peer", outcome, text);
    if host.running {
        if running.is_empty() {
            return vec![check(
                Outcome::Skipped,
                "the status of kube-vip on this host cannot be read".to_owned(),
            )];
        }
        return running.iter().flat_map(|status| status.peers.values()).map(session).collect();
    }
    let state = Arc::new(host.state.clone());
    let facts = peers::Host { node: config.node_name.clone(), state, ..peers::Host::default() };
    let (found, problems) = peers::resolve(bgp, &facts, config.elects());
    let mut checks: Vec<Check> =
        problems.into_iter().map(|problem| check(Outcome::Skipped, problem)).collect();
    let connected = connected_peers();
    for peer in found {
        let name = &peer.name;
        checks.push(if peer.settings.passive {
            check(Outcome::Skipped, format!("{name} is passive: it connects to this host"))
        } else if connected.contains(&peer.address.ip()) {
            // A second connection from this address ends a session with graceful restart (RFC 4724 §5).
            check(Outcome::Skipped, format!("another program on this host is connected to {name}"))
        } else {
            examine(&peer, bgp.local_as).await
        });
    }
    checks
}

/// As the agent reports it.
fn session(peer: &PeerStatus) -> Check {
    let name = &peer.peer;
    match (peer.state, &peer.last_error) {
        (FsmState::Established, _) => Check::new("bgp-peer", Outcome::Ok, format!("{name} is established")),
        (_, error) => {
            let why = error.as_deref().unwrap_or("it has not replied yet");
            let text = format!(
                "the session with {name} is not established ({why}): see `kube-vip status bgp` and the peer's log"
            );
            Check::new("bgp-peer", Outcome::Warning, text)
        }
    }
}

/// Hosts with an established BGP connection, by proc(5).
fn connected_peers() -> BTreeSet<IpAddr> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).filter_map(connection).collect()
}

/// The other end of an established connection with port 179 at one of both ends.
fn connection(line: &str) -> Option<IpAddr> {
    const ESTABLISHED: &str = "01";
    let mut words = line.split_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    let port = |end: &str| u16::from_str_radix(end.split_once(':')?.1, 16).ok();
    let is_bgp = [local, remote].into_iter().any(|end| port(end) == Some(179));
    let (digits, _) = remote.split_once(':')?;
    // Words of 32 bits in the order of the host.
    let bytes: Option<Vec<u8>> = (0..digits.len() / 8)
        .map(|word| digits.get(word * 8..word * 8 + 8).and_then(|word| u32::from_str_radix(word, 16).ok()))
        .map(|word| Some(word?.to_ne_bytes()))
        .collect::<Option<Vec<[u8; 4]>>>()
        .map(|words| words.concat());
    let bytes = bytes.filter(|_| is_bgp && state == ESTABLISHED)?;
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?),
    };
    Some(address.to_canonical())
}

/// A router sends its OPEN as soon as a connection is there, or closes it if it does not know this host.
async fn examine(peer: &peers::Config, local: u32) -> Check {
    let check = |outcome, text| Check::new("bgp-peer", outcome, text);
    let (name, expected) = (&peer.name, peer.settings.peer_as);
    match timeout(CONNECT_TIMEOUT, open(peer.address, &peer.route)).await {
        Err(_) => {
            let text = format!(
                "{name} does not reply within {} s: check the route to it, its firewall, and the password of the session",
                CONNECT_TIMEOUT.as_secs()
            );
            check(Outcome::Warning, text)
        }
        Ok(Err(error)) => {
            let text = format!(
                "{name} refuses the connection ({error}): configure this host as its neighbour, with AS {local}"
            );
            check(Outcome::Warning, text)
        }
        Ok(Ok(asn)) if expected.is_some_and(|expected| expected != asn) => {
            let expected = expected.unwrap_or_default();
            check(Outcome::Error, format!("{name} has AS {asn}, not {expected}: correct the AS of the peer"))
        }
        Ok(Ok(asn)) => check(Outcome::Ok, format!("{name} accepts connections, and has AS {asn}")),
    }
}

/// The AS in the peer's OPEN.
async fn open(address: SocketAddr, route: &Route) -> io::Result<u32> {
    let mut stream = tcp::connect(address, route).await?;
    let mut buffer = Vec::with_capacity(MAX_LENGTH);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it closes the connection"));
        }
        match decode(&buffer, Negotiated::default()) {
            Ok(None) if buffer.len() < MAX_LENGTH => {}
            Ok(Some((Message::Open(open), _))) => return Ok(open.asn),
            Ok(Some((Message::Notification(notification), _))) => {
                return Err(io::Error::other(notification.to_string()));
            }
            Ok(_) | Err(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it sends something else than OPEN"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bgp_connection_is_found_in_the_table_of_the_kernel() {
        let v4 = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let (here, peer) = (v4([192, 0, 2, 1]), v4([192, 0, 2, 254]));
        let expected: Option<IpAddr> = Some("192.0.2.254".parse().unwrap());
        let table = [
            (format!(" 0: {here}:C001 {peer}:00B3 01 00000000:00000000"), expected),
            (format!(" 0: {here}:00B3 {peer}:C001 01 00000000:00000000"), expected),
            // Listening, or another port.
            (format!(" 0: {here}:00B3 00000000:0000 0A 00000000:00000000"), None),
            (format!(" 0: {here}:C001 {peer}:01BB 01 00000000:00000000"), None),
            ("  sl  local_address rem_address   st".to_owned(), None),
            ("é: é".to_owned(), None),
        ];
        for (line, expected) in table {
            assert_eq!(connection(&line), expected, "{line}");
        }
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let mapped = [[0; 4], [0; 4], [0, 0, 0xff, 0xff], [192, 0, 2, 254]].map(word).concat();
        let line = format!(" 0: {}:00B3 {mapped}:C001 01", "0".repeat(32));
        assert_eq!(connection(&line), expected);
    }
}
