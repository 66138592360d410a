//! Ethernet, 802.1Q and ARP: every input is read as each of them, and as the frame that it may be.
#![no_main]

use etherparse::{Ethernet2HeaderSlice, SingleVlanHeaderSlice};
use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire::{assert_sensible, both_ways, number};
use weft_fuzz::{get, set};
use weft_switch::types::MacAddr;
use weft_switch::wire::arp::{ArpPacket, ArpView};
use weft_switch::wire::ethernet::{EtherType, EthernetHeader, EthernetView};
use weft_switch::wire::vlan::{VlanId, VlanTag, VlanView};

fuzz_target!(|data: &[u8]| {
    ethernet(data);
    vlan(data);
    arp(data);
    let Ok(frame) = EthernetView::new_checked(data) else { return };
    let (mut ethertype, mut rest) = (frame.ethertype(), frame.payload());
    while matches!(ethertype, EtherType::VLAN | EtherType::QINQ) {
        vlan(rest);
        let Ok(tag) = VlanView::new_checked(rest) else { return };
        ethertype = tag.ethertype();
        rest = &rest[4..];
    }
    if ethertype == EtherType::ARP {
        arp(rest);
    }
});

fn mac(n: u64) -> MacAddr {
    let [.., a, b, c, d, e, f] = n.to_be_bytes();
    MacAddr([a, b, c, d, e, f])
}

fn ethernet(data: &[u8]) {
    let view = match EthernetView::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(view, dst, src, ethertype, payload);
    let header = EthernetHeader::parse(&view).expect("a frame that was checked");
    let parse = |bytes: &[u8]| EthernetHeader::parse(&EthernetView::new_checked(bytes)?);
    let written = both_ways(&header, EthernetHeader::LEN, EthernetHeader::emit, parse);
    assert_eq!(written, data[..14]);

    let other = Ethernet2HeaderSlice::from_slice(data).expect("etherparse reads it too");
    assert_eq!((header.dst.0, header.src.0), (other.destination(), other.source()));
    assert_eq!(header.ethertype.0, other.ether_type().0);

    let n = number(data);
    let mut copy = data.to_vec();
    let mut view = EthernetView::new_checked(&mut copy[..]).expect("a copy");
    set!(
        view,
        set_dst(mac(n)) = dst,
        set_src(mac(n >> 7)) = src,
        set_ethertype(EtherType(n as u16)) = ethertype
    );
    view.payload_mut().fill(0);
    assert_eq!(view.ethertype(), EtherType(n as u16), "the payload is behind the header");
}

fn vlan(data: &[u8]) {
    let view = match VlanView::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(view, pcp, dei, vid, ethertype, payload);
    let other = SingleVlanHeaderSlice::from_slice(data).expect("etherparse reads it too");
    assert_eq!(view.vid(), other.vlan_identifier().value());
    assert_eq!(
        (view.pcp(), view.dei()),
        (other.priority_code_point().value(), other.drop_eligible_indicator())
    );
    match VlanTag::parse(&view) {
        Ok(tag) => {
            let parse = |bytes: &[u8]| VlanTag::parse(&VlanView::new_checked(bytes)?);
            assert_eq!(both_ways(&tag, VlanTag::LEN, VlanTag::emit, parse), data[..4]);
        }
        Err(error) => {
            assert_sensible(error, data.len());
            assert_eq!(view.vid(), 0xfff, "{error}");
        }
    }

    let n = number(data);
    let mut copy = data.to_vec();
    let mut view = VlanView::new_checked(&mut copy[..]).expect("a copy");
    let vid = VlanId::new(n as u16 % 0xfff).expect("below 4095");
    view.set_vid(vid);
    set!(
        view,
        set_pcp(n as u8 >> 5) = pcp,
        set_dei(n & 1 != 0) = dei,
        set_ethertype(EtherType(n as u16)) = ethertype
    );
    assert_eq!(view.vid(), vid.get());
}

fn arp(data: &[u8]) {
    let view = match ArpView::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(view, op, sender_mac, sender_ip, target_mac, target_ip);
    let message = ArpPacket::parse(&view).expect("a message that was checked");
    let parse = |bytes: &[u8]| ArpPacket::parse(&ArpView::new_checked(bytes)?);
    assert_eq!(both_ways(&message, ArpPacket::LEN, ArpPacket::emit, parse), data[..28]);

    let n = number(data);
    let mut copy = data.to_vec();
    let mut view = ArpView::new_checked(&mut copy[..]).expect("a copy");
    set!(
        view,
        set_op(n as u16) = op,
        set_sender_mac(mac(n)) = sender_mac,
        set_sender_ip((n as u32).into()) = sender_ip,
        set_target_mac(mac(n >> 9)) = target_mac,
        set_target_ip(((n >> 13) as u32).into()) = target_ip,
    );
    assert!(ArpView::new_checked(&copy[..]).is_ok(), "no field is in another's place");
}
