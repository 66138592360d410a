//! Which subnets nodes may take: flannel's defaults and checks, which hold where nodes choose for themselves (etcd).

use super::{NetConf, NetConfError};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// From which subnet to which one may be taken, and how long their prefix is. Addresses are numbers, so that both
/// families are calculated with alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first subnet's address.
    pub min: u128,
    /// The last subnet's address.
    pub max: u128,
    /// The subnets' prefix length.
    pub length: u8,
    /// 32 or 128.
    pub bits: u8,
}

/// The ranges of both families, as far as they are enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// That of IPv4.
    pub v4: Option<Range>,
    /// That of IPv6.
    pub v6: Option<Range>,
}

impl Range {
    /// How far two neighbouring subnets are apart.
    pub fn step(&self) -> u128 {
        1 << (self.bits - self.length)
    }

    /// Whether a subnet, by its address and length, is one of them.
    pub fn holds(&self, address: u128, length: u8) -> bool {
        length == self.length && (self.min..=self.max).contains(&address) && address % self.step() == 0
    }
}

/// What differs between the families.
struct Rules {
    keys: [&'static str; 3],
    bits: u8,
    /// The subnets' length in networks large enough for it.
    usual: u8,
    longest_subnet: u8,
    longest_network: u8,
}

const V4: Rules = Rules {
    keys: ["SubnetLen", "SubnetMin", "SubnetMax"],
    bits: 32,
    usual: 24,
    longest_subnet: 30,
    longest_network: 28,
};
const V6: Rules = Rules {
    keys: ["IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax"],
    bits: 128,
    usual: 64,
    longest_subnet: 126,
    longest_network: 124,
};

impl NetConf {
    /// From where to where nodes take subnets.
    ///
    /// # Errors
    /// The subnets do not go with their network.
    pub fn ranges(&self) -> Result<Ranges, NetConfError> {
        let keys = &self.subnets;
        let v4 = |net: Ipv4Net| {
            let number =
                |address: Option<Ipv4Addr>| address.map(|a| u128::from(a.to_bits())).filter(|a| *a != 0);
            V4.range(
                IpNet::V4(net),
                u128::from(net.network().to_bits()),
                keys.length,
                number(keys.min),
                number(keys.max),
            )
        };
        let v6 = |net: Ipv6Net| {
            let number = |address: Option<Ipv6Addr>| address.map(Ipv6Addr::to_bits).filter(|a| *a != 0);
            V6.range(
                IpNet::V6(net),
                net.network().to_bits(),
                keys.v6_length,
                number(keys.v6_min),
                number(keys.v6_max),
            )
        };
        Ok(Ranges { v4: self.network.map(v4).transpose()?, v6: self.ipv6_network.map(v6).transpose()? })
    }
}

impl Rules {
    fn range(
        &self,
        net: IpNet,
        first: u128,
        length: Option<u8>,
        min: Option<u128>,
        max: Option<u128>,
    ) -> Result<Range, NetConfError> {
        let [length_key, min_key, max_key] = self.keys;
        let wrong = |key, found, reason: String| NetConfError::Subnet { key, found, network: net, reason };
        let at_least = net.prefix_len().saturating_add(2);
        let length = match length {
            Some(length) if length > self.longest_subnet => {
                let reason = format!("a subnet's prefix is at most {} bits long", self.longest_subnet);
                return Err(wrong(length_key, length.to_string(), reason));
            }
            Some(length) if length < at_least => {
                let reason = format!("there must be room for four subnets, so at least {at_least}");
                return Err(wrong(length_key, length.to_string(), reason));
            }
            Some(length) => length,
            None if net.prefix_len() > self.longest_network => {
                let reason = format!("the network must be a /{} or larger", self.longest_network);
                return Err(wrong(length_key, "not set".to_owned(), reason));
            }
            None => self.usual.max(at_least),
        };
        let range = Range { min: 0, max: 0, length, bits: self.bits };
        let host_bits = u32::from(self.bits - net.prefix_len());
        let last = first | u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        let text = |number: u128| match self.bits {
            32 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)).to_string(),
            _ => IpAddr::V6(Ipv6Addr::from_bits(number)).to_string(),
        };
        let check = |key, address: u128| match address {
            outside if !(first..=last).contains(&outside) => {
                Err(wrong(key, text(address), "it must be an address of the network".to_owned()))
            }
            between if between % range.step() != 0 => {
                let reason = format!("it must be the first address of a /{length}");
                Err(wrong(key, text(address), reason))
            }
            right => Ok(right),
        };
        // The first subnet is left out: some take its first address for a broadcast.
        let min = min.map_or(Ok(first + range.step()), |min| check(min_key, min))?;
        let max = max.map_or(Ok(last - (range.step() - 1)), |max| check(max_key, max))?;
        if min > max {
            return Err(wrong(min_key, text(min), format!("it must not be after {max_key}, {}", text(max))));
        }
        Ok(Range { min, max, ..range })
    }
}
