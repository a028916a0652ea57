//! Probes of neighbours, BGP and BFD peers and the API server's certificate; binds the configured ports.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, ClientConnection};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::api::Certificate;
use super::{Check, HostReadings, Severity};
use crate::announce::layer2::Layer2;
use crate::bfd::driver::Bfd;
use crate::bfd::path::{PathState, SessionSpec};
use crate::bgp::fsm::FsmState;
use crate::bgp::packet::{MAX_LENGTH, Message, Negotiated, decode};
use crate::bgp::peers;
use crate::bgp::status::PeerStatus;
use crate::config::Config;
use crate::config::bgp::PeerTarget;
use crate::conflict::FrameKind;
use crate::model::interface::hardware_text;
use crate::model::{Family, Interface};
use crate::net::{tcp, udp};
use crate::status::Status;
use crate::telemetry::http;

/// Probes are repeated, since one may be lost.
const PROBES: u32 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A session that is not up transmits once per second (RFC 5880 §6.8.3), and needs three packets each way.
const BFD_TIMEOUT: Duration = Duration::from_secs(6);

/// Hardware addresses of the hosts that reply for an address.
pub(super) async fn owners(interface: &Interface, vip: IpAddr) -> io::Result<BTreeSet<String>> {
    let mut layer2 = Layer2::new(interface);
    layer2.carry(vip).map_err(io::Error::other)?;
    let mut owners = BTreeSet::new();
    for _ in 0..PROBES {
        layer2.probe(vip)?;
        let replies = async {
            loop {
                let frame = layer2.next_frame().await?;
                if frame.address == vip && frame.kind == FrameKind::Announcement {
                    owners.insert(hardware_text(&frame.mac));
                }
            }
        };
        if let Ok(Err::<(), io::Error>(error)) = timeout(PROBE_INTERVAL, replies).await {
            return Err(error);
        }
    }
    Ok(owners)
}

/// Whether clients accept the server's certificate for a name or address. `tls`: as the agent connects.
pub(super) async fn certificate(url: &str, name: &str, tls: Arc<ClientConfig>) -> Certificate {
    let (url, name) = (url.to_owned(), name.to_owned());
    let result = tokio::task::spawn_blocking(move || handshake(&url, name, tls)).await;
    match result {
        Ok(Ok(())) => Certificate::Valid,
        Ok(Err(problem)) => problem,
        Err(error) => Certificate::Unknown(error.to_string()),
    }
}

fn handshake(url: &str, name: String, tls: Arc<ClientConfig>) -> Result<(), Certificate> {
    let unknown = |why: String| Certificate::Unknown(why);
    let server: ::http::Uri = url.parse().map_err(|_| unknown(format!("{url} is no URL")))?;
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(name).map_err(|error| unknown(error.to_string()))?;
    let text = |error: io::Error| unknown(error.to_string());
    let mut addresses = (host, server.port_u16().unwrap_or(443)).to_socket_addrs().map_err(text)?;
    let address = addresses.next().ok_or_else(|| unknown(format!("{host} has no address")))?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).map_err(text)?;
    stream.set_read_timeout(Some(CONNECT_TIMEOUT)).map_err(text)?;
    let connection = ClientConnection::new(tls, name);
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
        })) => {
            let names: Vec<&str> = presented.iter().map(|name| plain(name)).collect();
            Certificate::Invalid(format!("it has the names {}", names.join(", ")))
        }
        _ => Certificate::Unknown(error.to_string()),
    }
}

/// A name as rustls writes it, such as `DnsName("a.example")` or `IpAddress(192.0.2.1)`, without the rest.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// Ports of the settings that cannot be bound. Each is bound for a moment, without accepting connections.
pub(super) async fn taken_ports(config: &Config) -> Vec<(&'static str, String, String)> {
    let metrics = config.telemetry.metrics.clone().map(|address| ("prometheus_server", address));
    let health = config.telemetry.health_port.map(|port| ("health_check_port", format!("[::]:{port}")));
    let mut taken = Vec::new();
    for (setting, address) in [metrics, health].into_iter().flatten() {
        if let Err(error) = http::bind(&address).await {
            taken.push((setting, address, error.to_string()));
        }
    }
    let Some(bgp) = &config.bgp else { return taken };
    let passive = bgp.peers.iter().filter(|peer| peer.passive);
    let families: BTreeSet<Family> = passive
        .map(|peer| match &peer.target {
            PeerTarget::Address(address) => Family::of(*address),
            PeerTarget::Unnumbered(_) => Family::V6,
        })
        .collect();
    for family in families {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let address = SocketAddr::new(any, bgp.listen_port);
        if let Err(error) = tcp::listen(address, &[]) {
            taken.push(("bgp_listen_port", address.to_string(), error.to_string()));
        }
    }
    taken
}

/// The BGP peers: the session of an agent on this host, or else whether they accept a connection and have the expected AS.
pub(super) async fn peers(config: &Config, host: &HostReadings, running: &[Status]) -> Vec<Check> {
    let Some(bgp) = &config.bgp else { return Vec::new() };
    let skipped = |text: String| Check::new("bgp-peer", Severity::Skipped, text);
    let sessions: BTreeMap<&String, &PeerStatus> = running.iter().flat_map(|status| &status.peers).collect();
    let state = Arc::new(host.state.clone());
    let facts = peers::Host { node: config.node_name.clone(), state, ..peers::Host::default() };
    let (found, problems) = peers::resolve(bgp, &facts, config.elects());
    let mut checks: Vec<Check> = sessions.values().map(|peer| session(peer)).collect();
    checks.extend(sessions.values().filter_map(|peer| reported_bfd(peer)));
    checks.extend(problems.into_iter().map(skipped));
    if sessions.is_empty() && (bgp.annotations.is_some() || bgp.provider.is_some()) {
        checks.push(skipped(
            "peers of node annotations or of a provider are known to an agent only".to_owned(),
        ));
    }
    let connections = connections();
    for peer in found.iter().filter(|peer| !sessions.contains_key(&peer.name)) {
        let name = &peer.name;
        let is_its_own = |(local, remote): &(u16, SocketAddr)| {
            remote.ip() == peer.address.ip()
                && (remote.port() == peer.address.port() || *local == bgp.listen_port)
        };
        let check = if peer.settings.passive {
            skipped(format!("{name} is passive: it connects to this host"))
        } else if connections.iter().any(is_its_own) {
            // A second connection from this address ends a session with graceful restart (RFC 4724 §5).
            skipped(format!("another program on this host is connected to {name}"))
        } else {
            examine(peer, bgp.local_as).await
        };
        let responds = check.severity == Severity::Ok;
        checks.push(check);
        if let Some(session) = peer.bfd.clone().filter(|_| responds) {
            checks.push(probe_bfd(name, session).await);
        }
    }
    checks
}

/// As the agent reports it.
fn session(peer: &PeerStatus) -> Check {
    let name = &peer.peer;
    match (peer.state, &peer.last_error) {
        (FsmState::Established, _) => Check::new("bgp-peer", Severity::Ok, format!("{name} is established")),
        (_, error) => {
            let why = error.as_deref().unwrap_or("it has not replied yet");
            let text = format!(
                "the session with {name} is not established ({why}): see `kube-vip status bgp` and the peer's log"
            );
            Check::new("bgp-peer", Severity::Warning, text)
        }
    }
}

/// As the agent reports it. A session of BGP that is not established is a finding already.
fn reported_bfd(peer: &PeerStatus) -> Option<Check> {
    let state = peer.bfd.as_ref().filter(|_| peer.state == FsmState::Established)?;
    Some(bfd_check(&peer.peer, state))
}

fn bfd_check(name: &str, state: &str) -> Check {
    if state == PathState::Up.to_string() {
        return Check::new("bfd", Severity::Ok, format!("the BFD session with {name} is up"));
    }
    let text = format!(
        "the BFD session with {name} is {state}: enable BFD for this host there, and let UDP ports 3784 and 4784 pass firewalls"
    );
    Check::new("bfd", Severity::Warning, text)
}

/// Runs a session until it is up, with a peer whose session of BGP is not established.
async fn probe_bfd(name: &str, session: SessionSpec) -> Check {
    // Packets of two programs would confuse the peer.
    let any: IpAddr =
        if session.peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let free = udp::listen(SocketAddr::new(any, session.peer.port()), None);
    let bfd = match free.and_then(|_| Bfd::start()) {
        Ok(bfd) => bfd,
        Err(error) => {
            let text =
                format!("the session with {name} is not examined, since BFD cannot be started here: {error}");
            return Check::new("bfd", Severity::Skipped, text);
        }
    };
    let mut states = bfd.monitor(session);
    drop(timeout(BFD_TIMEOUT, states.wait_for(|state| *state == PathState::Up)).await);
    let state = *states.borrow();
    bfd_check(name, &state.to_string())
}

/// Established connections: the port here, and the other end, by proc(5).
fn connections() -> BTreeSet<(u16, SocketAddr)> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).filter_map(connection).collect()
}

fn connection(line: &str) -> Option<(u16, SocketAddr)> {
    const ESTABLISHED: &str = "01";
    let mut words = line.split_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    let number = |word: &str| u32::from_str_radix(word, 16).ok();
    let port = |end: &str| u16::try_from(number(end.split_once(':')?.1)?).ok();
    let (digits, _) = remote.split_once(':')?;
    // Words of 32 bits in the order of the host.
    let words = (0..digits.len() / 8).map(|word| digits.get(word * 8..word * 8 + 8).and_then(number));
    let words: Option<Vec<[u8; 4]>> = words.map(|word| word.map(u32::to_ne_bytes)).collect();
    let bytes = words?.concat();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?),
    };
    let found = (port(local)?, SocketAddr::new(address.to_canonical(), port(remote)?));
    (state == ESTABLISHED).then_some(found)
}

/// A router sends its OPEN as soon as a connection is there, or closes it if it does not know this host.
async fn examine(peer: &peers::Config, local: u32) -> Check {
    let check = |severity, text| Check::new("bgp-peer", severity, text);
    let (name, expected) = (&peer.name, peer.settings.peer_as);
    let seconds = CONNECT_TIMEOUT.as_secs();
    let neighbour = format!("configure this host there as a neighbour with AS {local}");
    let connected = timeout(CONNECT_TIMEOUT, tcp::connect(peer.address, &peer.route)).await;
    let stream = match connected.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|stream| stream) {
        Ok(stream) => stream,
        Err(error) => {
            let text = match error.kind() {
                io::ErrorKind::TimedOut => format!(
                    "{name} accepts no connection within {seconds} s: check its firewall, the password of the session, and multihop \
                     if it is not on this link"
                ),
                io::ErrorKind::ConnectionRefused => {
                    format!("{name} refuses the connection: check that BGP runs there, and {neighbour}")
                }
                _ => format!("{name} cannot be reached ({error}): check the route to it"),
            };
            return check(Severity::Warning, text);
        }
    };
    match timeout(CONNECT_TIMEOUT, read_open(stream)).await {
        Err(_) => {
            let text =
                format!("{name} accepts the connection, and sends no OPEN within {seconds} s: {neighbour}");
            check(Severity::Warning, text)
        }
        Ok(Err(error)) => {
            check(Severity::Warning, format!("{name} ends the connection ({error}): {neighbour}"))
        }
        Ok(Ok(asn)) if expected.is_some_and(|expected| expected != asn) => {
            let expected = expected.unwrap_or_default();
            check(Severity::Error, format!("{name} has AS {asn}, not {expected}: correct the AS of the peer"))
        }
        Ok(Ok(asn)) => check(Severity::Ok, format!("{name} accepts connections, and has AS {asn}")),
    }
}

/// The AS in the peer's OPEN.
async fn read_open(mut stream: tokio::net::TcpStream) -> io::Result<u32> {
    let mut buffer = Vec::with_capacity(MAX_LENGTH);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "without a message"));
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
    fn names_of_a_certificate_are_plain() {
        let table =
            [("DnsName(\"a.example\")", "a.example"), ("IpAddress(2001:db8::1)", "2001:db8::1"), ("a", "a")];
        for (name, expected) in table {
            assert_eq!(plain(name), expected);
        }
    }

    #[test]
    fn established_connections_are_read_from_the_table_of_the_kernel() {
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let (here, peer) = (word([192, 0, 2, 1]), word([192, 0, 2, 254]));
        let mapped = [[0; 4], [0; 4], [0, 0, 0xff, 0xff], [192, 0, 2, 254]].map(word).concat();
        let found = |local, remote: &str| Some((local, remote.parse().unwrap()));
        let table = [
            (format!(" 0: {here}:C001 {peer}:00B3 01 00000000:00000000"), found(0xc001, "192.0.2.254:179")),
            (format!(" 0: {}:00B3 {mapped}:C001 01", "0".repeat(32)), found(179, "192.0.2.254:49153")),
            // Listening.
            (format!(" 0: {here}:00B3 00000000:0000 0A 00000000:00000000"), None),
            ("  sl  local_address rem_address   st".to_owned(), None),
            (" 0: é:1 é:1 01".to_owned(), None),
        ];
        for (line, expected) in table {
            assert_eq!(connection(&line), expected, "{line}");
        }
    }
}
