//! Answers made from the question, sent back the way it came.

use crate::drop_reason::DropReason;
use crate::offload::{Checksum, Offload};
use crate::packet::{BufPool, PacketBuf};
use crate::parse::{L3, Parsed};
use crate::types::MacAddr;
use crate::wire::arp::{self, ArpView};
use crate::wire::checksum;
use crate::wire::ethernet::{ETHERNET_LEN, EtherType, EthernetHeader, EthernetView};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::Ipv4View;
use crate::wire::ipv6::{self, Ipv6Header, Ipv6View};
use crate::wire::ndp::{NeighbourAdvert, NeighbourSolicitView};

/// Bytes of the shortest frame on a wire, without its checksum (IEEE 802.3): an ARP message and padding.
const SHORTEST_FRAME: usize = 60;

/// Makes the request an answer: the address asked for is at `mac` (RFC 826).
pub(super) fn arp<B: PacketBuf>(packet: &mut B, parsed: &Parsed, mac: MacAddr) -> Result<(), DropReason> {
    // Nothing in ARP is to be filled in, whatever the sender says.
    packet.set_offload(Offload::default());
    packet.truncate(SHORTEST_FRAME);
    let head = packet.head_mut();
    let mut message =
        ArpView::new_checked(&mut head[ETHERNET_LEN..]).map_err(|_| DropReason::ArpMalformed)?;
    let (asker_mac, asker_ip, target) = (message.sender_mac(), message.sender_ip(), message.target_ip());
    message.set_op(arp::REPLY);
    message.set_sender_mac(mac);
    message.set_sender_ip(target);
    message.set_target_mac(asker_mac);
    message.set_target_ip(asker_ip);
    turn_round(head, parsed, mac)
}

fn turn_round(head: &mut [u8], parsed: &Parsed, from: MacAddr) -> Result<(), DropReason> {
    let mut eth = EthernetView::new_checked(head).map_err(|_| DropReason::EthMalformed)?;
    eth.set_dst(parsed.src);
    eth.set_src(from);
    Ok(())
}

/// Makes an echo request an echo reply (RFC 792, RFC 4443 section 4.2). The checksum moves by the type alone: swapping
/// the addresses does not change the pseudo-header's sum.
pub(super) fn echo<B: PacketBuf>(packet: &mut B, parsed: &Parsed) -> Result<(), DropReason> {
    let partial = matches!(packet.offload().checksum, Checksum::Partial { .. });
    let head = packet.head_mut();
    turn_round(head, parsed, parsed.dst)?;
    let (l4, request, reply) = match parsed.l3 {
        L3::V4(ip) => {
            let mut view = Ipv4View::new_header_checked(&mut head[ETHERNET_LEN..])
                .map_err(|_| DropReason::Ipv4Malformed)?;
            view.set_src(ip.dst);
            view.set_dst(ip.src);
            view.set_ttl(64);
            view.fill_checksum();
            (usize::from(ip.l4), 8u8, 0u8)
        }
        L3::V6(ip) => {
            let mut view = Ipv6View::new_header_checked(&mut head[ETHERNET_LEN..])
                .map_err(|_| DropReason::Ipv6Malformed)?;
            view.set_src(ip.dst);
            view.set_dst(ip.src);
            view.set_hop_limit(64);
            (usize::from(ip.l4), 128u8, 129u8)
        }
        _ => return Err(DropReason::NotIp),
    };
    let icmp = head.get_mut(l4..l4 + 4).ok_or(DropReason::NotIp)?;
    let (old, code) = (u16::from_be_bytes([icmp[2], icmp[3]]), icmp[1]);
    let sum = checksum::update16(old, u16::from_be_bytes([request, code]), u16::from_be_bytes([reply, code]));
    icmp[0] = reply;
    // A sum that is not filled in yet will be over the reply.
    if !partial {
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// Puts a neighbour advertisement in the solicitation's place (RFC 4861, section 7.2.4). A solicitation from the
/// unspecified address is answered to all nodes, without the solicited flag.
pub(super) fn neighbour<P: BufPool>(
    pool: &mut P,
    packet: &mut P::Buf,
    parsed: &Parsed,
    mac: MacAddr,
    (router, proxy): (bool, bool),
) -> Result<(), DropReason> {
    const ALL_NODES: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let L3::V6(ip) = parsed.l3 else { return Err(DropReason::NdMalformed) };
    let question = packet.head().get(usize::from(ip.l4)..).unwrap_or_default();
    let target = NeighbourSolicitView::new_checked(question).map_err(|_| DropReason::NdMalformed)?.target();
    let solicited = !ip.src.is_unspecified();
    let (to_mac, to) =
        if solicited { (parsed.src, ip.src) } else { (MacAddr([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES) };
    let advert = NeighbourAdvert { router, solicited, override_: !proxy, target, target_mac: Some(mac) };

    let len = advert.len();
    let mut answer = pool.alloc(ETHERNET_LEN + ipv6::IPV6_LEN + len).ok_or(DropReason::TxNoBuffer)?;
    let head = answer.head_mut();
    let eth = EthernetHeader { dst: to_mac, src: mac, ethertype: EtherType::IPV6 };
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: len as u16,
        next_header: IpProtocol::ICMPV6,
        hop_limit: 255,
        src: target,
        dst: to,
    };
    let written = eth
        .emit(head)
        .and_then(|_| header.emit(&mut head[ETHERNET_LEN..]))
        .and_then(|_| advert.emit(&mut head[ETHERNET_LEN + ipv6::IPV6_LEN..], target, to));
    written.map_err(|_| DropReason::NdMalformed)?;
    *packet = answer;
    Ok(())
}
