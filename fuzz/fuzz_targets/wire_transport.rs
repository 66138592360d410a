//! UDP, TCP and SCTP, and the checksum functions: over chains, and the incremental update against a new sum.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{TcpHeaderSlice, UdpHeaderSlice};
use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire::{assert_sensible, both_ways, number};
use weft_fuzz::{get, set, sum};
use weft_switch::wire::checksum::{Sum, udp_never_zero, update16};
use weft_switch::wire::ip::IpProtocol;
use weft_switch::wire::sctp::{SctpHeader, SctpView};
use weft_switch::wire::tcp::{TcpFlags, TcpHeader, TcpView};
use weft_switch::wire::udp::{UdpHeader, UdpView};

fuzz_target!(|data: &[u8]| {
    udp(data);
    tcp(data);
    sctp(data);
    sums(data);
    updates(data);
});

/// Addresses out of the input, and the sum over their pseudo-header as weft makes it.
fn ends(n: u64, protocol: IpProtocol, len: usize) -> (IpAddr, IpAddr, Sum) {
    if n & 1 == 0 {
        let (src, dst) = (Ipv4Addr::from(n as u32), Ipv4Addr::from((n >> 32) as u32));
        (src.into(), dst.into(), Sum::pseudo_v4(src, dst, protocol, len))
    } else {
        let (src, dst) = (Ipv6Addr::from(u128::from(n) << 77), Ipv6Addr::from(u128::from(n)));
        (src.into(), dst.into(), Sum::pseudo_v6(src, dst, protocol, len))
    }
}

fn udp(data: &[u8]) {
    let whole = UdpView::new_checked(data);
    let view = match UdpView::new_header_checked(data) {
        Ok(view) => view,
        Err(error) => {
            assert_eq!(whole.err(), Some(error));
            return assert_sensible(error, data.len());
        }
    };
    assert_eq!(whole.is_ok(), usize::from(view.len()) <= data.len());
    get!(view, src_port, dst_port, len, checksum, payload);
    let header = UdpHeader::parse(&view).expect("a header that was checked");
    let parse = |bytes: &[u8]| UdpHeader::parse(&UdpView::new_header_checked(bytes)?);
    assert_eq!(both_ways(&header, UdpHeader::LEN, UdpHeader::emit, parse), data[..8]);
    let other = UdpHeaderSlice::from_slice(data).expect("etherparse reads it too");
    assert_eq!((header.src_port, header.dst_port), (other.source_port(), other.destination_port()));
    assert_eq!((header.len, header.checksum), (other.length(), other.checksum()));

    let n = number(data);
    let end = usize::from(view.len()).min(data.len());
    let (src, dst, pseudo) = ends(n, IpProtocol::UDP, end);
    let right = sum::is_right(src, dst, 17, &data[..end]);
    assert_eq!(view.verify_checksum(pseudo), right && view.checksum() != 0);

    let mut copy = data.to_vec();
    let mut view = UdpView::new_header_checked(&mut copy[..]).expect("a copy");
    view.fill_checksum(pseudo);
    assert!(view.verify_checksum(pseudo) && view.checksum() != 0);
    view.payload_mut().fill(0);
    set!(
        view,
        set_src_port(n as u16) = src_port,
        set_dst_port((n >> 16) as u16) = dst_port,
        set_checksum((n >> 32) as u16) = checksum,
        set_len((n >> 48) as u16) = len,
    );
}

fn tcp(data: &[u8]) {
    let view = match TcpView::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(view, src_port, dst_port, seq, ack, header_len, flags, window, checksum, urgent, options, payload);
    assert_eq!(20 + view.options().len() + view.payload().len(), data.len());
    let header = TcpHeader::parse(&view).expect("a header that was checked");
    let parse = |bytes: &[u8]| TcpHeader::parse(&TcpView::new_checked(bytes)?);
    let mut written = both_ways(&header, header.len(), TcpHeader::emit, parse);
    // The reserved bits are not kept.
    written[12] |= data[12] & 0x0f;
    assert_eq!(written, data[..header.len()]);
    let other = TcpHeaderSlice::from_slice(data).expect("etherparse reads it too");
    assert_eq!((header.src_port, header.dst_port), (other.source_port(), other.destination_port()));
    assert_eq!((header.seq, header.ack), (other.sequence_number(), other.acknowledgment_number()));
    assert_eq!((header.window, header.checksum), (other.window_size(), other.checksum()));
    assert_eq!((header.urgent, &header.options[..]), (other.urgent_pointer(), other.options()));
    assert_eq!(header.flags.contains(TcpFlags::SYN), other.syn());
    assert_eq!(header.flags.contains(TcpFlags::CWR), other.cwr());

    let n = number(data);
    let (src, dst, pseudo) = ends(n, IpProtocol::TCP, data.len());
    assert_eq!(view.verify_checksum(pseudo), sum::is_right(src, dst, 6, data));

    let mut copy = data.to_vec();
    let mut view = TcpView::new_checked(&mut copy[..]).expect("a copy");
    view.fill_checksum(pseudo);
    assert!(view.verify_checksum(pseudo));
    view.options_mut().fill(1);
    set!(
        view,
        set_src_port(n as u16) = src_port,
        set_dst_port((n >> 16) as u16) = dst_port,
        set_seq(n as u32) = seq,
        set_ack((n >> 32) as u32) = ack,
        set_flags(TcpFlags(n as u8)) = flags,
        set_window((n >> 8) as u16) = window,
        set_checksum((n >> 24) as u16) = checksum,
        set_urgent((n >> 40) as u16) = urgent,
        set_header_len(20 + n as usize % 11 * 4) = header_len,
    );
    assert_eq!(view.flags().without(TcpFlags(0xff)), TcpFlags(0));
}

fn sctp(data: &[u8]) {
    let view = match SctpView::new_checked(data) {
        Ok(view) => view,
        Err(error) => return assert_sensible(error, data.len()),
    };
    get!(view, src_port, dst_port, verification_tag, checksum, payload);
    let header = SctpHeader::parse(&view).expect("a header that was checked");
    let parse = |bytes: &[u8]| SctpHeader::parse(&SctpView::new_checked(bytes)?);
    assert_eq!(both_ways(&header, SctpHeader::LEN, SctpHeader::emit, parse), data[..12]);

    let n = number(data);
    let mut copy = data.to_vec();
    let mut view = SctpView::new_checked(&mut copy[..]).expect("a copy");
    set!(
        view,
        set_src_port(n as u16) = src_port,
        set_dst_port((n >> 16) as u16) = dst_port,
        set_verification_tag(n as u32) = verification_tag,
        set_checksum((n >> 32) as u32) = checksum,
    );
    assert_eq!(view.payload(), &data[12..]);
}

/// A sum does not depend on how its bytes are cut up. The first bytes of the input say where the others are cut.
fn sums(data: &[u8]) {
    let (cuts, bytes) = data.split_at(data.len().min(6));
    let whole = Sum::new().add(bytes);
    assert_eq!(whole.fold(), sum::folded(bytes));
    assert_eq!(whole.checksum(), !whole.fold());
    let (mut by_bytes, mut by_sums, mut rest) = (Sum::new(), Sum::new(), bytes);
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
        by_bytes = by_bytes.add(piece);
        by_sums = by_sums.add_sum(Sum::new().add(piece));
        rest = after;
    }
    assert_eq!(by_bytes.add(rest).fold(), whole.fold());
    assert_eq!(by_sums.add_sum(Sum::new().add(rest)).fold(), whole.fold());
    if let Some((four, after)) = bytes.split_first_chunk::<4>() {
        let number = u32::from_be_bytes(*four);
        assert_eq!(Sum::new().add_u32(number).add(after).fold(), whole.fold());
    }
    assert_ne!(udp_never_zero(whole.checksum()), 0);
}

/// Words under a checksum are changed one after the other; the checksum that goes along stays right.
fn updates(data: &[u8]) {
    let Some((len, rest)) = data.split_first() else { return };
    let words = usize::from(*len % 32) + 1;
    if rest.len() < words * 2 {
        return;
    }
    let (bytes, changes) = rest.split_at(words * 2);
    let mut bytes = bytes.to_vec();
    let mut checksum = !sum::folded(&bytes);
    for change in changes.chunks_exact(3).take(64) {
        let at = usize::from(change[0]) % words * 2;
        let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let new = u16::from_be_bytes([change[1], change[2]]);
        bytes[at..at + 2].copy_from_slice(&change[1..]);
        checksum = update16(checksum, old, new);
        // One's complement has two zeros: where all words are zero they are told apart, and that is no packet.
        if bytes.iter().any(|byte| *byte != 0) {
            let all = [&bytes[..], &checksum.to_be_bytes()].concat();
            assert_eq!(sum::folded(&all), 0xffff, "{bytes:x?} {checksum:#x}");
        }
    }
}
