//! mDNS queries without a cache, and packets that other hosts may send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use crate::{Namespace, Result, io};

/// A responder may delay its answer by 20 to 120 ms (§6).
const TIMEOUT: Duration = Duration::from_millis(200);

/// The responder and the IPv4 address in its answer to a one-shot query (RFC 6762 §5.1); none without an answer.
pub fn query(machine: &Namespace, name: &str) -> Result<Option<(IpAddr, Ipv4Addr)>> {
    let exchange = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.send_to(&question(name), (Ipv4Addr::new(224, 0, 0, 251), 5353))?;
        answer(&socket)
    };
    machine.within(exchange)?.map_err(io("a question by multicast"))
}

/// The same over IPv6, so that all machines hear the answer. No other socket of the machine may have the port of mDNS.
pub fn query_aloud(machine: &Namespace, name: &str) -> Result<Option<(IpAddr, Ipv4Addr)>> {
    let exchange = || {
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
        let link = nix::net::if_::if_nametoindex("eth0")?;
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 5353))?;
        socket.join_multicast_v6(&group, link)?;
        socket.set_multicast_loop_v6(false)?;
        socket.send_to(&question(name), SocketAddrV6::new(group, 5353, 0, link))?;
        answer(&socket)
    };
    machine.within(exchange)?.map_err(io("a question by multicast"))
}

fn question(name: &str) -> Vec<u8> {
    // An id, no flags, one question; then the name, type A, class IN.
    let mut question = vec![0x4b, 0x56, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap_or(0));
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    question
}

fn answer(socket: &UdpSocket) -> std::io::Result<Option<(IpAddr, Ipv4Addr)>> {
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut buffer = [0; 1500];
    match socket.recv_from(&mut buffer) {
        Ok((length, from)) => {
            let answer = buffer.get(..length).unwrap_or_default();
            Ok(address(answer).map(|address| (from.ip(), address)))
        }
        Err(_) => Ok(None),
    }
}

/// Unasked answers about this many names, with a time to live of a day.
pub fn flood(machine: &Namespace, names: u32) -> Result<()> {
    const IN_A_PACKET: u8 = 40;
    let send = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353))?;
        for first in (0..names).step_by(IN_A_PACKET.into()) {
            let mut answer = vec![0, 0, 0x84, 0, 0, 0, 0, IN_A_PACKET, 0, 0, 0, 0];
            for number in first..first + u32::from(IN_A_PACKET) {
                answer.push(8);
                answer.extend(format!("{number:08}").as_bytes());
                answer.extend(b"\x05local\0\0\x01\0\x01\0\x01\x51\x80\0\x04\x0a\x2a\x00\x01");
            }
            socket.send_to(&answer, (Ipv4Addr::new(224, 0, 0, 251), 5353))?;
            // A burst that overflows the receiver's buffer is lost.
            std::thread::sleep(Duration::from_millis(1));
        }
        std::io::Result::Ok(())
    };
    machine.within(send)?.map_err(io("a flood by multicast"))
}

/// The first IPv4 address in an answer: type A, class IN, a time to live, four bytes.
fn address(answer: &[u8]) -> Option<Ipv4Addr> {
    answer.windows(14).find_map(|part| match part {
        [0, 1, _, 1, _, _, _, _, 0, 4, a, b, c, d] => Some(Ipv4Addr::new(*a, *b, *c, *d)),
        _ => None,
    })
}
