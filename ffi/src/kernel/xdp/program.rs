//! Which frames are weft's: the XDP program, written here instruction by instruction, and its maps.
//!
//! To weft go, of what is addressed to the interface's own MAC address and in no VLAN, to one of the tunnel's own addresses
//! ([`Steering::set_own`]; another address is the kernel's, or is to be forwarded):
//!
//! - UDP to the tunnel's port, over IPv4 (with options too) or IPv6 (without extension headers);
//! - the first fragment of such a packet, so that it can be counted (the others have no port);
//! - what routers say of such packets from here that were too big for them.
//!
//! And, whatever they are, packets from a prefix that is [`Side::There`] to one that is [`Side::Here`] ([`Steering::set_prefixes`]),
//! where the program was made with room for prefixes: for direct routing, where pods' packets come without a tunnel.
//!
//! Everything else goes on to the kernel, unchanged. A tagged frame belongs to a VLAN interface of the kernel, which is
//! another uplink; a priority tag (VLAN 0) makes no difference.
//!
//! A frame for a queue that has no socket goes to the kernel too.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use crate::kernel::bpf::insn::Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R10};
use crate::kernel::bpf::insn::Size::{Byte, Half, Word};
use crate::kernel::bpf::insn::{Assembler, Insn, Jump, Label, Reg};
use crate::kernel::bpf::{self, Attach, Map, MapKind, ProgramKind};

const NAME: &str = "weft_uplink";
/// `bpf_map_lookup_elem` and `bpf_redirect_map`.
const LOOK_UP: i32 = 1;
const REDIRECT: i32 = 51;
const XDP_PASS: i32 = 2;

// `struct xdp_md`.
const MD_DATA: i16 = 0;
const MD_DATA_END: i16 = 4;
const MD_QUEUE: i16 = 16;

const ETHERTYPE: i16 = 12;
const TAG_LEN: i16 = 4;
const IP: i16 = 14;
const IPV4_LEN: i16 = 20;
const IPV4_FRAGMENT: i16 = IP + 6;
const IPV4_PROTOCOL: i16 = IP + 9;
const IPV4_SOURCE: i16 = IP + 12;
const IPV4_DESTINATION: i16 = IP + 16;
const IPV6_LEN: i16 = 40;
const IPV6_NEXT_HEADER: i16 = IP + 6;
const IPV6_SOURCE: i16 = IP + 8;
const IPV6_DESTINATION: i16 = IP + 24;
const IPV6_PAYLOAD: i16 = IP + IPV6_LEN;
const FRAGMENT_LEN: i16 = 8;
/// Bytes of a UDP header up to the end of the destination port, and where that is.
const UDP_PORTS: i16 = 4;
const UDP_DESTINATION: i16 = 2;
/// Of an ICMP error, before the packet that it is about.
const ICMP_LEN: i16 = 8;
const IPV4_WITHOUT_OPTIONS: i32 = 0x45;
/// Type and code (RFC 792).
const FRAGMENTATION_NEEDED: u16 = 0x0304;
/// A type (RFC 4443).
const PACKET_TOO_BIG: i32 = 2;
const UDP: i32 = libc::IPPROTO_UDP;

const IPV4: Label = Label("IPv4");
const IPV4_OTHER: Label = Label("IPv4, not UDP");
const IPV4_TUNNEL: Label = Label("the tunnel's port or its error, IPv4");
const IPV6_TUNNEL: Label = Label("the tunnel's port or its error, IPv6");
const IPV4_TO: Label = Label("IPv4 destination");
const IPV6: Label = Label("IPv6");
const IPV6_OTHER: Label = Label("IPv6, not UDP");
const IPV6_ICMP: Label = Label("ICMPv6");
const IPV6_TO: Label = Label("IPv6 destination");
const UNTAGGED: Label = Label("untagged");
const STEER: Label = Label("to weft");
const PASS: Label = Label("to the kernel");

/// Bytes of a key of the addresses' map: an IPv6 address. IPv4 is within `::ffff:0:0/96`.
const ADDRESS_KEY: usize = 16;
/// Bytes of a key of the prefixes' map: the prefix' length in bits, and such an address.
const PREFIX_KEY: usize = 4 + ADDRESS_KEY;
const PREFIX_KEY_ON_STACK: i16 = -24;
const ADDRESS_ON_STACK: i16 = PREFIX_KEY_ON_STACK + 4;
/// Addresses that the tunnel may have: more than an interface has.
const OWN_MOST: u32 = 256;

/// What a program is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The tunnel's UDP port.
    pub port: u16,
    /// The interface's MAC address.
    pub mac: [u8; 6],
    /// How many prefixes there can be; 0: the program looks none up.
    pub prefixes: u32,
}

/// A program with its maps, and its link to an interface once it is attached.
#[derive(Debug)]
pub struct Steering {
    link: Option<OwnedFd>,
    program: OwnedFd,
    sockets: Map,
    own: Map,
    /// What is in that map.
    own_now: Mutex<BTreeSet<[u8; ADDRESS_KEY]>>,
    prefixes: Option<Map>,
    /// What is in that map.
    prefixes_now: Mutex<BTreeMap<[u8; PREFIX_KEY], Side>>,
}

/// Who is behind a prefix. The longest that has an address counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Pods of this node.
    Here = 1,
    /// Pods of a node that sends their packets without a tunnel.
    There = 2,
    /// The host, within one of the others: its packets are the kernel's.
    Host = 3,
}

impl Steering {
    /// Loads the program for an interface of `queues` receive queues.
    pub(super) fn load(target: &Target, queues: u32) -> io::Result<Self> {
        let sockets = Map::new(MapKind::Sockets, "weft_sockets", 4, 4, queues)?;
        let own = Map::new(MapKind::Set, "weft_own", ADDRESS_KEY, 1, OWN_MOST)?;
        let prefixes = match target.prefixes {
            0 => None,
            count => Some(Map::new(MapKind::Prefixes, "weft_prefixes", PREFIX_KEY, 1, count)?),
        };
        let code = code(target, sockets.as_fd(), own.as_fd(), prefixes.as_ref().map(|map| map.as_fd()))
            .ok_or_else(|| io::Error::other("the program has a jump to nowhere"))?;
        Ok(Self {
            link: None,
            program: bpf::load(ProgramKind::Xdp, NAME, &code)?,
            sockets,
            own,
            own_now: Mutex::default(),
            prefixes,
            prefixes_now: Mutex::default(),
        })
    }

    /// Attaches it to an interface, until it is dropped.
    pub(super) fn attach(&mut self, interface: u32, how: Attach) -> io::Result<()> {
        self.link = Some(bpf::attach(self.program.as_fd(), interface, how)?);
        Ok(())
    }

    /// Gives a queue's frames to a socket.
    pub(super) fn give(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.sockets.set(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }

    /// From now on the tunnel has these addresses and no other. Fails when they are too many; one that stays is never missing meanwhile.
    pub fn set_own(&self, addresses: impl IntoIterator<Item = IpAddr>) -> io::Result<()> {
        let wanted: BTreeSet<_> = addresses.into_iter().map(address_key).collect();
        let mut now = self.own_now.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &wanted {
            if !now.contains(key) {
                self.own.set(key, &[1])?;
                now.insert(*key);
            }
        }
        let gone: Vec<_> = now.difference(&wanted).copied().collect();
        for key in gone {
            self.own.remove(&key)?;
            now.remove(&key);
        }
        Ok(())
    }

    /// From now on there are these prefixes and no other. Fails when they are too many, or one is none; one that stays is never
    /// missing meanwhile.
    pub fn set_prefixes(&self, prefixes: impl IntoIterator<Item = (IpAddr, u8, Side)>) -> io::Result<()> {
        let keyed = |(address, len, side)| prefix_key(address, len).map(|key| (key, side));
        let wanted: BTreeMap<_, _> = prefixes.into_iter().map(keyed).collect::<io::Result<_>>()?;
        let mut now = self.prefixes_now.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == wanted {
            return Ok(());
        }
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        let map = self.prefixes.as_ref().ok_or_else(full)?;
        let gone: Vec<_> = now.keys().filter(|key| !wanted.contains_key(*key)).copied().collect();
        for key in gone {
            map.remove(&key)?;
            now.remove(&key);
        }
        for (key, side) in wanted {
            if now.get(&key) != Some(&side) {
                map.set(&key, &[side as u8])?;
                now.insert(key, side);
            }
        }
        Ok(())
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            // It fails where the interface is gone, and then nothing is attached.
            let _ = bpf::detach(link.as_fd());
        }
    }
}

fn address_key(address: IpAddr) -> [u8; ADDRESS_KEY] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn prefix_key(address: IpAddr, len: u8) -> io::Result<[u8; PREFIX_KEY]> {
    let (longest, before) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
    if len > longest {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut key = [0; PREFIX_KEY];
    key[..4].copy_from_slice(&u32::from(len + before).to_ne_bytes());
    key[4..].copy_from_slice(&address_key(address));
    Ok(key)
}

/// As a load of two bytes in network order shows the number.
fn half(number: u16) -> i32 {
    u16::from_ne_bytes(number.to_be_bytes()).into()
}

/// `R7` is where the frame begins (four bytes further behind a priority tag, so that the offsets are the same), `R8` where it
/// ends, `R6` the context.
fn code(
    target: &Target,
    sockets: BorrowedFd<'_>,
    own: BorrowedFd<'_>,
    prefixes: Option<BorrowedFd<'_>>,
) -> Option<Vec<Insn>> {
    let mut p = Assembler::default();
    let [m0, m1, m2, m3, m4, m5] = target.mac;
    p.add(&[Insn::copy(R6, R1), Insn::load(Word, R7, R6, MD_DATA), Insn::load(Word, R8, R6, MD_DATA_END)]);
    need(&mut p, R7, IP + IPV4_LEN);
    p.add(&[Insn::load(Word, R3, R7, 0)]);
    p.go_if(R3, Jump::NotEqual, i32::from_ne_bytes([m0, m1, m2, m3]), PASS);
    p.add(&[Insn::load(Half, R3, R7, 4)]);
    p.go_if(R3, Jump::NotEqual, u16::from_ne_bytes([m4, m5]).into(), PASS);
    p.add(&[Insn::load(Half, R3, R7, ETHERTYPE)]);
    p.go_if(R3, Jump::NotEqual, half(libc::ETH_P_8021Q as u16), UNTAGGED);
    p.add(&[Insn::load(Half, R3, R7, IP), Insn::and(R3, half(0x0fff))]);
    p.go_if(R3, Jump::NotEqual, 0, PASS);
    p.add(&[Insn::add(R7, TAG_LEN.into())]);
    need(&mut p, R7, IP + IPV4_LEN);
    p.add(&[Insn::load(Half, R3, R7, ETHERTYPE)]);
    p.label(UNTAGGED);
    p.go_if(R3, Jump::Equal, half(libc::ETH_P_IP as u16), IPV4);
    p.go_if(R3, Jump::Equal, half(libc::ETH_P_IPV6 as u16), IPV6);
    p.go(PASS);
    ipv4(&mut p, target.port);
    ipv6(&mut p, target.port);
    // What is the tunnel's but for its destination.
    for (tunnel, load, otherwise) in
        [(IPV4_TUNNEL, load_ipv4 as fn(&mut _), IPV4_TO), (IPV6_TUNNEL, load_ipv6, IPV6_TO)]
    {
        p.label(tunnel);
        load(&mut p);
        p.set_map(R1, own).add(&[
            Insn::copy(R2, R10),
            Insn::add(R2, ADDRESS_ON_STACK.into()),
            Insn::call(LOOK_UP),
        ]);
        p.go_if_all(R0, Jump::NotEqual, 0, STEER).go(otherwise);
    }
    if let Some(prefixes) = prefixes {
        look_up(&mut p, prefixes);
    } else {
        p.label(IPV4_TO).label(IPV6_TO);
    }
    p.label(PASS).add(&[Insn::set(R0, XDP_PASS), Insn::exit()]);
    // A queue without a socket: what is in R3 is the answer.
    p.label(STEER).set_map(R1, sockets);
    p.add(&[Insn::load(Word, R2, R6, MD_QUEUE), Insn::set(R3, XDP_PASS), Insn::call(REDIRECT), Insn::exit()]);
    p.finish()
}

/// A frame that ends before `len` bytes from `from` on is the kernel's.
fn need(p: &mut Assembler, from: Reg, len: i16) {
    p.add(&[Insn::copy(R2, from), Insn::add(R2, len.into())]).go_if_register(R2, Jump::Greater, R8, PASS);
}

/// To `tunnel` if the destination port at `at` is the tunnel's, else on to `other`.
fn steer_port(p: &mut Assembler, from: Reg, at: i16, port: u16, [tunnel, other]: [Label; 2]) {
    p.add(&[Insn::load(Half, R3, from, at + UDP_DESTINATION)]);
    p.go_if(R3, Jump::Equal, half(port), tunnel).go(other);
}

fn ipv4(p: &mut Assembler, port: u16) {
    p.label(IPV4);
    // A later fragment has no ports: its destination alone counts.
    p.add(&[Insn::load(Half, R3, R7, IPV4_FRAGMENT), Insn::and(R3, half(0x1fff))]);
    p.go_if(R3, Jump::NotEqual, 0, IPV4_TO);
    p.add(&[Insn::load(Byte, R3, R7, IPV4_PROTOCOL)]);
    p.go_if(R3, Jump::NotEqual, UDP, IPV4_OTHER);
    p.add(&[Insn::load(Byte, R4, R7, IP), Insn::and(R4, 0x0f), Insn::shift_left(R4, 2)]);
    p.go_if(R4, Jump::Less, IPV4_LEN.into(), PASS);
    p.add(&[Insn::copy(R5, R7), Insn::add_register(R5, R4)]);
    need(p, R5, IP + UDP_PORTS);
    steer_port(p, R5, IP, port, [IPV4_TUNNEL, IPV4_TO]);

    // Neither IP header has options: routers send none, and the tunnel's packets have none.
    const ICMP: i16 = IP + IPV4_LEN;
    const QUOTE: i16 = ICMP + ICMP_LEN;
    p.label(IPV4_OTHER);
    p.go_if(R3, Jump::NotEqual, libc::IPPROTO_ICMP, IPV4_TO);
    p.add(&[Insn::copy(R2, R7), Insn::add(R2, (QUOTE + IPV4_LEN + UDP_PORTS).into())]);
    p.go_if_register(R2, Jump::Greater, R8, IPV4_TO);
    p.add(&[Insn::load(Byte, R3, R7, IP)]);
    p.go_if(R3, Jump::NotEqual, IPV4_WITHOUT_OPTIONS, IPV4_TO);
    // Nor is it in fragments.
    p.add(&[Insn::load(Half, R3, R7, IPV4_FRAGMENT), Insn::and(R3, half(0x3fff))]);
    p.go_if(R3, Jump::NotEqual, 0, IPV4_TO);
    p.add(&[Insn::load(Half, R3, R7, ICMP)]);
    p.go_if(R3, Jump::NotEqual, half(FRAGMENTATION_NEEDED), IPV4_TO);
    p.add(&[Insn::load(Byte, R3, R7, QUOTE)]);
    p.go_if(R3, Jump::NotEqual, IPV4_WITHOUT_OPTIONS, IPV4_TO);
    p.add(&[Insn::load(Byte, R3, R7, QUOTE + IPV4_PROTOCOL - IP)]);
    p.go_if(R3, Jump::NotEqual, UDP, IPV4_TO);
    steer_port(p, R7, QUOTE + IPV4_LEN, port, [IPV4_TUNNEL, IPV4_TO]);
}

fn ipv6(p: &mut Assembler, port: u16) {
    p.label(IPV6);
    need(p, R7, IPV6_PAYLOAD + UDP_PORTS);
    p.add(&[Insn::load(Byte, R3, R7, IPV6_NEXT_HEADER)]);
    p.go_if(R3, Jump::NotEqual, UDP, IPV6_OTHER);
    steer_port(p, R7, IPV6_PAYLOAD, port, [IPV6_TUNNEL, IPV6_TO]);

    p.label(IPV6_OTHER);
    p.go_if(R3, Jump::NotEqual, libc::IPPROTO_FRAGMENT, IPV6_ICMP);
    p.add(&[Insn::copy(R2, R7), Insn::add(R2, (IPV6_PAYLOAD + FRAGMENT_LEN + UDP_PORTS).into())]);
    p.go_if_register(R2, Jump::Greater, R8, IPV6_TO);
    p.add(&[Insn::load(Byte, R3, R7, IPV6_PAYLOAD)]);
    p.go_if(R3, Jump::NotEqual, UDP, IPV6_TO);
    p.add(&[Insn::load(Half, R3, R7, IPV6_PAYLOAD + 2), Insn::and(R3, half(0xfff8))]);
    p.go_if(R3, Jump::NotEqual, 0, IPV6_TO);
    steer_port(p, R7, IPV6_PAYLOAD + FRAGMENT_LEN, port, [IPV6_TUNNEL, IPV6_TO]);

    const QUOTE: i16 = IPV6_PAYLOAD + ICMP_LEN;
    p.label(IPV6_ICMP);
    p.go_if(R3, Jump::NotEqual, libc::IPPROTO_ICMPV6, IPV6_TO);
    p.add(&[Insn::copy(R2, R7), Insn::add(R2, (QUOTE + IPV6_LEN + UDP_PORTS).into())]);
    p.go_if_register(R2, Jump::Greater, R8, IPV6_TO);
    p.add(&[Insn::load(Byte, R3, R7, IPV6_PAYLOAD)]);
    p.go_if(R3, Jump::NotEqual, PACKET_TOO_BIG, IPV6_TO);
    p.add(&[Insn::load(Byte, R3, R7, QUOTE + IPV6_NEXT_HEADER - IP)]);
    p.go_if(R3, Jump::NotEqual, UDP, IPV6_TO);
    steer_port(p, R7, QUOTE + IPV6_LEN, port, [IPV6_TUNNEL, IPV6_TO]);
}

/// Puts the destination where keys are.
fn load_ipv4(p: &mut Assembler) {
    load_ipv4_from(p, IPV4_DESTINATION);
}

/// The same.
fn load_ipv6(p: &mut Assembler) {
    load_ipv6_from(p, IPV6_DESTINATION);
}

/// Puts the address at that place of the frame where keys are.
fn load_ipv4_from(p: &mut Assembler, at: i16) {
    p.add(&[
        Insn::store_value(Word, R10, ADDRESS_ON_STACK, 0),
        Insn::store_value(Word, R10, ADDRESS_ON_STACK + 4, 0),
        Insn::store_value(Word, R10, ADDRESS_ON_STACK + 8, i32::from_ne_bytes([0, 0, 0xff, 0xff])),
        Insn::load(Word, R3, R7, at),
        Insn::store(Word, R10, ADDRESS_ON_STACK + 12, R3),
    ]);
}

/// The same.
fn load_ipv6_from(p: &mut Assembler, at: i16) {
    for word in [0, 4, 8, 12] {
        p.add(&[Insn::load(Word, R3, R7, at + word), Insn::store(Word, R10, ADDRESS_ON_STACK + word, R3)]);
    }
}

/// To weft if the destination is here and the source there.
fn look_up(p: &mut Assembler, prefixes: BorrowedFd<'_>) {
    type Load = fn(&mut Assembler, i16);
    for (label, load, destination, source) in [
        (IPV4_TO, load_ipv4_from as Load, IPV4_DESTINATION, IPV4_SOURCE),
        (IPV6_TO, load_ipv6_from as Load, IPV6_DESTINATION, IPV6_SOURCE),
    ] {
        p.label(label);
        for (at, side) in [(destination, Side::Here), (source, Side::There)] {
            load(p, at);
            p.add(&[Insn::store_value(Word, R10, PREFIX_KEY_ON_STACK, 128)]).set_map(R1, prefixes);
            p.add(&[Insn::copy(R2, R10), Insn::add(R2, PREFIX_KEY_ON_STACK.into()), Insn::call(LOOK_UP)]);
            p.go_if_all(R0, Jump::Equal, 0, PASS).add(&[Insn::load(Byte, R3, R0, 0)]);
            p.go_if(R3, Jump::NotEqual, side as i32, PASS);
        }
        p.go(STEER);
    }
}

#[cfg(test)]
mod tests;
