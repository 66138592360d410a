//! Which packets the kernel passes to a socket: small programs of the classic packet filter, which it runs before it copies.

use std::io;
use std::os::fd::BorrowedFd;

use libc::sock_filter;

use crate::kernel::sys;

/// A filter program. The kernel checks it when it is attached.
#[derive(Debug, Clone)]
pub struct Filter(Vec<sock_filter>);

const ETHERTYPE: u32 = 12;
const IP: u32 = 14;
const IPV4_FRAGMENT: u32 = IP + 6;
const IPV4_PROTOCOL: u32 = IP + 9;
const IPV4_LEN: u32 = 20;
const IPV4_WITHOUT_OPTIONS: u32 = 0x45;
/// Of a packet without options.
const IPV4_PAYLOAD: u32 = IP + IPV4_LEN;
const IPV6_NEXT_HEADER: u32 = IP + 6;
const IPV6_LEN: u32 = 40;
const IPV6_PAYLOAD: u32 = IP + IPV6_LEN;
/// Where an ICMP error has the IP header of the packet that it is about.
const IPV4_QUOTE: u32 = IPV4_PAYLOAD + 8;
const IPV6_QUOTE: u32 = IPV6_PAYLOAD + 8;
/// Type 3 and code 4 (RFC 792).
const ICMP_FRAGMENTATION_NEEDED: u32 = 0x0304;
/// A type (RFC 4443).
const ICMPV6_PACKET_TOO_BIG: u32 = 2;
/// Behind it, where there is one: the fragment header.
const FRAGMENT_NEXT_HEADER: u32 = IPV6_PAYLOAD;
const FRAGMENT_OFFSET: u32 = IPV6_PAYLOAD + 2;
const FRAGMENT_PAYLOAD: u32 = IPV6_PAYLOAD + 8;
/// Where a UDP header has the destination port.
const UDP_DESTINATION: u32 = 2;
/// The more-fragments flag and the offset; not the do-not-fragment flag.
const IPV4_FRAGMENT_BITS: u32 = 0x3fff;
/// In IPv4's and in IPv6's field, without the flags.
const IPV4_OFFSET_BITS: u32 = 0x1fff;
const IPV6_OFFSET_BITS: u32 = 0xfff8;
const VLAN_ID_BITS: u32 = 0x0fff;

/// Loads from here on ask for what the kernel knows beside the packet's bytes (linux/filter.h, `SKF_AD_OFF`).
const BESIDE: u32 = -0x1000i32 as u32;
const BESIDE_PACKET_TYPE: u32 = BESIDE + 4;
const BESIDE_VLAN_TAG: u32 = BESIDE + 44;

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF_AT_X: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const X_IS_IPV4_HEADER_LEN: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const WHOLE: u32 = u32::MAX;

impl Filter {
    /// Passes what a UDP tunnel on `port` receives through this interface: whole frames with UDP directly over IPv4
    /// or IPv6 (no extension headers) to that port, addressed to this host's MAC and in no VLAN. And what routers say of
    /// such packets from here that were too big for them, which the kernel hears too. Everything else is the kernel's alone.
    ///
    /// Of a packet in fragments it passes the first, so that it can be counted: the others have no port, and may be of
    /// anything.
    ///
    /// A tagged frame belongs to a VLAN interface of the kernel, which is another uplink; a priority tag
    /// (VLAN 0) makes no difference. Frames to other hosts' MACs appear when the interface is promiscuous.
    pub fn udp_to(port: u16) -> Self {
        use Target::{Drop, Icmp, Icmpv6, Ipv6, Ipv6Fragment, Next, Pass};
        let port = u32::from(port);
        // A load beyond the packet's end ends the program: the packet is not passed.
        let steps = [
            step(LOAD_WORD, BESIDE_PACKET_TYPE),
            test(EQUAL, u32::from(libc::PACKET_HOST), Next, Drop),
            step(LOAD_WORD, BESIDE_VLAN_TAG),
            test(ANY_BIT, VLAN_ID_BITS, Drop, Next),
            step(LOAD_HALF, ETHERTYPE),
            test(EQUAL, libc::ETH_P_IP as u32, Next, Ipv6),
            step(LOAD_BYTE, IPV4_PROTOCOL),
            test(EQUAL, libc::IPPROTO_UDP as u32, Next, Icmp),
            step(LOAD_HALF, IPV4_FRAGMENT),
            test(ANY_BIT, IPV4_OFFSET_BITS, Drop, Next),
            step(X_IS_IPV4_HEADER_LEN, IP),
            step(LOAD_HALF_AT_X, IP + UDP_DESTINATION),
            test(EQUAL, port, Pass, Drop),
        ];
        let ipv6_steps = [
            test(EQUAL, libc::ETH_P_IPV6 as u32, Next, Drop),
            step(LOAD_BYTE, IPV6_NEXT_HEADER),
            test(EQUAL, libc::IPPROTO_UDP as u32, Next, Ipv6Fragment),
            step(LOAD_HALF, IPV6_PAYLOAD + UDP_DESTINATION),
            test(EQUAL, port, Pass, Drop),
        ];
        let ipv6_fragment_steps = [
            test(EQUAL, libc::IPPROTO_FRAGMENT as u32, Next, Icmpv6),
            step(LOAD_BYTE, FRAGMENT_NEXT_HEADER),
            test(EQUAL, libc::IPPROTO_UDP as u32, Next, Drop),
            step(LOAD_HALF, FRAGMENT_OFFSET),
            test(ANY_BIT, IPV6_OFFSET_BITS, Drop, Next),
            step(LOAD_HALF, FRAGMENT_PAYLOAD + UDP_DESTINATION),
            test(EQUAL, port, Pass, Drop),
        ];
        let (icmp_steps, icmpv6_steps) = (fragmentation_needed(port), packet_too_big(port));
        let ends = [step(RETURN, WHOLE), step(RETURN, 0)];
        let ipv6 = steps.len();
        let ipv6_fragment = ipv6 + ipv6_steps.len();
        let icmp = ipv6_fragment + ipv6_fragment_steps.len();
        let icmpv6 = icmp + icmp_steps.len();
        let pass = icmpv6 + icmpv6_steps.len();
        let resolve = |(at, step): (usize, Step)| {
            // A jump counts from the step after it.
            let skip = |target| match target {
                Next => 0,
                Ipv6 => (ipv6 - at - 1) as u8,
                Ipv6Fragment => (ipv6_fragment - at - 1) as u8,
                Icmp => (icmp - at - 1) as u8,
                Icmpv6 => (icmpv6 - at - 1) as u8,
                Pass => (pass - at - 1) as u8,
                Drop => (pass - at) as u8,
            };
            sock_filter { code: step.code as u16, jt: skip(step.yes), jf: skip(step.no), k: step.k }
        };
        let icmp_steps = icmp_steps.into_iter().chain(icmpv6_steps);
        let ipv6_steps = ipv6_steps.into_iter().chain(ipv6_fragment_steps);
        let all = steps.into_iter().chain(ipv6_steps).chain(icmp_steps).chain(ends);
        Self(all.enumerate().map(resolve).collect())
    }

    /// For a raw ICMP socket, whose packets begin with their IPv4 header: passes Fragmentation Needed.
    pub fn fragmentation_needed() -> Self {
        let step = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
        Self(vec![
            step(X_IS_IPV4_HEADER_LEN, 0, 0, 0),
            step(LOAD_HALF_AT_X, 0, 0, 0),
            step(EQUAL, 0, 1, ICMP_FRAGMENTATION_NEEDED),
            step(RETURN, 0, 0, WHOLE),
            step(RETURN, 0, 0, 0),
        ])
    }

    /// Passes nothing.
    pub fn nothing() -> Self {
        Self(vec![sock_filter { code: RETURN as u16, jt: 0, jf: 0, k: 0 }])
    }

    /// Attaches it to a socket, in place of the one that is there.
    pub fn attach(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: self.0.len() as libc::c_ushort,
            // The kernel copies the program and never writes to it.
            filter: self.0.as_ptr().cast_mut(),
        };
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }
}

/// ICMP's Fragmentation Needed that quotes a UDP packet to `port`; the protocol is loaded. Neither IP header has options:
/// routers send none, and the tunnel's packets have none.
fn fragmentation_needed(port: u32) -> [Step; 13] {
    use Target::{Drop, Next, Pass};
    [
        test(EQUAL, libc::IPPROTO_ICMP as u32, Next, Drop),
        step(LOAD_HALF, IPV4_FRAGMENT),
        test(ANY_BIT, IPV4_FRAGMENT_BITS, Drop, Next),
        step(LOAD_BYTE, IP),
        test(EQUAL, IPV4_WITHOUT_OPTIONS, Next, Drop),
        step(LOAD_HALF, IPV4_PAYLOAD),
        test(EQUAL, ICMP_FRAGMENTATION_NEEDED, Next, Drop),
        step(LOAD_BYTE, IPV4_QUOTE),
        test(EQUAL, IPV4_WITHOUT_OPTIONS, Next, Drop),
        step(LOAD_BYTE, IPV4_QUOTE + IPV4_PROTOCOL - IP),
        test(EQUAL, libc::IPPROTO_UDP as u32, Next, Drop),
        step(LOAD_HALF, IPV4_QUOTE + IPV4_LEN + UDP_DESTINATION),
        test(EQUAL, port, Pass, Drop),
    ]
}

/// ICMPv6's Packet Too Big that quotes a UDP packet to `port`; the next header is loaded.
fn packet_too_big(port: u32) -> [Step; 7] {
    use Target::{Drop, Next, Pass};
    [
        test(EQUAL, libc::IPPROTO_ICMPV6 as u32, Next, Drop),
        step(LOAD_BYTE, IPV6_PAYLOAD),
        test(EQUAL, ICMPV6_PACKET_TOO_BIG, Next, Drop),
        step(LOAD_BYTE, IPV6_QUOTE + IPV6_NEXT_HEADER - IP),
        test(EQUAL, libc::IPPROTO_UDP as u32, Next, Drop),
        step(LOAD_HALF, IPV6_QUOTE + IPV6_LEN + UDP_DESTINATION),
        test(EQUAL, port, Pass, Drop),
    ]
}

/// Where a test goes on.
#[derive(Clone, Copy)]
enum Target {
    Next,
    Ipv6,
    Ipv6Fragment,
    Icmp,
    Icmpv6,
    Pass,
    Drop,
}

struct Step {
    code: u32,
    k: u32,
    yes: Target,
    no: Target,
}

const fn step(code: u32, k: u32) -> Step {
    test(code, k, Target::Next, Target::Next)
}

const fn test(code: u32, k: u32, yes: Target, no: Target) -> Step {
    Step { code, k, yes, no }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    const PORT: u16 = 8472;

    /// What the kernel makes of a packet: it runs the filter of a socket pair.
    fn passes(filter: &Filter, packet: &[u8]) -> bool {
        let (from, to) = UnixDatagram::pair().unwrap();
        to.set_nonblocking(true).unwrap();
        filter.attach(to.as_fd()).unwrap();
        // A filter that refuses makes the send fail on some kernels; what counts is what arrives.
        let _sent = from.send(packet);
        let mut received = [0; 256];
        match to.recv(&mut received) {
            Ok(len) => {
                assert_eq!(&received[..len], packet, "passed, but not whole");
                true
            }
            Err(_) => false,
        }
    }

    fn ipv4(options: usize, fragment: u16, protocol: u8, port: u16) -> Vec<u8> {
        let mut packet = vec![2; 12];
        packet.extend([0x08, 0x00, 0x45 + options as u8, 0, 0, 0, 0, 0]);
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0, 172, 16, 0, 1, 172, 16, 0, 2]);
        packet.extend(vec![1; options * 4]);
        packet.extend(50_000u16.to_be_bytes());
        packet.extend(port.to_be_bytes());
        packet.extend([0; 20]);
        packet
    }

    fn ipv6(next_header: u8, port: u16) -> Vec<u8> {
        let mut packet = vec![2; 12];
        packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 28, next_header, 64]);
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

    #[test]
    fn passes_the_tunnels_packets() {
        let filter = Filter::udp_to(PORT);
        assert!(passes(&filter, &ipv4(0, 0, 17, PORT)));
        assert!(passes(&filter, &ipv4(0, 0x4000, 17, PORT)), "don't fragment");
        assert!(passes(&filter, &ipv4(3, 0, 17, PORT)), "with options");
        assert!(passes(&filter, &ipv4(10, 0, 17, PORT)), "with all options");
        assert!(passes(&filter, &ipv6(17, PORT)));
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

    #[test]
    fn passes_what_routers_say_of_the_tunnels_packets() {
        let filter = Filter::udp_to(PORT);
        let (about4, about6) = (ipv4(0, 0, 17, PORT), ipv6(17, PORT));
        assert!(passes(&filter, &error_about(&about4, 3, 4)));
        assert!(passes(&filter, &error_about(&about6, 2, 0)));
        assert!(!passes(&filter, &error_about(&about4, 3, 3)), "port unreachable");
        assert!(!passes(&filter, &error_about(&about4, 11, 0)), "time exceeded");
        assert!(!passes(&filter, &error_about(&about6, 1, 4)), "port unreachable over IPv6");
        assert!(!passes(&filter, &error_about(&ipv4(0, 0, 17, PORT + 1), 3, 4)), "about another port");
        assert!(!passes(&filter, &error_about(&ipv6(17, PORT + 1), 2, 0)), "about another port over IPv6");
        assert!(!passes(&filter, &error_about(&ipv4(0, 0, 6, PORT), 3, 4)), "about TCP");
        assert!(!passes(&filter, &error_about(&ipv6(6, PORT), 2, 0)), "about TCP over IPv6");
        assert!(!passes(&filter, &error_about(&ipv4(3, 0, 17, PORT), 3, 4)), "about one with options");
        let mut fragment = error_about(&about4, 3, 4);
        fragment[20] = 0x20;
        assert!(!passes(&filter, &fragment), "a fragment");
        for whole in [error_about(&about4, 3, 4), error_about(&about6, 2, 0)] {
            let port_end = whole.len() - 20;
            assert!(passes(&filter, &whole[..port_end]));
            for len in 1..port_end {
                assert!(!passes(&filter, &whole[..len]), "cut to {len} bytes");
            }
        }
    }

    #[test]
    fn a_raw_socket_hears_what_was_too_big_and_nothing_else() {
        let filter = Filter::fragmentation_needed();
        let about = ipv4(0, 0, 17, PORT);
        let message = |kind, code| error_about(&about, kind, code).split_off(14);
        assert!(passes(&filter, &message(3, 4)));
        let mut options = message(3, 4);
        options[0] = 0x46;
        options.splice(20..20, [1; 4]);
        assert!(passes(&filter, &options), "with options");
        for (kind, code) in [(3, 3), (3, 13), (11, 0), (8, 0), (4, 4)] {
            assert!(!passes(&filter, &message(kind, code)), "type {kind}, code {code}");
        }
        for len in 1..22 {
            assert!(!passes(&filter, &message(3, 4)[..len]), "cut to {len} bytes");
        }
    }

    #[test]
    fn passes_the_first_fragment_of_a_tunnels_packet() {
        let filter = Filter::udp_to(PORT);
        assert!(passes(&filter, &ipv4(0, 0x2000, 17, PORT)));
        assert!(passes(&filter, &ipv4(10, 0x2000, 17, PORT)), "with all options");
        assert!(passes(&filter, &ipv6_fragment(17, 1, PORT)));
        assert!(!passes(&filter, &ipv4(0, 0x2000, 17, PORT + 1)), "of another port's");
        assert!(!passes(&filter, &ipv6_fragment(17, 1, PORT + 1)), "of another port's over IPv6");
        assert!(!passes(&filter, &ipv6_fragment(6, 1, PORT)), "of TCP");
        for offset in [1, 2, 0x10, 0x1fff] {
            assert!(!passes(&filter, &ipv4(0, 0x2000 | offset, 17, PORT)), "a middle one at {offset}");
            assert!(!passes(&filter, &ipv4(0, offset, 17, PORT)), "the last at {offset}");
            assert!(!passes(&filter, &ipv6_fragment(17, offset << 3 | 1, PORT)), "IPv6, at {offset}");
            assert!(!passes(&filter, &ipv6_fragment(17, offset << 3, PORT)), "IPv6, the last at {offset}");
        }
    }

    #[test]
    fn leaves_everything_else_to_the_kernel() {
        let filter = Filter::udp_to(PORT);
        assert!(!passes(&filter, &ipv4(0, 0, 17, PORT + 1)), "another port");
        assert!(!passes(&filter, &ipv4(0, 0, 6, PORT)), "TCP");
        assert!(!passes(&filter, &ipv6(17, PORT + 1)), "another port over IPv6");
        assert!(!passes(&filter, &ipv6(6, PORT)), "TCP over IPv6");
        assert!(!passes(&filter, &ipv6(60, PORT)), "destination options");
        let mut arp = ipv4(0, 0, 17, PORT);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert!(!passes(&filter, &arp), "another ethertype");
        let mut tagged = ipv4(0, 0, 17, PORT);
        tagged.splice(12..12, [0x81, 0x00, 0, 5]);
        assert!(!passes(&filter, &tagged), "tag in the frame");
        for whole in [ipv4(0, 0, 17, PORT), ipv4(10, 0, 17, PORT), ipv6(17, PORT), ipv6_fragment(17, 1, PORT)]
        {
            let port_end = whole.len() - 20;
            assert!(passes(&filter, &whole[..port_end]));
            for len in 1..port_end {
                assert!(!passes(&filter, &whole[..len]), "cut to {len} bytes");
            }
        }
        assert!(!passes(&Filter::nothing(), &ipv4(0, 0, 17, PORT)));
    }
}
