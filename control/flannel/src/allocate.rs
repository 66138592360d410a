//! Which subnet a node takes where nodes choose for themselves (etcd), as flannel chooses.

use crate::lease::Subnets;
use crate::net_conf::{Range, Ranges};
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Among how many free subnets chance decides: as many nodes at once seldom want the same.
const CHOICE: usize = 100;

/// No subnet is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Where.
    pub range: Range,
}

/// A subnet as a number and its length.
trait Number: Sized {
    fn first(&self) -> u128;
    fn last(&self) -> u128;
    fn length(&self) -> u8;
    fn make(first: u128, length: u8) -> Option<Self>;
}

impl Number for Ipv4Net {
    fn first(&self) -> u128 {
        self.network().to_bits().into()
    }
    fn last(&self) -> u128 {
        self.broadcast().to_bits().into()
    }
    fn length(&self) -> u8 {
        self.prefix_len()
    }
    fn make(first: u128, length: u8) -> Option<Self> {
        Self::new(Ipv4Addr::from_bits(u32::try_from(first).ok()?), length).ok()
    }
}

impl Number for Ipv6Net {
    fn first(&self) -> u128 {
        self.network().to_bits()
    }
    fn last(&self) -> u128 {
        self.broadcast().to_bits()
    }
    fn length(&self) -> u8 {
        self.prefix_len()
    }
    fn make(first: u128, length: u8) -> Option<Self> {
        Self::new(Ipv6Addr::from_bits(first), length).ok()
    }
}

/// Whether these subnets are such as a node may have by the configuration: of the enabled families and no other, each
/// within its range and of its length.
pub fn fits(ranges: &Ranges, subnets: &Subnets) -> bool {
    family_fits(ranges.v4, subnets.v4.map(|net| (net.first(), net.prefix_len())))
        && family_fits(ranges.v6, subnets.v6.map(|net| (net.first(), net.prefix_len())))
}

fn family_fits(range: Option<Range>, subnet: Option<(u128, u8)>) -> bool {
    match (range, subnet) {
        (Some(range), Some((first, length))) => range.holds(first, length),
        (None, None) => true,
        _ => false,
    }
}

/// Chooses subnets that nobody holds: for each family the one that the node had before, if that is free, or else one of the
/// first hundred free ones by chance. `chance(n)` is below `n`.
///
/// # Errors
/// A family has no free subnet.
pub fn choose(
    ranges: &Ranges,
    taken: &[Subnets],
    previous: &Subnets,
    mut chance: impl FnMut(usize) -> usize,
) -> Result<Subnets, Full> {
    let v4: Vec<Ipv4Net> = taken.iter().filter_map(|subnets| subnets.v4).collect();
    let v6: Vec<Ipv6Net> = taken.iter().filter_map(|subnets| subnets.v6).collect();
    Ok(Subnets {
        v4: ranges.v4.map(|range| choose_one(range, &v4, previous.v4, &mut chance)).transpose()?,
        v6: ranges.v6.map(|range| choose_one(range, &v6, previous.v6, &mut chance)).transpose()?,
    })
}

fn choose_one<N: Number + Copy>(
    range: Range,
    taken: &[N],
    previous: Option<N>,
    chance: &mut impl FnMut(usize) -> usize,
) -> Result<N, Full> {
    let mut taken: Vec<(u128, u128)> = taken.iter().map(|net| (net.first(), net.last())).collect();
    taken.sort_unstable();
    if let Some(net) = previous {
        let free = !taken.iter().any(|(first, last)| *first <= net.last() && net.first() <= *last);
        if free && range.holds(net.first(), net.length()) {
            return Ok(net);
        }
    }
    let mut found = Vec::with_capacity(CHOICE);
    let mut next = 0;
    let mut at = range.min;
    while found.len() < CHOICE && at <= range.max {
        let end = at + (range.step() - 1);
        // What ends before this candidate ends before all that follow.
        while taken.get(next).is_some_and(|(_, last)| *last < at) {
            next += 1;
        }
        match taken.get(next) {
            Some((first, last)) if *first <= end => {
                // On to the first candidate behind it.
                let behind = (last - last % range.step()).checked_add(range.step());
                match behind {
                    Some(behind) => at = behind,
                    None => break,
                }
            }
            _ => {
                found.push(at);
                match at.checked_add(range.step()) {
                    Some(after) => at = after,
                    None => break,
                }
            }
        }
    }
    let full = Full { range };
    if found.is_empty() {
        return Err(full);
    }
    let chosen = found.get(chance(found.len())).or(found.first()).ok_or(full)?;
    N::make(*chosen, range.length).ok_or(full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net_conf::NetConf;

    fn ranges(conf: &str) -> Ranges {
        NetConf::parse(conf).unwrap().ranges().unwrap()
    }

    fn v4(text: &str) -> Subnets {
        Subnets { v4: Some(text.parse().unwrap()), v6: None }
    }

    #[test]
    fn one_of_the_first_hundred_free_ones() {
        let ranges = ranges(r#"{"Network":"10.0.0.0/16"}"#);
        let none = Subnets::default();
        let mut asked = 0;
        let chosen = choose(&ranges, &[v4("10.0.1.0/24"), v4("10.0.4.0/22")], &none, |count| {
            asked = count;
            1
        });
        assert_eq!((chosen, asked), (Ok(v4("10.0.3.0/24")), 100));
        assert_eq!(choose(&ranges, &[], &none, |count| count - 1), Ok(v4("10.0.100.0/24")));
    }

    #[test]
    fn leases_of_any_size_are_avoided_to_the_last_free_one() {
        let ranges = ranges(r#"{"Network":"10.0.0.0/22"}"#);
        let none = Subnets::default();
        let taken = [v4("10.0.2.128/25"), v4("10.0.0.0/23"), v4("192.0.2.0/24")];
        assert_eq!(choose(&ranges, &taken, &none, |count| count - 1), Ok(v4("10.0.3.0/24")));
        let all = [v4("10.0.0.0/8")];
        assert_eq!(choose(&ranges, &all, &none, |_| 0), Err(Full { range: ranges.v4.unwrap() }));
        // One within the other: the longer one still counts behind the shorter one's end.
        let nested = [v4("10.0.0.0/23"), v4("10.0.1.0/25"), v4("10.0.2.0/26")];
        assert_eq!(choose(&ranges, &nested, &none, |_| 0), Ok(v4("10.0.3.0/24")));
    }

    #[test]
    fn the_previous_subnet_if_it_is_free_and_fits() {
        let ranges = ranges(r#"{"Network":"10.0.0.0/16"}"#);
        let previous = v4("10.0.77.0/24");
        assert_eq!(choose(&ranges, &[v4("10.0.1.0/24")], &previous, |_| 0), Ok(previous));
        assert_eq!(choose(&ranges, &[v4("10.0.77.128/25")], &previous, |_| 0), Ok(v4("10.0.1.0/24")));
        for unfit in ["10.0.0.0/24", "10.0.76.0/23", "10.1.77.0/24", "0.0.0.0/0"] {
            assert_eq!(choose(&ranges, &[], &v4(unfit), |_| 0), Ok(v4("10.0.1.0/24")), "{unfit}");
        }
    }

    #[test]
    fn both_families_each_by_itself() {
        let text = r#"{"Network":"10.0.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}"#;
        let ranges = ranges(text);
        let taken = [Subnets { v4: None, v6: Some("fd00:0:0:1::/64".parse().unwrap()) }];
        let previous = v4("10.0.9.0/24");
        let chosen = choose(&ranges, &taken, &previous, |_| 0).unwrap();
        assert_eq!(chosen.to_string(), "10.0.9.0/24 and fd00:0:0:2::/64");
        assert!(fits(&ranges, &chosen) && !fits(&ranges, &previous));
        assert!(!fits(&self::ranges(r#"{"Network":"10.0.0.0/16"}"#), &chosen), "IPv6 is off");
    }

    #[test]
    fn the_whole_address_space_ends() {
        let ranges = ranges(r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"::/0"}"#);
        let taken = [Subnets { v4: None, v6: Some("::/0".parse().unwrap()) }];
        assert!(choose(&ranges, &taken, &taken[0], |_| 0).is_err());
        let text = r#"{"Network":"0.0.0.0/0","SubnetMin":"255.255.255.0"}"#;
        assert_eq!(choose(&self::ranges(text), &[], &v4("0.0.0.0/0"), |_| 0), Ok(v4("255.255.255.0/24")));
    }
}
