//! ARP and neighbour discovery bytes against two other implementations, `smoltcp` and `pnet_packet`: each reads what the
//! other wrote, and both write the same bytes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::net::{Ipv4Addr, Ipv6Addr};

use kube_vip::arp::packet::{Operation, Packet as Arp};
use kube_vip::ndp::packet::{ALL_NODES, Packet as Ndp, probe, solicited_node, unsolicited_advertisement};
use kube_vip::ndp::router::{self, ALL_ROUTERS, RouterMessage};
use pnet_packet::arp::{ArpOperation as PnetOperation, ArpPacket as PnetArp, MutableArpPacket as PnetArpMut};
use pnet_packet::icmpv6::ndp::{NdpOptionTypes, NeighborAdvertPacket, NeighborSolicitPacket};
use pnet_packet::icmpv6::{Icmpv6Packet as PnetIcmpv6, checksum};
use pnet_packet::ipv6::Ipv6Packet as PnetIpv6;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet,
    Ipv6Repr, NdiscNeighborFlags, NdiscRepr, NdiscRouterFlags,
};

const ETHERNET: u16 = 1;
const BROADCAST: [u8; 6] = [0xff; 6];

fn smoltcp_arp(packet: &Arp) -> ArpRepr {
    let mac = |bytes: &[u8]| EthernetAddress(bytes.try_into().unwrap());
    ArpRepr::EthernetIpv4 {
        operation: match packet.operation {
            Operation::Request => ArpOperation::Request,
            Operation::Reply => ArpOperation::Reply,
        },
        source_hardware_addr: mac(&packet.sender_hardware),
        source_protocol_addr: packet.sender,
        target_hardware_addr: mac(&packet.target_hardware),
        target_protocol_addr: packet.target,
    }
}

fn check_arp(packet: &Arp) {
    let bytes = packet.to_bytes();
    assert_eq!(Arp::from_bytes(&bytes).as_ref(), Ok(packet));

    let repr = smoltcp_arp(packet);
    assert_eq!(ArpRepr::parse(&ArpPacket::new_checked(&bytes).unwrap()).unwrap(), repr);
    let mut emitted = [0; 28];
    repr.emit(&mut ArpPacket::new_unchecked(&mut emitted[..]));
    assert_eq!(emitted[..], bytes);

    let read = PnetArp::new(&bytes).unwrap();
    assert_eq!((read.get_hardware_type().0, read.get_protocol_type().0), (ETHERNET, 0x0800));
    assert_eq!((read.get_hw_addr_len(), read.get_proto_addr_len()), (6, 4));
    assert_eq!(read.get_operation(), PnetOperation(if packet.operation == Operation::Reply { 2 } else { 1 }));
    assert_eq!(read.get_sender_hw_addr().octets()[..], packet.sender_hardware);
    assert_eq!(read.get_target_hw_addr().octets()[..], packet.target_hardware);
    assert_eq!((read.get_sender_proto_addr(), read.get_target_proto_addr()), (packet.sender, packet.target));
    let mut written = [0; 28];
    PnetArpMut::new(&mut written).unwrap().populate(&pnet_packet::FromPacket::from_packet(&read));
    assert_eq!(written[..], bytes);
}

/// The message that `smoltcp` reads from an IPv6 packet with hop limit 255, the packet's addresses, and the bytes that
/// `smoltcp` writes for both.
fn smoltcp_ndp(bytes: &[u8]) -> (NdiscRepr<'_>, (Ipv6Addr, Ipv6Addr), Vec<u8>) {
    let checksums = ChecksumCapabilities::default();
    let packet = Ipv6Packet::new_checked(bytes).unwrap();
    let header = Ipv6Repr::parse(&packet).unwrap();
    assert_eq!((header.hop_limit, header.next_header), (255, IpProtocol::Icmpv6));
    let (source, destination) = (header.src_addr, header.dst_addr);
    let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    let message = Icmpv6Repr::parse(&source, &destination, &message, &checksums).unwrap();
    let Icmpv6Repr::Ndisc(ndisc) = message else { panic!("{message:?}") };
    (ndisc, (source, destination), smoltcp_bytes(ndisc, source, destination))
}

fn smoltcp_bytes(message: NdiscRepr<'_>, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let message = Icmpv6Repr::Ndisc(message);
    let header = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    let mut bytes = vec![0; header.buffer_len() + message.buffer_len()];
    header.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
    let mut body = Icmpv6Packet::new_unchecked(&mut bytes[40..]);
    message.emit(&source, &destination, &mut body, &ChecksumCapabilities::default());
    bytes
}

/// The ICMPv6 message, after `pnet_packet` has found the checksum and the header right.
fn pnet_body(bytes: &[u8]) -> &[u8] {
    let header = PnetIpv6::new(bytes).unwrap();
    assert_eq!((header.get_version(), header.get_hop_limit(), header.get_next_header().0), (6, 255, 58));
    assert_eq!(usize::from(header.get_payload_length()), bytes.len() - 40);
    let body = &bytes[40..];
    let message = PnetIcmpv6::new(body).unwrap();
    let sum = checksum(&message, &header.get_source(), &header.get_destination());
    assert_eq!(message.get_checksum(), sum);
    body
}

fn ipv4() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from_bits)
}

fn ipv6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(Ipv6Addr::from_bits).prop_filter("unicast", |address| !address.is_multicast())
}

fn link_local() -> impl Strategy<Value = Ipv6Addr> {
    any::<u64>().prop_map(|id| Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(id)))
}

proptest! {
    #[test]
    fn arp_announcements_and_probes(mac: [u8; 6], vip in ipv4()) {
        for packet in Arp::announcements(ETHERNET, &mac, &BROADCAST, vip) {
            check_arp(&packet);
        }
        check_arp(&Arp::probe(ETHERNET, &mac, vip));
    }

    #[test]
    fn any_arp_packet(macs: [[u8; 6]; 2], sender in ipv4(), target in ipv4(), reply: bool) {
        check_arp(&Arp {
            hardware_type: ETHERNET,
            operation: if reply { Operation::Reply } else { Operation::Request },
            sender_hardware: macs[0].to_vec(),
            sender,
            target_hardware: macs[1].to_vec(),
            target,
        });
    }

    #[test]
    fn unsolicited_advertisements(mac: [u8; 6], source in ipv6(), vip in ipv6()) {
        let bytes = unsolicited_advertisement(source, vip, &mac);
        let (message, addresses, emitted) = smoltcp_ndp(&bytes);
        prop_assert_eq!(addresses, (source, ALL_NODES));
        let expected = NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::OVERRIDE,
            target_addr: vip,
            lladdr: Some(EthernetAddress(mac).into()),
        };
        prop_assert_eq!(message, expected);
        prop_assert_eq!(emitted, bytes.clone());

        let read = NeighborAdvertPacket::new(pnet_body(&bytes)).unwrap();
        prop_assert_eq!((read.get_flags(), read.get_target_addr()), (0x20, vip));
        let options = read.get_options();
        prop_assert_eq!(options.len(), 1);
        prop_assert_eq!(options[0].option_type, NdpOptionTypes::TargetLLAddr);
        prop_assert_eq!(&options[0].data[..], &mac[..]);
    }

    #[test]
    fn probes(vip in ipv6()) {
        let bytes = probe(vip);
        let (message, addresses, emitted) = smoltcp_ndp(&bytes);
        prop_assert_eq!(addresses, (Ipv6Addr::UNSPECIFIED, solicited_node(vip)));
        prop_assert_eq!(message, NdiscRepr::NeighborSolicit { target_addr: vip, lladdr: None });
        prop_assert_eq!(emitted, bytes.clone());
        let read = NeighborSolicitPacket::new(pnet_body(&bytes)).unwrap();
        prop_assert_eq!((read.get_target_addr(), read.get_options().len()), (vip, 0));
    }

    #[test]
    fn advertisements_and_solicitations_of_others(
        mac: Option<[u8; 6]>,
        source in ipv6(),
        destination in any::<u128>().prop_map(Ipv6Addr::from_bits),
        target in ipv6(),
        flags in 0_u8..8,
    ) {
        let lladdr = mac.map(|mac| EthernetAddress(mac).into());
        let flags = NdiscNeighborFlags::from_bits_truncate(flags << 5);
        let advertisement = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr };
        let expected = Ndp::Advertisement { source, target, hardware: mac.map(Vec::from).unwrap_or_default() };
        prop_assert_eq!(Ndp::from_bytes(&smoltcp_bytes(advertisement, source, destination)), Ok(expected));
        let solicitation = NdiscRepr::NeighborSolicit { target_addr: target, lladdr };
        let expected = Ndp::Solicitation { source, target };
        prop_assert_eq!(Ndp::from_bytes(&smoltcp_bytes(solicitation, source, destination)), Ok(expected));
    }

    /// `pnet_packet` computes the length of an option in a u8, and overflows from 32 units (256 bytes) on: this is the
    /// oracle's limit, not ours.
    #[test]
    fn an_unknown_option_of_any_length_is_skipped(mac: [u8; 6], source in ipv6(), target in ipv6(), units in 1_u8..) {
        let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        body.extend(target.octets());
        body.extend([200, units]);
        body.resize(24 + usize::from(units) * 8, 0);
        body.extend([2, 1]);
        body.extend(mac);
        Icmpv6Packet::new_unchecked(&mut body[..]).fill_checksum(&source, &ALL_NODES);
        let mut bytes = vec![0; 40];
        Ipv6Repr {
            src_addr: source,
            dst_addr: ALL_NODES,
            next_header: IpProtocol::Icmpv6,
            payload_len: body.len(),
            hop_limit: 255,
        }
        .emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
        bytes.extend(&body);
        let expected = Ndp::Advertisement { source, target, hardware: mac.to_vec() };
        prop_assert_eq!(Ndp::from_bytes(&bytes), Ok(expected));
        let message = Icmpv6Packet::new_checked(&body[..]).unwrap();
        let checksums = ChecksumCapabilities::default();
        let read = Icmpv6Repr::parse(&source, &ALL_NODES, &message, &checksums).unwrap();
        let lladdr = Some(EthernetAddress(mac).into());
        let flags = NdiscNeighborFlags::OVERRIDE;
        prop_assert_eq!(read, Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr }));
    }

    #[test]
    fn router_messages(mac: [u8; 6], source in link_local()) {
        let lladdr = Some(EthernetAddress(mac).into());
        let bytes = router::advertisement(source, &mac);
        let (message, addresses, emitted) = smoltcp_ndp(&bytes);
        prop_assert_eq!(addresses, (source, ALL_NODES));
        let expected = NdiscRepr::RouterAdvert {
            hop_limit: 0,
            flags: NdiscRouterFlags::empty(),
            router_lifetime: Duration::ZERO,
            reachable_time: Duration::ZERO,
            retrans_time: Duration::ZERO,
            lladdr,
            mtu: None,
            prefix_info: None,
        };
        prop_assert_eq!(message, expected);
        prop_assert_eq!(router::from_bytes(&emitted), Ok(RouterMessage::Advertisement(source)));
        prop_assert_eq!(emitted, bytes.clone());
        pnet_body(&bytes);

        let bytes = router::solicitation(source, &mac);
        let (message, addresses, emitted) = smoltcp_ndp(&bytes);
        prop_assert_eq!(addresses, (source, ALL_ROUTERS));
        prop_assert_eq!(message, NdiscRepr::RouterSolicit { lladdr });
        prop_assert_eq!(router::from_bytes(&emitted), Ok(RouterMessage::Solicitation));
        prop_assert_eq!(emitted, bytes.clone());
        pnet_body(&bytes);
    }
}
