//! The backends and their keys.

use super::NetConfError;
use crate::go_json::Object;
use weft_types::Vni;

/// How nodes reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// VXLAN in UDP.
    Vxlan(Vxlan),
    /// Plain packets to the node as next hop.
    HostGw,
    /// IPv4 packets in UDP, without a header between.
    Udp {
        /// The UDP port of all nodes.
        port: u16,
    },
    /// IPv4 in IPv4.
    Ipip {
        /// Plain packets to nodes on the same link.
        direct_routing: bool,
    },
    /// Subnets are leased, and nobody carries packets.
    Alloc,
}

/// The keys of `vxlan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The VNI.
    pub vni: Vni,
    /// The UDP port.
    pub port: u16,
    /// The underlay's MTU in bytes, from which the tunnel's headers are subtracted. None: that of the interface.
    pub mtu: Option<u32>,
    /// Plain packets to nodes on the same link.
    pub direct_routing: bool,
}

impl Vxlan {
    /// The port where none is given or 0: the Linux kernel's.
    pub const DEFAULT_PORT: u16 = 8472;
}

impl Backend {
    /// Reads the `Backend` object; none is `udp`, as in flannel.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, NetConfError> {
        const UDP_PORT: u16 = 8285;
        let Some(text) = text else { return Ok(Self::Udp { port: UDP_PORT }) };
        let object = Object::parse(text).map_err(|error| NetConfError::Json(format!("Backend: {error}")))?;
        let kind: String = object.get("Type")?.unwrap_or_default();
        let flag = |key| object.get::<bool>(key).map(Option::unwrap_or_default);
        let refused = |reason| Err(NetConfError::Backend { found: kind.clone(), reason });
        match kind.to_lowercase().as_str() {
            "vxlan" => {
                if flag("GBP")? {
                    let reason = "weft does not carry group policy, and nodes with and without it do not \
                                  understand each other; set it to false on all nodes";
                    return Err(NetConfError::Option { key: "GBP", reason });
                }
                let number = object.get::<u32>("VNI")?.unwrap_or(1);
                let vni = Vni::new(number).map_err(|error| crate::go_json::WrongValue {
                    key: "VNI",
                    found: number.to_string(),
                    reason: error.to_string(),
                })?;
                Ok(Self::Vxlan(Vxlan {
                    vni,
                    port: object.get::<u16>("Port")?.filter(|port| *port != 0).unwrap_or(Vxlan::DEFAULT_PORT),
                    mtu: object.get::<u32>("MTU")?.filter(|mtu| *mtu != 0),
                    direct_routing: flag("DirectRouting")?,
                }))
            }
            "host-gw" => Ok(Self::HostGw),
            "udp" => {
                let port = object.get::<u16>("Port")?.filter(|port| *port != 0).unwrap_or(UDP_PORT);
                Ok(Self::Udp { port })
            }
            "ipip" => Ok(Self::Ipip { direct_routing: flag("DirectRouting")? }),
            "alloc" => Ok(Self::Alloc),
            "wireguard" | "ipsec" => {
                refused("weft does not encrypt; use vxlan or host-gw, or keep flanneld here")
            }
            "extension" => {
                refused("weft runs no commands for packets; use vxlan or host-gw, or keep flanneld here")
            }
            "tencent-vpc" => {
                refused("weft sets no routes of clouds; use vxlan or host-gw, or keep flanneld here")
            }
            "" => refused("it is missing; set it to \"vxlan\" or \"host-gw\""),
            _ => refused("flannel knows no such backend; use \"vxlan\" or \"host-gw\""),
        }
    }

    /// Its name, as in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::HostGw => "host-gw",
            Self::Udp { .. } => "udp",
            Self::Ipip { .. } => "ipip",
            Self::Alloc => "alloc",
        }
    }

    /// What a node publishes as its backend's type: flannel leaves it empty for two of them.
    pub fn published_type(&self) -> &'static str {
        match self {
            Self::Udp { .. } | Self::Alloc => "",
            other => other.name(),
        }
    }

    /// How many bytes its headers take, by flannel's arithmetic: 50 for VXLAN, whatever the underlay is.
    pub fn overhead(&self) -> u32 {
        match self {
            Self::Vxlan(_) => 50,
            Self::Udp { .. } => 28,
            Self::Ipip { .. } => 20,
            Self::HostGw | Self::Alloc => 0,
        }
    }
}
