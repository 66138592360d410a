//! Who may stand in the frames that a node gets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use weft_switch::types::MacAddr;

use crate::frames::{Cast, Wrap};
use crate::tables::{
    GATEWAY, HOST, Node, OWN_VTEPS, ROUTER, SECOND, STRANGERS, Station, UPLINK, gateways, v6,
};

impl Node {
    /// MAC addresses of the segment that are configured.
    pub fn macs(&self) -> Vec<MacAddr> {
        let pods = self.doors.iter().filter_map(|door| door.station.pod().map(|(mac, _)| mac));
        pods.chain([GATEWAY, HOST]).collect()
    }

    /// Who may stand in a frame that comes in here. For the uplink: in the inner one.
    pub fn cast(&self, from: usize) -> Cast {
        let mut all: Vec<IpAddr> = gateways().to_vec();
        for door in &self.doors {
            all.extend(door.station.pod().map_or(&[][..], |(_, addresses)| addresses));
        }
        let learned = self.learned.iter().map(|(address, ..)| *address);
        let unheard: [IpAddr; 4] = [
            Ipv4Addr::new(10, 244, 0, 200).into(),
            Ipv4Addr::new(10, 244, SECOND, 200).into(),
            v6(200, 0).into(),
            v6(200, SECOND.into()).into(),
        ];
        let far = (1..=3u8)
            .flat_map(|net| [IpAddr::from(Ipv4Addr::new(10, 244, net, 7)), v6(7, net.into()).into()]);
        let world: [IpAddr; 5] = [
            Ipv4Addr::new(192, 0, 2, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            Ipv4Addr::new(10, 244, 9, 9).into(),
            Ipv4Addr::BROADCAST.into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        ];
        let mut dst = all.clone();
        dst.extend(far.clone().chain(world).chain(unheard).chain(learned.clone()));
        let mut dst_macs = self.macs();
        dst_macs.extend([GATEWAY, GATEWAY, MacAddr::BROADCAST, MacAddr([0x33, 0x33, 0, 0, 0, 1])]);
        dst_macs.extend(STRANGERS);
        dst_macs.push(MacAddr([1, 0x80, 0xc2, 0, 0, 2]));
        match &self.doors[from].station {
            Station::Pod { mac, addresses } => {
                let mut src = addresses.clone();
                src.push(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x55).into());
                Cast { src_macs: vec![*mac], dst_macs, src, dst }
            }
            Station::Trusted { mac, addresses } => {
                let src = addresses.iter().copied().chain(unheard).chain(learned).chain(world).collect();
                let mut src_macs = vec![*mac; 6];
                src_macs.extend([STRANGERS, STRANGERS].concat());
                src_macs.extend(self.macs());
                Cast { src_macs, dst_macs, src, dst }
            }
            Station::Host => {
                let src = gateways().into_iter().chain(world).collect();
                Cast { src_macs: vec![HOST], dst_macs, src, dst }
            }
            Station::Uplink => {
                let macs = self.vteps.iter().map(|far| far.mac).collect();
                Cast { src_macs: macs, dst_macs: OWN_VTEPS.to_vec(), src: far.chain(world).collect(), dst }
            }
        }
    }

    /// How a peer wraps what it sends to this node.
    pub fn wrap(&self, u: &mut Unstructured<'_>) -> Result<Wrap> {
        let mut peers: Vec<_> = self.vteps.iter().map(|far| (far.address, far.network)).collect();
        peers.push((Ipv4Addr::new(172, 16, 0, 99).into(), 0));
        let (src, network) = *u.choose(&peers)?;
        let network = if u.ratio(1, 16)? { 1 - network } else { network };
        let vni = if u.ratio(1, 16)? { u.arbitrary::<u32>()? >> 8 } else { self.vnis[network].get() };
        let port = if u.ratio(1, 16)? { 4789 } else { self.port };
        Ok(Wrap { macs: [UPLINK, ROUTER], src, dst: self.own_address(src), port, vni })
    }
}
