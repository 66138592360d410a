//! Checked numbers: a value of one of these types is in its legal range. Read this first; every other
//! file speaks in these words. The engine knows them as `weft_switch::types`; what needs no engine, as `weft_types`.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A number that is outside its legal range.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TypeError {
    /// A VNI has 24 bits (RFC 7348, section 5).
    #[error("VNI {0} is not within 0 to 16777215")]
    Vni(u64),
    /// More ports than a switch can have.
    #[error("port number {0} is not below {MAX_PORTS}")]
    Port(u64),
    /// A link's MTU: at least what IPv4 demands of every host (RFC 791), at most what an IPv4 length holds.
    #[error("MTU {0} is not within 576 to 65535 bytes")]
    Mtu(u64),
    /// What Kubernetes takes for a pod's bandwidth, and so does weft.
    #[error("a rate of {0} bit/s is not within 1k and 1P")]
    Rate(u64),
    /// Text that is no rate.
    #[error("{0:?} is no rate in bits a second (a number with k, M, G, Ki, Mi, Gi or none, such as 10M)")]
    RateText(String),
    /// Text that is no MAC address.
    #[error("{0:?} is no MAC address (six hexadecimal bytes with colons, such as 02:00:00:00:00:01)")]
    Mac(String),
}

/// How many ports a switch can have at a time: a node's 250 pods with room for 1,023 vhost-user sockets.
pub const MAX_PORTS: usize = 2048;

/// An IEEE 802 MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, which no station has.
    pub const ZERO: Self = Self([0; 6]);

    /// The first six bytes of `bytes`. Panics if there are fewer.
    #[inline]
    pub fn from_slice(bytes: &[u8]) -> Self {
        Self([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
    }

    /// As a number of 48 bits, the first byte the highest.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address of which [`Self::to_bits`] is the low 48 bits of `bits`.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    /// True for group addresses, broadcast among them.
    #[inline]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// True for the addresses that bridges do not forward (IEEE 802.1Q, table 8-1): spanning tree, pause frames, LLDP.
    #[inline]
    pub fn is_reserved(self) -> bool {
        let [head @ .., last] = self.0;
        head == [0x01, 0x80, 0xc2, 0, 0] && last < 0x10
    }

    /// True for an address that one station can have.
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = TypeError;
    fn from_str(text: &str) -> Result<Self, TypeError> {
        let wrong = || TypeError::Mac(text.to_owned());
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

/// VXLAN network identifier, 24 bits (RFC 7348, section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Vni(u32);

impl Vni {
    /// Checks the range.
    pub const fn new(value: u32) -> Result<Self, TypeError> {
        if value < 1 << 24 { Ok(Self(value)) } else { Err(TypeError::Vni(value as u64)) }
    }
    /// As a VXLAN header carries it: three bytes always are one.
    #[inline]
    pub const fn from_be_bytes([a, b, c]: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, a, b, c]))
    }
    /// The number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A port of this switch: an index into its tables, used again after the port is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortId(u16);

impl PortId {
    /// Checks the range.
    pub const fn new(value: usize) -> Result<Self, TypeError> {
        if value < MAX_PORTS { Ok(Self(value as u16)) } else { Err(TypeError::Port(value as u64)) }
    }
    /// As an index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The largest IP packet that a link carries, in bytes, without the Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Mtu(u16);

impl Mtu {
    /// What IPv4 demands of every link (RFC 791).
    pub const SMALLEST: Self = Self(576);
    /// What IPv6 demands of every link (RFC 8200, section 5): no sender can be told of less.
    pub const SMALLEST_V6: Self = Self(1280);

    /// Checks the range.
    pub const fn new(value: u32) -> Result<Self, TypeError> {
        if value >= 576 && value <= 65535 {
            Ok(Self(value as u16))
        } else {
            Err(TypeError::Mtu(value as u64))
        }
    }
    /// In bytes.
    #[inline]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// How fast a pod may send or receive, in bits a second: 1,000 to 10^15, which is what the kubelet takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BitRate(u64);

impl BitRate {
    /// Checks the range.
    pub const fn new(value: u64) -> Result<Self, TypeError> {
        if value >= 1_000 && value <= 1_000_000_000_000_000 {
            Ok(Self(value))
        } else {
            Err(TypeError::Rate(value))
        }
    }
    /// In bits a second.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for BitRate {
    /// As [`BitRate::from_str`] reads it, with the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffixes =
            [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"), (1, "")];
        let fits = suffixes.into_iter().find(|(unit, _)| self.0 % unit == 0);
        let (unit, suffix) = fits.unwrap_or((1, ""));
        write!(f, "{}{suffix}", self.0 / unit)
    }
}

impl FromStr for BitRate {
    type Err = TypeError;
    /// A Kubernetes quantity: a decimal number with a suffix (`k`, `M`, `G`, `T`, `P`, with `i` behind for powers of 1024; `m` for
    /// thousandths) or an exponent. What is less than a bit is cut off.
    fn from_str(text: &str) -> Result<Self, TypeError> {
        let none = || TypeError::RateText(text.to_owned());
        let number_ends = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(number_ends);
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && part.is_empty() || part.contains('.') || number.len() > 30 {
            return Err(none());
        }
        // Up to 30 digits and a factor of 2^50 at most: no overflow of 128 bits, after the range of exponents is checked.
        let digits: u128 = format!("{whole}{part}").parse().map_err(|_| none())?;
        let (factor, exponent): (u128, i32) = match suffix {
            "" => (1, 0),
            "m" => (1, -3),
            "k" => (1, 3),
            "M" => (1, 6),
            "G" => (1, 9),
            "T" => (1, 12),
            "P" => (1, 15),
            "E" => (1, 18),
            "Ki" => (1 << 10, 0),
            "Mi" => (1 << 20, 0),
            "Gi" => (1 << 30, 0),
            "Ti" => (1 << 40, 0),
            "Pi" => (1 << 50, 0),
            other => {
                let exponent = other.strip_prefix(['e', 'E']).ok_or_else(none)?;
                (1, exponent.parse().map_err(|_| none())?)
            }
        };
        let exponent = i64::from(exponent) - part.len() as i64;
        let power = u32::try_from(exponent.unsigned_abs()).ok().and_then(|power| 10u128.checked_pow(power));
        let scaled = digits.checked_mul(factor);
        let value = match power {
            Some(power) if exponent >= 0 => scaled.and_then(|value| value.checked_mul(power)),
            Some(power) => scaled.map(|value| value / power),
            // Nothing that is left of any number, or more than there is.
            None if exponent < 0 => Some(0),
            None => None,
        };
        Self::new(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(u64::MAX))
    }
}

/// Which of the snapshots published since the start this is; the first is 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Generation(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_number_both_ways() {
        let mac = MacAddr([1, 2, 3, 4, 5, 6]);
        assert_eq!(mac.to_bits(), 0x0102_0304_0506);
        assert_eq!(MacAddr::from_bits(0xffff_0102_0304_0506), mac);
    }

    #[test]
    fn mac_text_both_ways() {
        let mac: MacAddr = "02:00:5e:10:FF:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:ff:01");
        for wrong in
            ["", "02:00:5e:10:ff", "02:00:5e:10:ff:01:02", "2:0:5e:10:ff:1", "02:00:5e:10:ff:+1", "x"]
        {
            assert_eq!(wrong.parse::<MacAddr>(), Err(TypeError::Mac(wrong.to_owned())));
        }
    }

    #[test]
    fn rates_are_quantities() {
        for (text, bits) in [
            ("1000", 1_000),
            ("1k", 1_000),
            ("10M", 10_000_000),
            ("0.5G", 500_000_000),
            (".5G", 500_000_000),
            ("1.", 0),
            ("1Mi", 1_048_576),
            ("1.5Ki", 1_536),
            ("1e6", 1_000_000),
            ("1E6", 1_000_000),
            ("12e-1k", 0),
            ("5000000m", 5_000),
            ("1P", 1_000_000_000_000_000),
            ("1E", 0),
            ("999", 0),
            ("2P", 0),
            ("99999999999999999999999999999P", 0),
            ("1e999999999999", 0),
            ("1e-2147483648", 0),
            ("", 0),
            (".", 0),
            ("M", 0),
            ("-1M", 0),
            ("1.2.3M", 0),
            ("10 M", 0),
            ("10Mb", 0),
            ("١k", 0),
        ] {
            assert_eq!(text.parse().map_or(0, BitRate::get), bits, "{text}");
        }
    }

    #[test]
    fn rates_are_shown_as_they_are_read() {
        for text in ["1k", "1500k", "10M", "25G", "1234567", "3T"] {
            assert_eq!(text.parse::<BitRate>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn ranges_end_where_they_say() {
        assert!(Vni::new((1 << 24) - 1).is_ok());
        assert_eq!(Vni::new(1 << 24), Err(TypeError::Vni(1 << 24)));
        assert!(PortId::new(MAX_PORTS - 1).is_ok() && PortId::new(MAX_PORTS).is_err());
        assert!(Mtu::new(576).is_ok() && Mtu::new(65535).is_ok());
        assert!(Mtu::new(575).is_err() && Mtu::new(65536).is_err());
    }
}
