//! Which flow a frame belongs to, and what it shows of its connection: read out of the headers of a frame that was parsed, by the offsets that
//! are left of that. What is not there, or is not what connections are made of, belongs to none.

use std::net::IpAddr;

use weft_sync::pins::Key;

use crate::parse::{Brief, Carries};
use crate::wire::icmp::{self, ICMP_LEN};
use crate::wire::icmpv6;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::Ipv4View;
use crate::wire::ipv6::{self, IPV6_LEN, Ipv6View};
use crate::wire::tcp::TcpFlags;

/// In a key's last word: the ports, the protocol, and what kind of key it is.
pub(super) const PROTOCOL_AT: u32 = 32;
pub(super) const V6_AT: u32 = 40;
const FRAGMENTS_AT: u32 = 41;

/// Where a TCP header has its flags.
const FLAGS: usize = 13;

/// What a packet shows of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// TCP: SYN without ACK.
    Syn,
    /// TCP: both.
    SynAck,
    /// TCP: FIN.
    Fin,
    /// TCP: RST.
    Reset,
    /// TCP: none of these.
    Segment,
    /// UDP.
    Datagram,
    /// ICMP echo.
    Echo,
    /// Another protocol.
    Other,
    /// A fragment of whatever it is.
    Fragment,
}

impl Sign {
    fn of(flags: TcpFlags) -> Self {
        if flags.contains(TcpFlags::RST) {
            Self::Reset
        } else if flags.contains(TcpFlags::SYN) {
            if flags.contains(TcpFlags::ACK) { Self::SynAck } else { Self::Syn }
        } else if flags.contains(TcpFlags::FIN) {
            Self::Fin
        } else {
            Self::Segment
        }
    }
}

/// A flow, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    protocol: u8,
    /// Source port in the upper half, destination port in the lower one; of ICMP echo the identifier in both.
    ports: u32,
    pub(crate) sign: Sign,
}

impl Flow {
    /// One that is known by more than a packet.
    pub(super) fn of_answers(src: IpAddr, dst: IpAddr, protocol: u8, (from, to): (u16, u16)) -> Self {
        let ports = u32::from(from) << 16 | u32::from(to);
        Self { src, dst, protocol, ports, sign: Sign::Other }
    }

    /// The flow of the answers to this one.
    pub(crate) fn answer(&self) -> Self {
        Self { src: self.dst, dst: self.src, ports: self.ports.rotate_left(16), ..*self }
    }

    /// The fragments between the same two.
    pub(crate) fn fragments(&self) -> Self {
        Self { ports: 0, sign: Sign::Fragment, ..*self }
    }

    pub(super) fn key(&self) -> Key {
        let words = |address| match address {
            IpAddr::V4(v4) => (0, u64::from(v4.to_bits())),
            IpAddr::V6(v6) => ((v6.to_bits() >> 64) as u64, v6.to_bits() as u64),
        };
        let ((src_high, src_low), (dst_high, dst_low)) = (words(self.src), words(self.dst));
        let meta = u64::from(self.ports)
            | u64::from(self.protocol) << PROTOCOL_AT
            | u64::from(self.src.is_ipv6()) << V6_AT
            | u64::from(self.sign == Sign::Fragment) << FRAGMENTS_AT;
        [src_high, src_low, dst_high, dst_low, meta]
    }
}

/// What a frame has to do with a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// It is a packet of this flow.
    Packet(Flow),
    /// It is the first fragment of a packet of this flow: the flow itself, and [`Flow::fragments`] of it.
    First(Flow),
    /// It tells the sender of a packet what became of that: the flow of the answers to it.
    About(Flow),
}

/// What a frame that was parsed has to do with which flow. `head`: its first bytes, as they were parsed.
#[inline]
pub(crate) fn subject(head: &[u8], brief: &Brief) -> Option<Subject> {
    let packet = head.get(usize::from(brief.l3)..brief.ip_end().min(head.len()))?;
    match brief.carries {
        Carries::V4 => of_v4(packet),
        Carries::V6 => of_v6(packet),
        Carries::Other | Carries::Unread => None,
    }
}

/// An IP packet's addresses and protocol, what follows its headers as far as that is there, and whether it is a fragment and its first.
struct Packet<'a> {
    src: IpAddr,
    dst: IpAddr,
    protocol: IpProtocol,
    transport: &'a [u8],
    is_fragment: bool,
    is_first: bool,
}

impl<'a> Packet<'a> {
    #[inline]
    fn read_v4(packet: &'a [u8]) -> Option<Self> {
        let ip = Ipv4View::new_header_checked(packet).ok()?;
        Some(Self {
            src: ip.src().into(),
            dst: ip.dst().into(),
            protocol: ip.protocol(),
            transport: packet.get(ip.header_len()..)?,
            is_fragment: ip.is_fragment(),
            is_first: ip.fragment_offset() == 0,
        })
    }

    #[inline]
    fn read_v6(packet: &'a [u8]) -> Option<Self> {
        let ip = Ipv6View::new_header_checked(packet).ok()?;
        let payload = packet.get(IPV6_LEN..)?;
        let end = ipv6::transport(payload, ip.next_header()).ok()?;
        Some(Self {
            src: ip.src().into(),
            dst: ip.dst().into(),
            protocol: end.protocol,
            transport: payload.get(end.offset..)?,
            // One with offset 0 and nothing to follow is a whole packet.
            is_fragment: end.fragment.is_some_and(|fragment| fragment.offset != 0 || fragment.more),
            is_first: end.has_header(),
        })
    }

    #[inline]
    fn flow(&self, ports: u32, sign: Sign) -> Flow {
        Flow { src: self.src, dst: self.dst, protocol: self.protocol.0, ports, sign }
    }

    fn fragment(&self) -> Flow {
        self.flow(0, Sign::Fragment)
    }

    /// The flow by the transport header; `None` where that is not whole enough, or is one of ICMP.
    #[inline]
    fn by_transport(&self) -> Option<Flow> {
        let ports = || self.transport.first_chunk().map(|ports| u32::from_be_bytes(*ports));
        Some(match self.protocol {
            IpProtocol::TCP => self.flow(ports()?, Sign::of(TcpFlags(*self.transport.get(FLAGS)?))),
            IpProtocol::UDP => self.flow(ports()?, Sign::Datagram),
            IpProtocol::SCTP => self.flow(ports()?, Sign::Other),
            IpProtocol::ICMP | IpProtocol::ICMPV6 => return None,
            _ => self.flow(0, Sign::Other),
        })
    }

    fn echo(&self) -> Option<Flow> {
        let [_, _, _, _, high, low, ..] = *self.transport else { return None };
        let ident = u32::from(u16::from_be_bytes([high, low]));
        Some(self.flow(ident << 16 | ident, Sign::Echo))
    }

    /// What follows the header of an ICMP error.
    fn quoted(&self) -> Option<&'a [u8]> {
        self.transport.get(ICMP_LEN..)
    }

    /// The flow of the answers to this packet, which is quoted: of it there need be no more than 8 bytes of transport header.
    #[cold]
    fn answers(&self) -> Option<Flow> {
        if self.is_fragment {
            return Some(self.fragment().answer());
        }
        let ports = || self.transport.first_chunk().map(|ports| u32::from_be_bytes(*ports));
        let flow = match self.protocol {
            IpProtocol::TCP => self.flow(ports()?, Sign::Segment),
            IpProtocol::ICMP if self.transport.first() == Some(&icmp::ECHO_REQUEST) => self.echo()?,
            IpProtocol::ICMPV6 if self.transport.first() == Some(&icmpv6::ECHO_REQUEST) => self.echo()?,
            _ => self.by_transport()?,
        };
        Some(flow.answer())
    }

    #[inline]
    fn subject(&self) -> Option<Subject> {
        if self.is_fragment {
            let whole = if self.is_first { self.by_transport() } else { None };
            return Some(whole.map_or_else(|| Subject::Packet(self.fragment()), Subject::First));
        }
        match self.protocol {
            IpProtocol::ICMP | IpProtocol::ICMPV6 => None,
            _ => self.by_transport().map(Subject::Packet),
        }
    }

    /// An error is told to who sent the packet that it is about.
    fn about(&self, quoted: &Packet<'_>) -> Option<Subject> {
        (quoted.src == self.dst).then(|| quoted.answers().map(Subject::About)).flatten()
    }
}

#[inline]
fn of_v4(packet: &[u8]) -> Option<Subject> {
    let ip = Packet::read_v4(packet)?;
    if ip.protocol != IpProtocol::ICMP || ip.is_fragment {
        return ip.subject();
    }
    match *ip.transport.first()? {
        icmp::ECHO_REQUEST | icmp::ECHO_REPLY => ip.echo().map(Subject::Packet),
        icmp::DESTINATION_UNREACHABLE
        | icmp::SOURCE_QUENCH
        | icmp::REDIRECT
        | icmp::TIME_EXCEEDED
        | icmp::PARAMETER_PROBLEM => ip.about(&Packet::read_v4(ip.quoted()?)?),
        _ => None,
    }
}

#[inline]
fn of_v6(packet: &[u8]) -> Option<Subject> {
    let ip = Packet::read_v6(packet)?;
    if ip.protocol != IpProtocol::ICMPV6 || ip.is_fragment {
        return ip.subject();
    }
    match *ip.transport.first()? {
        icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY => ip.echo().map(Subject::Packet),
        // Errors (RFC 4443, section 2.1).
        0..128 => ip.about(&Packet::read_v6(ip.quoted()?)?),
        _ => None,
    }
}
