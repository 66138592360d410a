//! The program, run by the kernel on frames of every kind.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::kernel::bpf::tests::run;
use crate::kernel::sys;

const PORT: u16 = 8472;
const MAC: [u8; 6] = [2, 0, 0, 0x99, 0xaa, 0xfb];

/// Where the frames below are sent to.
const OWN4: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 2));
const OWN6: IpAddr =
    IpAddr::V6(Ipv6Addr::new(0xfdfd, 0xfdfd, 0xfdfd, 0xfdfd, 0xfdfd, 0xfdfd, 0xfdfd, 0xfdfd));

/// A loaded program with a socket in its map, so that what is steered can be told from what is passed.
struct Loaded {
    steering: Steering,
    _socket: OwnedFd,
}

impl Loaded {
    fn new(prefixes: u32) -> Self {
        let target = Target { port: PORT, mac: MAC, prefixes };
        let steering = Steering::load(&target, 4).expect("the program passes the verifier (this needs root)");
        let socket = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).unwrap();
        sys::set_option(socket.as_fd(), libc::SOL_XDP, libc::XDP_RX_RING, &64).unwrap();
        steering.give(0, socket.as_fd()).unwrap();
        steering.set_own([OWN4, OWN6]).unwrap();
        Self { steering, _socket: socket }
    }

    fn steers(&self, frame: &[u8]) -> bool {
        match run(self.steering.program.as_fd(), frame) {
            2 => false,
            4 => true,
            other => panic!("the program answers {other}"),
        }
    }
}

fn frame(ethertype: u16) -> Vec<u8> {
    let mut frame = MAC.to_vec();
    frame.extend([2; 6]);
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn ipv4(options: usize, fragment: u16, protocol: u8, port: u16) -> Vec<u8> {
    let mut packet = frame(0x0800);
    packet.extend([0x45 + options as u8, 0, 0, 0, 0, 0]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 172, 16, 0, 1, 172, 16, 0, 2]);
    packet.extend(vec![1; options * 4]);
    packet.extend(50_000u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0; 20]);
    packet
}

fn ipv6(next_header: u8, port: u16) -> Vec<u8> {
    let mut packet = frame(0x86dd);
    packet.extend([0x60, 0, 0, 0, 0, 28, next_header, 64]);
    packet.extend([0xfd; 32]);
    packet.extend(50_000u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0; 20]);
    packet
}

fn ipv6_fragment(next_header: u8, offset: u16, port: u16) -> Vec<u8> {
    let mut packet = ipv6(44, port);
    let [high, low] = offset.to_be_bytes();
    packet.splice(54..54, [next_header, 0, high, low, 0, 0, 0, 9]);
    packet
}

/// An ICMP error about `quoted`, which is a whole frame.
fn error_about(quoted: &[u8], kind: u8, code: u8) -> Vec<u8> {
    let v6 = quoted[12] == 0x86;
    let mut packet = if v6 { ipv6(58, 0) } else { ipv4(0, 0, 1, 0) };
    packet.truncate(if v6 { 54 } else { 34 });
    packet.extend([kind, code, 0, 0, 0, 0, 5, 0]);
    packet.extend(&quoted[14..]);
    packet
}

fn tagged(mut packet: Vec<u8>, tpid: u16, tci: u16) -> Vec<u8> {
    packet.splice(12..12, [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    packet
}

#[test]
fn takes_the_tunnels_packets() {
    let program = Loaded::new(0);
    assert!(program.steers(&ipv4(0, 0, 17, PORT)));
    assert!(program.steers(&ipv4(0, 0x4000, 17, PORT)), "don't fragment");
    assert!(program.steers(&ipv4(3, 0, 17, PORT)), "with options");
    assert!(program.steers(&ipv4(10, 0, 17, PORT)), "with all options");
    assert!(program.steers(&ipv6(17, PORT)));
    assert!(program.steers(&tagged(ipv4(0, 0, 17, PORT), 0x8100, 0xe000)), "priority tag");
    assert!(program.steers(&tagged(ipv4(10, 0, 17, PORT), 0x8100, 0)), "priority tag and options");
    assert!(program.steers(&tagged(ipv6(17, PORT), 0x8100, 0xe000)), "priority tag, IPv6");
    assert!(program.steers(&ipv4(0, 0x2000, 17, PORT)), "the first fragment");
    assert!(program.steers(&ipv6_fragment(17, 1, PORT)), "the first fragment, IPv6");
}

#[test]
fn takes_what_routers_say_of_the_tunnels_packets() {
    let program = Loaded::new(0);
    let (about4, about6) = (ipv4(0, 0, 17, PORT), ipv6(17, PORT));
    assert!(program.steers(&error_about(&about4, 3, 4)));
    assert!(program.steers(&error_about(&about6, 2, 0)));
    assert!(program.steers(&tagged(error_about(&about6, 2, 0), 0x8100, 0)), "priority tag");
    for (frame, what) in [
        (error_about(&about4, 3, 3), "port unreachable"),
        (error_about(&about4, 11, 0), "time exceeded"),
        (error_about(&about6, 1, 4), "port unreachable over IPv6"),
        (error_about(&ipv4(0, 0, 17, PORT + 1), 3, 4), "about another port"),
        (error_about(&ipv6(17, PORT + 1), 2, 0), "about another port over IPv6"),
        (error_about(&ipv4(0, 0, 6, PORT), 3, 4), "about TCP"),
        (error_about(&ipv6(6, PORT), 2, 0), "about TCP over IPv6"),
        (error_about(&ipv4(3, 0, 17, PORT), 3, 4), "about one with options"),
    ] {
        assert!(!program.steers(&frame), "{what}");
    }
    let mut fragment = error_about(&about4, 3, 4);
    fragment[20] = 0x20;
    assert!(!program.steers(&fragment), "a fragment");
}

#[test]
fn leaves_everything_else_to_the_kernel() {
    for program in [Loaded::new(0), Loaded::new(4)] {
        let mut arp = ipv4(0, 0, 17, PORT);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let mut others_mac = ipv4(0, 0, 17, PORT);
        others_mac[5] ^= 1;
        let mut broadcast = ipv4(0, 0, 17, PORT);
        broadcast[..6].fill(0xff);
        let mut short_header = ipv4(0, 0, 17, PORT);
        short_header[14] = 0x44;
        for (frame, what) in [
            (ipv4(0, 0, 17, PORT + 1), "another port"),
            (ipv4(0, 0, 6, PORT), "TCP"),
            (ipv6(17, PORT + 1), "another port over IPv6"),
            (ipv6(6, PORT), "TCP over IPv6"),
            (ipv6(60, PORT), "destination options"),
            (ipv6(58, PORT), "ICMPv6"),
            (ipv4(0, 0, 1, PORT), "ICMP"),
            (arp, "ARP"),
            (others_mac, "another's MAC"),
            (broadcast, "broadcast"),
            (short_header, "a header of 16 bytes"),
            (tagged(ipv4(0, 0, 17, PORT), 0x8100, 5), "VLAN 5"),
            (tagged(ipv4(0, 0, 17, PORT), 0x88a8, 0), "a service tag"),
            (tagged(tagged(ipv4(0, 0, 17, PORT), 0x8100, 0), 0x8100, 0), "two tags"),
            (ipv4(0, 1, 17, PORT), "the last fragment"),
            (ipv4(0, 0x3fff, 17, PORT), "a middle fragment"),
            (ipv4(0, 0x2000, 17, PORT + 1), "the first fragment of another port's"),
            (ipv6_fragment(17, 8, PORT), "the last fragment, IPv6"),
            (ipv6_fragment(17, 0xfff9, PORT), "a middle fragment, IPv6"),
            (ipv6_fragment(17, 1, PORT + 1), "the first fragment of another port's, IPv6"),
            (ipv6_fragment(6, 1, PORT), "the first fragment of TCP, IPv6"),
        ] {
            assert!(!program.steers(&frame), "{what}");
        }
    }
}

#[test]
fn a_frame_that_is_cut_off_is_the_kernels() {
    let program = Loaded::new(0);
    let quoted = ipv4(0, 0, 17, PORT);
    for (whole, behind) in [
        (ipv4(0, 0, 17, PORT), 20),
        (ipv4(10, 0, 17, PORT), 20),
        (ipv6(17, PORT), 20),
        (ipv6_fragment(17, 1, PORT), 20),
        (error_about(&quoted, 3, 4), 20),
        (error_about(&ipv6(17, PORT), 2, 0), 20),
        (tagged(ipv6(17, PORT), 0x8100, 0), 20),
    ] {
        let end = whole.len() - behind;
        assert!(program.steers(&whole[..end]));
        // The kernel runs no program on less than an Ethernet header.
        for len in 14..end {
            assert!(!program.steers(&whole[..len]), "cut to {len} bytes");
        }
    }
}

#[test]
fn a_queue_without_a_socket_is_the_kernels() {
    let target = Target { port: PORT, mac: MAC, prefixes: 0 };
    let steering = Steering::load(&target, 1).unwrap();
    assert_eq!(run(steering.program.as_fd(), &ipv4(0, 0, 17, PORT)), 2);
}

#[test]
fn packets_to_another_address_are_the_kernels() {
    for prefixes in [0, 4] {
        let program = Loaded::new(prefixes);
        let frames = || {
            let (about4, about6) = (ipv4(0, 0, 17, PORT), ipv6(17, PORT));
            let v4 = [about4.clone(), ipv4(3, 0x2000, 17, PORT), error_about(&about4, 3, 4)];
            let v6 = [about6.clone(), ipv6_fragment(17, 1, PORT), error_about(&about6, 2, 0)];
            (v4, v6)
        };
        let (mut v4, mut v6) = frames();
        assert!(v4.iter().chain(&v6).all(|frame| program.steers(frame)));
        v4.iter_mut().for_each(|frame| frame[33] ^= 1);
        v6.iter_mut().for_each(|frame| frame[38] ^= 1);
        assert!(!v4.iter().chain(&v6).any(|frame| program.steers(frame)), "one bit beside it");
        // Of the other family, with the same last bytes.
        let mut looks_alike = ipv6(17, PORT);
        looks_alike[38..54].fill(0);
        looks_alike[50..54].copy_from_slice(&[172, 16, 0, 2]);
        assert!(!program.steers(&looks_alike));

        let other = IpAddr::from([172, 16, 0, 3]);
        program.steering.set_own([other]).unwrap();
        let (before4, before6) = frames();
        assert!(!before4.iter().chain(&before6).any(|frame| program.steers(frame)), "no longer its own");
        assert!(v4.iter().all(|frame| program.steers(frame)), "its own now");
        program.steering.set_own([other, OWN4]).unwrap();
        assert!(v4.iter().chain(&before4).all(|frame| program.steers(frame)));
        program.steering.set_own([]).unwrap();
        assert!(!v4.iter().chain(&before4).any(|frame| program.steers(frame)));
        let too_many = (0..=OWN_MOST).map(|n| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]));
        program.steering.set_own(too_many).unwrap_err();
    }
}

#[test]
fn packets_between_prefixes_are_taken_while_they_are_there() {
    let program = Loaded::new(6);
    let between4 = |source: [u8; 4], destination: [u8; 4], fragment| {
        let mut packet = ipv4(0, fragment, 6, 80);
        packet[26..30].copy_from_slice(&source);
        packet[30..34].copy_from_slice(&destination);
        packet
    };
    let to4 = |destination, fragment| between4([10, 244, 9, 1], destination, fragment);
    let to6 = |[source, destination]: [u8; 2], next_header| {
        let mut packet = ipv6(next_header, 80);
        let address = |last| [0xfd, last, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        packet[22..38].copy_from_slice(&address(source));
        packet[38..54].copy_from_slice(&address(destination));
        packet
    };
    let prefix = |text: &str, side| {
        let (address, len) = text.split_once('/').unwrap();
        (address.parse().unwrap(), len.parse().unwrap(), side)
    };
    let here = prefix("10.244.1.0/24", Side::Here);
    let there = prefix("10.244.9.0/24", Side::There);
    let (here6, there6) = (prefix("fd01::/64", Side::Here), prefix("fd09::/64", Side::There));
    let host = prefix("10.244.1.1/32", Side::Host);
    let steering = &program.steering;
    assert!(!program.steers(&to4([10, 244, 1, 7], 0)));
    steering.set_prefixes([here, there, here6, there6, host]).unwrap();
    assert!(program.steers(&to4([10, 244, 1, 7], 0)));
    assert!(program.steers(&to4([10, 244, 1, 255], 5)), "a fragment");
    assert!(program.steers(&tagged(to4([10, 244, 1, 7], 0), 0x8100, 0)), "priority tag");
    assert!(!program.steers(&tagged(to4([10, 244, 1, 7], 0), 0x8100, 3)), "VLAN 3");
    assert!(!program.steers(&to4([10, 244, 2, 7], 0)), "beside the prefix");
    assert!(!program.steers(&to4([10, 244, 1, 1], 0)), "the host's");
    for [source, destination] in [
        [[10, 244, 8, 1], [10, 244, 1, 7]],
        [[10, 244, 1, 8], [10, 244, 1, 7]],
        [[10, 244, 1, 7], [10, 244, 9, 1]],
    ] {
        assert!(!program.steers(&between4(source, destination, 0)), "{source:?} to {destination:?}");
    }
    assert!(program.steers(&to6([9, 1], 6)));
    assert!(program.steers(&to6([9, 1], 58)), "ICMPv6");
    assert!(program.steers(&to6([9, 1], 44)), "a fragment, IPv6");
    assert!(
        !program.steers(&to6([8, 1], 6))
            && !program.steers(&to6([9, 2], 6))
            && !program.steers(&to6([1, 9], 6))
    );
    assert!(!program.steers(&ipv6(6, 80)), "beside the prefix, IPv6");
    assert!(program.steers(&ipv4(0, 0, 17, PORT)), "the tunnel's all the same");

    steering.set_prefixes([here, there6, here6]).unwrap();
    assert!(!program.steers(&to4([10, 244, 1, 7], 0)) && program.steers(&to6([9, 1], 6)));
    steering.set_prefixes([(here.0, here.1, Side::There), (there.0, there.1, Side::Here)]).unwrap();
    assert!(!program.steers(&to4([10, 244, 1, 7], 0)));
    assert!(program.steers(&between4([10, 244, 1, 7], [10, 244, 9, 1], 0)), "they have changed sides");
    let wrong = steering.set_prefixes([(here.0, 33, Side::Here)]).unwrap_err();
    assert_eq!(wrong.kind(), io::ErrorKind::InvalidInput);
    let many = (0..7).map(|third| (IpAddr::from([10, 9, third, 0]), 24, Side::There));
    assert_eq!(steering.set_prefixes(many).unwrap_err().raw_os_error(), Some(libc::ENOSPC));

    let none = Loaded::new(0);
    none.steering.set_prefixes([]).unwrap();
    assert_eq!(none.steering.set_prefixes([here]).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
}
