//! Reads the ICMP errors that the switch makes, by etherparse and smoltcp: lengths and checksums are right, or the test fails.

use std::net::IpAddr;

use etherparse::{Ethernet2Header, Ipv4HeaderSlice, Ipv6HeaderSlice};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};
use weft_switch::offload::Offload;
use weft_switch::packet::{HeapBuf, PacketBuf};

/// An ICMP error as its receiver sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub macs: ([u8; 6], [u8; 6]),
    pub src: IpAddr,
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    pub kind: u8,
    pub code: u8,
    pub mtu: u32,
    /// What it says of the packet.
    pub quote: Vec<u8>,
    /// Bytes of the whole IP packet.
    pub len: usize,
}

impl Told {
    pub fn type_and_code(&self) -> (u8, u8) {
        (self.kind, self.code)
    }
}

/// The one frame in `frames`, which is an ICMP error.
pub fn told(frames: &[HeapBuf]) -> Told {
    assert_eq!(frames.len(), 1, "one message");
    assert_eq!(frames[0].offload(), Offload::default(), "finished");
    read(&frames[0].to_vec())
}

pub fn read(frame: &[u8]) -> Told {
    let (eth, packet) = Ethernet2Header::from_slice(frame).unwrap();
    let (src, dst, ttl, tos, message): (IpAddr, IpAddr, _, _, _) = match eth.ether_type.0 {
        0x0800 => {
            let ip = Ipv4HeaderSlice::from_slice(packet).unwrap();
            assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
            assert_eq!(usize::from(ip.total_len()), packet.len());
            assert_eq!((ip.protocol().0, ip.slice().len(), ip.is_fragmenting_payload()), (1, 20, false));
            assert!(!ip.dont_fragment() && ip.identification() != 0);
            (ip.source_addr().into(), ip.destination_addr().into(), ip.ttl(), packet[1], &packet[20..])
        }
        0x86dd => {
            let ip = Ipv6HeaderSlice::from_slice(packet).unwrap();
            assert_eq!(usize::from(ip.payload_length()), packet.len() - 40);
            assert_eq!(ip.next_header().0, 58);
            let tos = ip.to_header().traffic_class;
            (ip.source_addr().into(), ip.destination_addr().into(), ip.hop_limit(), tos, &packet[40..])
        }
        other => panic!("ethertype {other:#x}"),
    };
    assert_smoltcp_takes(src, dst, message);
    let word = [message[4], message[5], message[6], message[7]];
    Told {
        macs: (eth.destination, eth.source),
        src,
        dst,
        ttl,
        tos,
        kind: message[0],
        code: message[1],
        mtu: u32::from_be_bytes(word),
        quote: message[8..].to_vec(),
        len: packet.len(),
    }
}

/// It takes a message as an error, with the checksum right and the quoted packet's header in order.
fn assert_smoltcp_takes(src: IpAddr, dst: IpAddr, message: &[u8]) {
    let checksums = ChecksumCapabilities::default();
    match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let packet = Icmpv4Packet::new_checked(message).unwrap();
            assert!(packet.verify_checksum());
            // As a whole it takes only what quotes a whole packet with at least 8 bytes of payload.
            let quoted = Ipv4HeaderSlice::from_slice(&message[8..]).unwrap();
            assert_eq!(quoted.to_header().calc_header_checksum(), quoted.header_checksum());
            let whole = usize::from(quoted.total_len()) == message.len() - 8;
            if whole && message.len() - 8 >= quoted.slice().len() + 8 {
                let repr = Icmpv4Repr::parse(&packet, &checksums).unwrap();
                assert!(
                    matches!(repr, Icmpv4Repr::DstUnreachable { .. } | Icmpv4Repr::TimeExceeded { .. }),
                    "{repr:?}"
                );
            }
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let packet = Icmpv6Packet::new_checked(message).unwrap();
            let repr = Icmpv6Repr::parse(&src, &dst, &packet, &checksums).unwrap();
            assert!(
                matches!(
                    repr,
                    Icmpv6Repr::DstUnreachable { .. }
                        | Icmpv6Repr::PktTooBig { .. }
                        | Icmpv6Repr::TimeExceeded { .. }
                ),
                "{repr:?}"
            );
        }
        _ => panic!("from {src} to {dst}"),
    }
}
