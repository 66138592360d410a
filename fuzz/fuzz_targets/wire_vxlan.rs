//! VXLAN, alone and as a receiver looks through it: outer frame, UDP, VXLAN, inner frame.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire::{assert_sensible, both_ways, number};
use weft_fuzz::{get, set, sum};
use weft_switch::offload::{Checksum, Offload};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::parse::{L3, parse, parse_tunnel};
use weft_switch::tables::{LocalVtep, Peers, Shared, Snapshot};
use weft_switch::types::{MacAddr, Vni};
use weft_switch::wire::vxlan::{FLAG_VNI, VxlanHeader, VxlanView};

fuzz_target!(|data: &[u8]| {
    header(data);
    frame(data);
    tunnel(data);
});

fn header(data: &[u8]) {
    let view = match VxlanView::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(view, flags, reserved1, reserved2, vni, is_strict, payload);
    assert_eq!(view.vni().get().to_be_bytes(), [0, data[4], data[5], data[6]]);
    let strict = data[..4] == [FLAG_VNI, 0, 0, 0] && data[7] == 0;
    assert_eq!(view.is_strict(), strict);
    match VxlanHeader::parse(&view) {
        Ok(header) => {
            assert!(strict);
            let parse = |bytes: &[u8]| VxlanHeader::parse(&VxlanView::new_checked(bytes)?);
            assert_eq!(both_ways(&header, VxlanHeader::LEN, VxlanHeader::emit, parse), data[..8]);
        }
        Err(error) => {
            assert_sensible(error, data.len());
            assert!(!strict, "{error}");
        }
    }
    let mut copy = data.to_vec();
    let mut view = VxlanView::new_checked(&mut copy[..]).expect("a copy");
    let vni = Vni::new(number(data) as u32 & 0xff_ffff).expect("24 bits");
    set!(view, set_vni(vni) = vni);
    view.set_strict();
    assert!(view.is_strict() && view.vni() == vni);
}

/// What the parser of plain frames says of one lies in it.
fn frame(data: &[u8]) {
    let Ok(parsed) = parse(data, data.len(), 0) else { return };
    let (l4, len) = match parsed.l3 {
        L3::V4(ip) => (ip.l4, ip.len),
        L3::V6(ip) => (ip.l4, ip.len),
        _ => return,
    };
    let end = parsed.l3_offset() + len as usize;
    assert!(end <= data.len() && usize::from(l4) <= end, "{parsed:?}");
}

/// A receiver whose tables fit the packet as far as they can, so that what is in it is looked at too.
fn tunnel(data: &[u8]) {
    let Some(tables) = receiver(data) else { return };
    let mut mended = data.to_vec();
    sum::mend_ipv4(&mut mended, 14);
    let inner_at = if data[12] == 0x08 { 30 + usize::from(data[14] & 15) * 4 } else { 70 };
    sum::mend_ipv4(&mut mended, inner_at + 14);
    let (front, rest) = mended.split_at(usize::from(data[0]) % data.len());
    let mut trusted = HeapBuf::from_bytes(&mended);
    trusted.set_offload(Offload { checksum: Checksum::Verified, gso: None });
    for packet in [HeapBuf::from_bytes(data), HeapBuf::from_segments(&[front, rest]), trusted] {
        let Ok((inner, outer)) = parse_tunnel(&packet, &tables) else { continue };
        assert_eq!(inner.dst, tables.local_vteps[0].mac);
        assert_eq!(outer.vni, tables.local_vteps[0].vni);
        let ip_len = match inner.l3 {
            L3::V4(ip) => ip.len,
            L3::V6(ip) => ip.len,
            other => panic!("{other:?} out of the tunnel"),
        };
        assert!(inner.l3_offset() + ip_len as usize <= data.len());
        assert!(usize::from(inner.l2) + inner.len as usize <= data.len());
    }
}

/// Tables of the packet's own receiver: its addresses, port, VNI and inner destination are where it says.
fn receiver(data: &[u8]) -> Option<Snapshot> {
    let (src, dst, udp): (IpAddr, IpAddr, usize) = match data.get(12..15)? {
        [0x08, 0x00, first] => {
            let ip = data.get(26..34)?;
            let (src, dst) = ip.split_first_chunk::<4>()?;
            let dst: [u8; 4] = dst.try_into().ok()?;
            (Ipv4Addr::from(*src).into(), Ipv4Addr::from(dst).into(), 14 + usize::from(first & 15) * 4)
        }
        [0x86, 0xdd, _] => {
            let ip = data.get(22..54)?;
            let (src, dst) = ip.split_first_chunk::<16>()?;
            let dst: [u8; 16] = dst.try_into().ok()?;
            (Ipv6Addr::from(*src).into(), Ipv6Addr::from(dst).into(), 54)
        }
        _ => return None,
    };
    let fields = data.get(udp..udp + 22)?;
    let vni = Vni::from_be_bytes([fields[12], fields[13], fields[14]]);
    let mut peers = Peers::default();
    peers.insert(src, vni);
    Some(Snapshot {
        vxlan_port: u16::from_be_bytes([fields[2], fields[3]]),
        local_vteps: vec![LocalVtep { vni, mac: MacAddr::from_slice(&fields[16..]), address: dst }],
        peers: Shared::new(peers),
        ..Snapshot::default()
    })
}
