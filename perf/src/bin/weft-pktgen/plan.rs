//! Who speaks to whom: pairs of addresses, from ranges on the command line or from a JSON file.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::Value;
use weft_switch::types::{MacAddr, TypeError, Vni};

/// Pairs that a plan may have: their prepared headers stay in memory.
pub(crate) const MOST_PAIRS: usize = 65_536;

/// Sender and receiver of a flow, and the tunnel that its frames are in when they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) src_mac: MacAddr,
    pub(crate) dst_mac: MacAddr,
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) tunnel: Option<Tunnel>,
}

/// The outer headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) src_mac: MacAddr,
    pub(crate) dst_mac: MacAddr,
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) vni: Vni,
}

/// `FIRST` or `FIRST+COUNT`: that one, or so many that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    first: u64,
    count: u64,
}

impl Range {
    /// The one of this number; past the end it begins again.
    fn nth(self, index: usize) -> u64 {
        self.first + index as u64 % self.count
    }

    fn parse(text: &str, last: u64, first: impl Fn(&str) -> Result<u64, String>) -> Result<Self, String> {
        let (from, count) = match text.split_once('+') {
            Some((from, count)) => (from, count.parse().map_err(|_| format!("{count:?} is no number"))?),
            None => (text, 1),
        };
        let first = first(from)?;
        if !(1..=MOST_PAIRS as u64).contains(&count) {
            return Err(format!("a range has 1 to {MOST_PAIRS} members, not {count}"));
        }
        if first + (count - 1) > last {
            return Err("the range goes past the last address there is".to_owned());
        }
        Ok(Self { first, count })
    }
}

/// A range of MAC addresses.
pub(crate) fn macs(text: &str) -> Result<Range, String> {
    Range::parse(text, (1 << 48) - 1, |text| {
        let mac: MacAddr = text.parse().map_err(|error| format!("{error}"))?;
        Ok(mac.0.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    })
}

/// A range of IPv4 addresses.
pub(crate) fn addresses(text: &str) -> Result<Range, String> {
    Range::parse(text, u32::MAX.into(), |text| {
        let address: Ipv4Addr =
            text.parse().map_err(|_| format!("{text:?} is no IPv4 address, such as 10.244.0.2"))?;
        Ok(address.to_bits().into())
    })
}

/// A range of VNIs.
pub(crate) fn vnis(text: &str) -> Result<Range, String> {
    Range::parse(text, (1 << 24) - 1, |text| text.parse().map_err(|_| format!("{text:?} is no VNI")))
}

fn mac(number: u64) -> MacAddr {
    let [_, _, bytes @ ..] = number.to_be_bytes();
    MacAddr(bytes)
}

/// The ranges of the command line.
pub(crate) struct Ranges {
    pub(crate) src_mac: Range,
    pub(crate) dst_mac: Range,
    pub(crate) src: Range,
    pub(crate) dst: Range,
    pub(crate) tunnel: Option<TunnelRanges>,
}

/// Those of the outer headers.
pub(crate) struct TunnelRanges {
    pub(crate) src_mac: Range,
    pub(crate) dst_mac: Range,
    pub(crate) src: Range,
    pub(crate) dst: Range,
    pub(crate) vni: Range,
}

impl Ranges {
    /// As many pairs as the longest range has members; shorter ones begin again.
    pub(crate) fn pairs(&self) -> Result<Vec<Pair>> {
        let mut ranges = vec![self.src_mac, self.dst_mac, self.src, self.dst];
        if let Some(tunnel) = &self.tunnel {
            ranges.extend([tunnel.src_mac, tunnel.dst_mac, tunnel.src, tunnel.dst, tunnel.vni]);
        }
        let count = ranges.iter().map(|range| range.count).max().unwrap_or(1) as usize;
        let address = |range: Range, index| Ipv4Addr::from_bits(range.nth(index) as u32);
        (0..count)
            .map(|index| {
                let tunnel = match &self.tunnel {
                    None => None,
                    Some(tunnel) => Some(Tunnel {
                        src_mac: mac(tunnel.src_mac.nth(index)),
                        dst_mac: mac(tunnel.dst_mac.nth(index)),
                        src: address(tunnel.src, index),
                        dst: address(tunnel.dst, index),
                        vni: Vni::new(tunnel.vni.nth(index) as u32)?,
                    }),
                };
                Ok(Pair {
                    src_mac: mac(self.src_mac.nth(index)),
                    dst_mac: mac(self.dst_mac.nth(index)),
                    src: address(self.src, index),
                    dst: address(self.dst, index),
                    tunnel,
                })
            })
            .collect()
    }
}

/// The file: `{"pairs": [{"src_mac": …, "dst_mac": …, "src": …, "dst": …, "tunnel": {…, "vni": 1}}]}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pairs: Vec<WrittenPair>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPair {
    src_mac: Mac,
    dst_mac: Mac,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    #[serde(default)]
    tunnel: Option<WrittenTunnel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTunnel {
    src_mac: Mac,
    dst_mac: Mac,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    vni: u32,
}

/// A MAC address as text.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "String")]
struct Mac(MacAddr);

impl TryFrom<String> for Mac {
    type Error = TypeError;
    fn try_from(text: String) -> Result<Self, TypeError> {
        text.parse().map(Self)
    }
}

/// The other file: what `weft-rig plan` says of a node and of who is around it.
#[derive(Deserialize)]
struct Scene {
    vni: u32,
    gateway: Gateway,
    local_vtep: End,
    sender: Station,
    others: Vec<Station>,
    vteps: Vec<End>,
}

#[derive(Deserialize)]
struct Gateway {
    mac: Mac,
}

#[derive(Deserialize)]
struct Station {
    mac: Mac,
    ip: Ipv4Addr,
}

/// An end of the tunnels.
#[derive(Deserialize)]
struct End {
    mac: Mac,
    ip: Ipv4Addr,
    uplink_mac: Mac,
    #[serde(default)]
    subnets: Vec<Ipv4Net>,
}

/// The way through the node of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// From the sending pod to the others, by MAC address
    Bridge,
    /// From the sending pod to the others, through the gateway
    Route,
    /// From the sending pod to a pod in each subnet of the other nodes
    Encap,
    /// From a pod in each subnet of the other nodes to the pods here, in the tunnel
    Decap,
}

/// Reads the pairs of a file.
pub(crate) fn read(path: &Path, way: Option<Way>) -> Result<Vec<Pair>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read the plan {}", path.display()))?;
    parse(&text, way).with_context(|| format!("the plan {} is wrong", path.display()))
}

fn parse(text: &str, way: Option<Way>) -> Result<Vec<Pair>> {
    let has_pairs = serde_json::from_str::<Value>(text)?.get("pairs").is_some();
    let pairs = match way {
        None if has_pairs => {
            let File { pairs } = serde_json::from_str(text)?;
            let checked = |(index, pair): (usize, WrittenPair)| {
                pair.checked().with_context(|| format!("pairs[{index}]"))
            };
            pairs.into_iter().enumerate().map(checked).collect::<Result<_>>()?
        }
        None => bail!("it has no pairs; if it is one of weft-rig, say --way"),
        Some(_) if has_pairs => bail!("it has pairs, which have no --way: leave that out"),
        Some(way) => serde_json::from_str::<Scene>(text)?.pairs(way)?,
    };
    ensure!(!pairs.is_empty(), "it has no pairs: there must be one at least");
    ensure!(
        pairs.len() <= MOST_PAIRS,
        "it has {} pairs, of which there may be {MOST_PAIRS} at most",
        pairs.len()
    );
    Ok(pairs)
}

impl WrittenPair {
    fn checked(self) -> Result<Pair> {
        let tunnel = match self.tunnel {
            None => None,
            Some(WrittenTunnel { src_mac, dst_mac, src, dst, vni }) => {
                Some(Tunnel { src_mac: src_mac.0, dst_mac: dst_mac.0, src, dst, vni: Vni::new(vni)? })
            }
        };
        Ok(Pair { src_mac: self.src_mac.0, dst_mac: self.dst_mac.0, src: self.src, dst: self.dst, tunnel })
    }
}

impl Scene {
    fn pairs(&self, way: Way) -> Result<Vec<Pair>> {
        let (sender, vni) = (&self.sender, Vni::new(self.vni)?);
        let from_sender = |dst_mac: Mac, dst| Pair {
            src_mac: sender.mac.0,
            dst_mac: dst_mac.0,
            src: sender.ip,
            dst,
            tunnel: None,
        };
        // The first address that a pod can have: before it are the network's and the gateway's.
        let pod = |subnet: &Ipv4Net| Ipv4Addr::from_bits(subnet.network().to_bits().wrapping_add(2));
        let far = self.vteps.iter().flat_map(|end| end.subnets.iter().map(move |subnet| (end, pod(subnet))));
        Ok(match way {
            Way::Bridge => self.others.iter().map(|other| from_sender(other.mac, other.ip)).collect(),
            Way::Route => self.others.iter().map(|other| from_sender(self.gateway.mac, other.ip)).collect(),
            Way::Encap => far.map(|(_, pod)| from_sender(self.gateway.mac, pod)).collect(),
            Way::Decap => far
                .zip(self.others.iter().cycle())
                .map(|((end, pod), here)| Pair {
                    src_mac: end.mac.0,
                    dst_mac: self.local_vtep.mac.0,
                    src: pod,
                    dst: here.ip,
                    tunnel: Some(Tunnel {
                        src_mac: end.uplink_mac.0,
                        dst_mac: self.local_vtep.uplink_mac.0,
                        src: end.ip,
                        dst: self.local_vtep.ip,
                        vni,
                    }),
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_ranges_begin_again() {
        let ranges = Ranges {
            src_mac: macs("02:00:00:00:00:ff+2").unwrap(),
            dst_mac: macs("02:00:00:00:01:00").unwrap(),
            src: addresses("10.0.0.1+2").unwrap(),
            dst: addresses("10.0.0.254+3").unwrap(),
            tunnel: None,
        };
        let pairs = ranges.pairs().unwrap();
        let shown: Vec<_> = pairs.iter().map(|p| format!("{} {} {}", p.src_mac, p.src, p.dst)).collect();
        assert_eq!(
            shown,
            [
                "02:00:00:00:00:ff 10.0.0.1 10.0.0.254",
                "02:00:00:00:01:00 10.0.0.2 10.0.0.255",
                "02:00:00:00:00:ff 10.0.0.1 10.0.1.0"
            ]
        );
    }

    #[test]
    fn ranges_end_where_addresses_do() {
        assert!(addresses("255.255.255.255").is_ok());
        assert!(addresses("255.255.255.255+2").unwrap_err().contains("past the last"));
        assert!(macs("ff:ff:ff:ff:ff:ff+2").is_err());
        assert!(vnis("16777215").is_ok());
        assert!(vnis("16777216").is_err());
        for wrong in ["", "+", "10.0.0.1+", "10.0.0.1+0", "10.0.0.1+-1", "10.0.0.1+999999999999", "10.0.0"] {
            assert!(addresses(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_plan_says_where_it_is_wrong() {
        let one = |tunnel: &str| {
            format!(
                r#"{{"pairs":[{{"src_mac":"02:00:00:00:00:01","dst_mac":"02:00:00:00:00:02","src":"10.0.0.1","dst":"10.0.0.2"{tunnel}}}]}}"#
            )
        };
        let tunnel = r#","tunnel":{"src_mac":"02:0a:00:00:00:01","dst_mac":"02:0a:00:00:00:02","src":"172.16.0.1","dst":"172.16.0.2","vni":7}"#;
        assert_eq!(parse(&one(""), None).unwrap()[0].tunnel, None);
        assert_eq!(parse(&one(tunnel), None).unwrap()[0].tunnel.unwrap().vni.get(), 7);
        let error = |text: &str| format!("{:#}", parse(text, None).unwrap_err());
        assert!(error(&one(&tunnel.replace("7}", "16777216}"))).contains("pairs[0]: VNI 16777216"));
        assert!(error(&one("").replace(":01\"", "\"")).contains("MAC address"));
        assert!(error(&one(r#","colour":1"#)).contains("colour"));
        assert!(error(r#"{"pairs":[]}"#).contains("no pairs"));
        assert!(error("").contains("line 1"));
        assert!(error("{}").contains("--way"));
        assert!(format!("{:#}", parse(&one(""), Some(Way::Bridge)).unwrap_err()).contains("--way"));
    }

    /// What `weft-rig plan` says is understood, and is the node that its frames are for.
    #[test]
    fn a_scene_has_pairs_for_each_way() {
        let scene = weft_perf::scene::Scene::new(weft_perf::scene::Sizes::default()).unwrap();
        let text = scene.plan().to_string();
        let pairs = |way| parse(&text, Some(way)).unwrap();
        let plan = scene.plan();
        let gateway = plan["gateway"]["mac"].as_str().unwrap();
        for (way, to_gateway, tunnelled) in [
            (Way::Bridge, false, false),
            (Way::Route, true, false),
            (Way::Encap, true, false),
            (Way::Decap, false, true),
        ] {
            let pairs = pairs(way);
            assert!(pairs.len() >= 99, "{way:?}");
            for pair in &pairs {
                assert_eq!(pair.dst_mac.to_string() == gateway, to_gateway, "{way:?}");
                assert_eq!(pair.tunnel.is_some(), tunnelled, "{way:?}");
                assert_eq!(
                    pair.src.to_string() == plan["sender"]["ip"].as_str().unwrap(),
                    !tunnelled,
                    "{way:?}"
                );
            }
        }
        assert!(parse("{\"vni\": 1}", Some(Way::Route)).is_err());
    }
}
