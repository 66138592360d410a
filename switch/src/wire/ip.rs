//! What IPv4 and IPv6 have in common: the numbers of the protocols that they carry.

use std::fmt;

/// A protocol over IP, or an IPv6 extension header (IANA, "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// IPv6 hop-by-hop options (RFC 8200, section 4.3).
    pub const HOPOPT: Self = Self(0);
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// IPv6 routing header (RFC 8200, section 4.4).
    pub const IPV6_ROUTE: Self = Self(43);
    /// IPv6 fragment header (RFC 8200, section 4.5).
    pub const IPV6_FRAG: Self = Self(44);
    /// IPsec, encrypted (RFC 4303).
    pub const ESP: Self = Self(50);
    /// IPsec, authenticated (RFC 4302).
    pub const AH: Self = Self(51);
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// Nothing follows (RFC 8200, section 4.7).
    pub const NO_NEXT: Self = Self(59);
    /// IPv6 destination options (RFC 8200, section 4.6).
    pub const DSTOPTS: Self = Self(60);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::HOPOPT => f.write_str("hop-by-hop options"),
            Self::ICMP => f.write_str("ICMP"),
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::IPV6_ROUTE => f.write_str("routing header"),
            Self::IPV6_FRAG => f.write_str("fragment header"),
            Self::ESP => f.write_str("ESP"),
            Self::AH => f.write_str("AH"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self::NO_NEXT => f.write_str("nothing"),
            Self::DSTOPTS => f.write_str("destination options"),
            Self::SCTP => f.write_str("SCTP"),
            Self(other) => write!(f, "protocol {other}"),
        }
    }
}

impl fmt::Debug for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
