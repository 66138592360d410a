//! Frames whose sender leaves the checksum or the cutting to others: what arrives is right, whoever has done it.

use crate::lab::Frame;
use crate::lab::frames::{Checksum, Ip, Mac, TCP, UDP, sum, tagged, tcp, udp};
use crate::lab::segment::{BROADCAST, Pod, Segment, Station, frames_until_marker, multicast_mac, pattern};
use crate::lab::wait_for;

const V4: (&str, &str) = ("10.244.0.2", "10.244.0.3");
const V6: (&str, &str) = ("fd00:10:244::2", "fd00:10:244::3");

/// A virtio-net header that says: the checksum from byte 34 on (IPv4) or 54 on (IPv6) is to be filled in at so many bytes
/// from there.
fn partial(ip: &Ip, offset: u8) -> [u8; 10] {
    [1, 0, 0, 0, 0, 0, if ip.src.is_ipv4() { 34 } else { 54 }, 0, offset, 0]
}

/// An unfinished UDP frame with its header, and the finished one.
fn partial_udp(ip: &Ip, ends: (Mac, Mac), body: &[u8]) -> (Vec<u8>, [u8; 10], Vec<u8>) {
    let finished = udp(ip, (9, 10), Checksum::Valid, body);
    let mut unfinished = finished.clone();
    unfinished[6..8].copy_from_slice(&ip.pseudo(UDP, finished.len()).to_be_bytes());
    (ip.frame(ends.0, ends.1, UDP, &unfinished), partial(ip, 6), ip.frame(ends.0, ends.1, UDP, &finished))
}

/// A TCP frame that stands for several of `size` bytes each, with its header.
pub(crate) fn gso_tcp(ip: &Ip, ends: (Mac, Mac), size: u16, body: &[u8]) -> (Vec<u8>, [u8; 10]) {
    let mut segment = tcp(ip, (11, 12), (1000, 0x10), body);
    let pseudo = ip.pseudo(TCP, segment.len());
    segment[16..18].copy_from_slice(&pseudo.to_be_bytes());
    let frame = ip.frame(ends.0, ends.1, TCP, &segment);
    let mut header = partial(ip, 16);
    header[1] = if ip.src.is_ipv4() { 1 } else { 4 };
    header[2..4].copy_from_slice(&((frame.len() - body.len()) as u16).to_le_bytes());
    header[4..6].copy_from_slice(&size.to_le_bytes());
    (frame, header)
}

/// The frame with its checksum filled in, if that is still to be done.
fn finished(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes.clone();
    if let Some((start, offset)) = frame.partial {
        let (start, offset) = (usize::from(start), usize::from(offset));
        let checksum = !sum(&[&bytes[start..]]);
        bytes[start + offset..start + offset + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// The TCP payload that these frames carry, each of which must be whole, in order, no longer than the MTU, and have right
/// checksums.
pub(crate) fn tcp_payload(frames: &[Frame], ip: &Ip, tags: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    for frame in frames {
        let bytes = finished(frame);
        let l3 = 14 + 4 * tags;
        let (header, l4) = if ip.src.is_ipv4() { (20, l3 + 20) } else { (40, l3 + 40) };
        if ip.src.is_ipv4() {
            assert_eq!(sum(&[&bytes[l3..l3 + header]]), 0xffff, "the IPv4 header's checksum");
            assert_eq!(u16::from_be_bytes([bytes[l3 + 2], bytes[l3 + 3]]), (bytes.len() - l3) as u16);
        } else {
            assert_eq!(u16::from_be_bytes([bytes[l3 + 4], bytes[l3 + 5]]), (bytes.len() - l4) as u16);
        }
        let segment = &bytes[l4..];
        assert_eq!(u32::from_be_bytes(segment[4..8].try_into().unwrap()), 1000 + payload.len() as u32);
        if frame.gso.is_none() {
            assert!(bytes.len() - l3 <= 1450, "longer than the MTU: {}", bytes.len());
            let pseudo = ip.pseudo(TCP, segment.len()).to_be_bytes();
            assert_eq!(sum(&[&pseudo, segment]), 0xffff, "the TCP checksum");
        }
        payload.extend(&segment[20..]);
    }
    payload
}

fn two() -> (Segment, [Station; 2]) {
    Segment::of([Pod::Plain("left"), Pod::Plain("right")])
}

#[test]
fn a_checksum_that_is_still_to_be_filled_in_comes_out_right() {
    let (segment, [mut left, mut right]) = two();
    for (from, to) in [V4, V6] {
        let ip = Ip::new(from, to);
        let (unfinished, header, whole) = partial_udp(&ip, (right.mac, left.mac), &pattern(301));
        let deltas = segment.lab.deltas(1, || left.send_unfinished(&unfinished, header));
        deltas.assert_only(&[("tx", 1)]).assert_ports(&[("left.rx", 1), ("right.tx", 1)]);
        let arrived = right.receive("frame", |frame| Some(frame.clone()));
        assert_eq!(finished(&arrived), whole);
    }
}

#[test]
fn a_checksum_that_is_still_to_be_filled_in_comes_out_right_everywhere() {
    let (segment, [mut left, mut right, mut third]) =
        Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Plain("third")]);
    let mut host = segment.host();
    for (from, to, mac) in [
        (V4.0, "10.244.0.255", BROADCAST),
        (V4.0, "224.0.0.251", multicast_mac("224.0.0.251")),
        (V6.0, "ff02::fb", multicast_mac("ff02::fb")),
    ] {
        let ip = Ip::new(from, to);
        let (unfinished, header, whole) = partial_udp(&ip, (mac, left.mac), &pattern(301));
        let deltas = segment.lab.deltas(1, || left.send_unfinished(&unfinished, header));
        deltas.assert_only(&[("tx", 3), ("originated", 2)]);
        for at in [&mut *right, &mut third, &mut host] {
            let arrived = at.receive("frame", |frame| Some(frame.clone()));
            assert_eq!(finished(&arrived), whole);
        }
    }
}

/// `left` sends a frame that stands for nine, and each of these gets all of it.
fn cut_up(segment: &Segment, left: &mut Station, to: Mac, ip: &Ip, tag: bool, at: &mut [&mut Station]) {
    let body = pattern(10_000);
    let (mut frame, mut header) = gso_tcp(ip, (to, left.mac), 1200, &body);
    if tag {
        frame = tagged(&frame, 0x8100, 5);
        header[2..4].copy_from_slice(&((frame.len() - body.len()) as u16).to_le_bytes());
        header[6] += 4;
    }
    let before = segment.lab.counters();
    left.send_unfinished(&frame, header);
    for station in &mut *at {
        let mut frames: Vec<Frame> = Vec::new();
        station.receive("all of it", |frame| {
            frames.push(frame.clone());
            let got: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
            (got >= body.len() + frames.len() * 54).then_some(())
        });
        assert!(tcp_payload(&frames, ip, usize::from(tag)) == body, "{}: not what was sent", station.name);
        assert_eq!(frames_until_marker(station, left), []);
    }
    // Whether the sender's kernel, weft or nobody has cut it up: nothing was lost on the way.
    let frames = wait_for("the counters", || {
        let sent = segment.lab.received(left.name);
        (sent > 0).then_some(segment.lab.counters())
    });
    let deltas = before.until(&frames);
    assert_eq!(deltas.dropped(), 0, "{deltas:?}");
}

#[test]
fn a_frame_that_stands_for_several_arrives_whole() {
    let (segment, [mut left, mut right]) = two();
    for (from, to) in [V4, V6] {
        let mac = right.mac;
        cut_up(&segment, &mut left, mac, &Ip::new(from, to), false, &mut [&mut right]);
    }
}

#[test]
fn a_frame_that_stands_for_several_arrives_whole_everywhere() {
    let (segment, [mut left, mut right, mut third]) =
        Segment::of([Pod::Plain("left"), Pod::Plain("right"), Pod::Plain("third")]);
    for (from, to, mac) in [(V4.0, "10.244.0.255", BROADCAST), (V6.0, "ff02::fb", multicast_mac("ff02::fb"))]
    {
        cut_up(&segment, &mut left, mac, &Ip::new(from, to), false, &mut [&mut right, &mut third]);
    }
}

#[test]
fn a_tagged_frame_that_stands_for_several_arrives_whole() {
    let (segment, [mut left, mut right]) = two();
    for (from, to) in [V4, V6] {
        let mac = right.mac;
        cut_up(&segment, &mut left, mac, &Ip::new(from, to), true, &mut [&mut right]);
    }
}
