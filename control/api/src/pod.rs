//! Pods: what one is asked for with, and what it is.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{DEFAULT_IFNAME, Mac};

/// How a pod is attached. In JSON the field `kind` and the fields of that kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PodPort {
    /// An ordinary pod: a TAP interface in its network namespace.
    Tap {
        /// The namespace's file, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        netns: PathBuf,
        /// The interface's name in it; `eth0` where a specification leaves it out.
        #[cfg_attr(feature = "openapi", schema(required = false))]
        ifname: String,
    },
    /// A virtual machine: a vhost-user socket.
    VhostUser {
        /// The socket.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        socket: PathBuf,
        /// Who listens on it.
        mode: VhostMode,
    },
    /// A DPDK device.
    Dpdk {
        /// As DPDK takes it, such as `net_memif0,role=server,socket=/run/weft/memif.sock`.
        devargs: String,
    },
}

impl PodPort {
    /// As in JSON: `tap`, `vhost-user` or `dpdk`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tap { .. } => "tap",
            Self::VhostUser { .. } => "vhost-user",
            Self::Dpdk { .. } => "dpdk",
        }
    }
}

/// Who listens on a vhost-user socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VhostMode {
    /// The virtual machine monitor listens, weft connects; again and again until it is there.
    Client,
    /// weft listens, the virtual machine monitor connects.
    Server,
}

/// The answer to `GET /v1/pods`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pods {
    /// In the order of their names.
    pub pods: Vec<Pod>,
}

/// A pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pod {
    /// Its name, unique on the node.
    pub name: String,
    /// This node.
    pub node: String,
    /// How it is attached.
    #[serde(flatten)]
    pub port: PodPort,
    /// The addresses that it may send from.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpAddr>,
    /// The MAC address that it may send from.
    pub mac: Mac,
    /// Whether it may send from any address, such as a virtual machine that bridges or routes for others.
    pub trusted: bool,
    /// The number of its port; null while it has none.
    pub port_id: Option<u16>,
    /// MTU of its interface, in bytes of IP packet.
    pub mtu: u32,
    /// Who asked for it.
    pub origin: Origin,
    /// Whether it can be reached.
    pub state: PodState,
    /// Why it failed; null when it did not.
    pub error: Option<String>,
    /// The attachment of a container runtime that it is; null where somebody else asked for it.
    #[serde(default)]
    pub cni: Option<Cni>,
    /// How fast it may receive and send: as in force, by whoever said so.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// An attachment as CNI has it: what a container runtime asks for, and takes back, by its container and interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Cni {
    /// The name of the network configuration.
    pub network: String,
    /// The runtime's name for the container.
    pub container: String,
    /// The interface in the container.
    pub ifname: String,
    /// The container's network namespace. The pod goes when this does, for nobody else may be left to say so.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub netns: PathBuf,
    /// The Kubernetes namespace; null without Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The Kubernetes pod; null without Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// How fast a pod may receive (ingress) and send (egress); null where it may as fast as it can. Bytes on the wire count, with Ethernet
/// headers. A burst needs its rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// In bits a second, 1,000 to 10^15.
    #[serde(default)]
    pub ingress_rate: Option<u64>,
    /// In bits; null or less: what the rate brings in 10 ms.
    #[serde(default)]
    pub ingress_burst: Option<u64>,
    /// In bits a second, 1,000 to 10^15.
    #[serde(default)]
    pub egress_rate: Option<u64>,
    /// In bits; null or less: what the rate brings in 10 ms.
    #[serde(default)]
    pub egress_burst: Option<u64>,
}

impl Bandwidth {
    /// Nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with it.
    fn check(&self) -> Result<(), &'static str> {
        for (rate, burst) in [(self.ingress_rate, self.ingress_burst), (self.egress_rate, self.egress_burst)]
        {
            if rate.is_some_and(|rate| !(1_000..=1_000_000_000_000_000).contains(&rate)) {
                return Err("a rate is within 1,000 and 10^15 bit/s");
            }
            if rate.is_none() && burst.is_some() {
                return Err("a burst needs its rate");
            }
        }
        Ok(())
    }
}

/// A route inside a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PodRoute {
    /// The destinations.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub to: IpNet,
    /// The next hop; left out, the gateway of the pod's subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub via: Option<IpAddr>,
}

/// Who asked for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The file with the desired state; only there can it be removed.
    File,
    /// This API.
    Api,
}

/// Whether a pod can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PodState {
    /// Its port forwards.
    Up,
    /// weft is ready, the other side of its port is not there yet.
    Waiting,
    /// It has no port; [`Pod::error`] says why.
    Failed,
}

/// A pod that is asked for: the body of `POST /v1/pods`.
///
/// Reading it checks its shape: the name, a field of another kind or of none, and that there is an address. What
/// depends on the node (subnets, addresses that are taken) the daemon checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "AnySpec")]
pub struct PodSpec {
    /// Unique on the node: 1 to 128 letters, digits, `-`, `_` and `.`, the first a letter or a digit.
    pub name: String,
    /// How it is to be attached.
    #[serde(flatten)]
    pub port: PodPort,
    /// At least one, without a prefix length: the network's subnet gives it.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpAddr>,
    /// Left out, the daemon derives one from the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Whether it may send from any address. What it sends from is learned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trusted: bool,
    /// MTU of its interface, in bytes of IP packet, 576 to 65535; what is more than the network's counts as that. Left out, the
    /// network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The routes inside an ordinary pod. Left out, the default routes by the gateways of its subnets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<PodRoute>>,
    /// The attachment of a container runtime that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<Cni>,
    /// How fast it may receive and send. Left out, as fast as it can.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

/// Why a [`PodSpec`] has the wrong shape.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// A name that can't be one.
    #[error(
        "{0:?} is no pod name: 1 to 128 letters, digits, '-', '_' and '.', the first a letter or a digit"
    )]
    Name(String),
    /// A kind that there is not.
    #[error("pod {pod}: unknown kind {kind:?}; there are tap, vhost-user and dpdk")]
    Kind {
        /// The pod.
        pod: String,
        /// As given.
        kind: String,
    },
    /// A field that the kind needs.
    #[error("pod {pod}: kind {kind} needs {field}")]
    Missing {
        /// The pod.
        pod: String,
        /// Its kind.
        kind: String,
        /// What is missing.
        field: &'static str,
    },
    /// A field of another kind.
    #[error("pod {pod}: kind {kind} has no {field}")]
    Foreign {
        /// The pod.
        pod: String,
        /// Its kind.
        kind: String,
        /// What is too much.
        field: &'static str,
    },
    /// No address.
    #[error("pod {0}: it needs at least one address")]
    NoAddress(String),
    /// A MAC address that no pod can have.
    #[error("pod {pod}: {mac} is a group address or zero; a pod needs a MAC address of its own")]
    Mac {
        /// The pod.
        pod: String,
        /// As given.
        mac: Mac,
    },
    /// A limit that can't be.
    #[error("pod {pod}: bandwidth: {reason}")]
    Bandwidth {
        /// The pod.
        pod: String,
        /// Why not.
        reason: &'static str,
    },
    /// An MTU that no interface can have.
    #[error("pod {pod}: an MTU of {mtu} is not within 576 to 65535")]
    Mtu {
        /// The pod.
        pod: String,
        /// As given.
        mtu: u32,
    },
}

/// The fields of every kind: serde refuses unknown fields only in a plain structure.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnySpec {
    name: String,
    kind: String,
    netns: Option<PathBuf>,
    ifname: Option<String>,
    socket: Option<PathBuf>,
    mode: Option<VhostMode>,
    devargs: Option<String>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    mac: Option<Mac>,
    #[serde(default)]
    trusted: bool,
    mtu: Option<u32>,
    routes: Option<Vec<PodRoute>>,
    cni: Option<Cni>,
    #[serde(default)]
    bandwidth: Bandwidth,
}

/// Whether a pod can have this name: 1 to 128 letters, digits, `-`, `_` and `.`, the first a letter or a digit.
pub fn is_pod_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

impl PodSpec {
    /// Checks what does not depend on the node.
    pub fn check(&self) -> Result<(), SpecError> {
        if !is_pod_name(&self.name) {
            return Err(SpecError::Name(self.name.clone()));
        }
        if self.addresses.is_empty() {
            return Err(SpecError::NoAddress(self.name.clone()));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !(576..=65535).contains(mtu)) {
            return Err(SpecError::Mtu { pod: self.name.clone(), mtu });
        }
        if let Err(reason) = self.bandwidth.check() {
            return Err(SpecError::Bandwidth { pod: self.name.clone(), reason });
        }
        match self.mac {
            Some(mac) if mac.0[0] & 1 != 0 || mac.0 == [0; 6] => {
                Err(SpecError::Mac { pod: self.name.clone(), mac })
            }
            _ => Ok(()),
        }
    }
}

impl TryFrom<AnySpec> for PodSpec {
    type Error = SpecError;

    fn try_from(any: AnySpec) -> Result<Self, SpecError> {
        let AnySpec { name, kind, netns, ifname, socket, mode, devargs, .. } = any;
        let (addresses, mac, trusted) = (any.addresses, any.mac, any.trusted);
        if !is_pod_name(&name) {
            return Err(SpecError::Name(name));
        }
        let missing = |field| SpecError::Missing { pod: name.clone(), kind: kind.clone(), field };
        let given = [
            ("netns", netns.is_some(), "tap"),
            ("ifname", ifname.is_some(), "tap"),
            ("socket", socket.is_some(), "vhost-user"),
            ("mode", mode.is_some(), "vhost-user"),
            ("devargs", devargs.is_some(), "dpdk"),
            ("routes", any.routes.is_some(), "tap"),
        ];
        let foreign = given.iter().find(|(_, given, owner)| *given && *owner != kind);
        let port = match kind.as_str() {
            "tap" => PodPort::Tap {
                netns: netns.ok_or_else(|| missing("netns"))?,
                ifname: ifname.unwrap_or_else(|| DEFAULT_IFNAME.to_owned()),
            },
            "vhost-user" => PodPort::VhostUser {
                socket: socket.ok_or_else(|| missing("socket"))?,
                mode: mode.ok_or_else(|| missing("mode"))?,
            },
            "dpdk" => PodPort::Dpdk { devargs: devargs.ok_or_else(|| missing("devargs"))? },
            _ => return Err(SpecError::Kind { pod: name, kind }),
        };
        if let Some((field, ..)) = foreign {
            return Err(SpecError::Foreign { pod: name, kind, field });
        }
        let (mtu, routes, cni, bandwidth) = (any.mtu, any.routes, any.cni, any.bandwidth);
        let spec = Self { name, port, addresses, mac, trusted, mtu, routes, cni, bandwidth };
        spec.check()?;
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PodSpec, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn each_kind_reads_back_as_it_was_written() {
        for text in [
            r#"{"name":"a","kind":"tap","netns":"/run/netns/a","ifname":"net1","addresses":["10.1.0.2","fd00::2"]}"#,
            r#"{"name":"b","kind":"vhost-user","socket":"/run/b","mode":"client","addresses":["10.1.0.3"],"mac":"02:00:00:00:00:01"}"#,
            r#"{"name":"c","kind":"dpdk","devargs":"net_null0","addresses":["10.1.0.4"],"trusted":true}"#,
            r#"{"name":"d","kind":"tap","netns":"/n","ifname":"eth0","addresses":["10.1.0.2"],"mtu":1400,"routes":[{"to":"0.0.0.0/0"},{"to":"10.0.0.0/8","via":"10.1.0.1"}],"cni":{"network":"cbr0","container":"c1","ifname":"eth0","netns":"/n","pod":"web"}}"#,
            r#"{"name":"e","kind":"dpdk","devargs":"net_null1","addresses":["10.1.0.4"],"bandwidth":{"ingress_rate":1000000,"ingress_burst":8000,"egress_rate":null,"egress_burst":null}}"#,
        ] {
            let spec = parse(text).unwrap();
            assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        }
    }

    #[test]
    fn a_tap_without_a_name_for_its_interface_gets_the_usual_one() {
        let spec = parse(r#"{"name":"a","kind":"tap","netns":"/n","addresses":["10.1.0.2"]}"#).unwrap();
        assert_eq!(spec.port, PodPort::Tap { netns: "/n".into(), ifname: "eth0".into() });
    }

    #[test]
    fn a_wrong_shape_is_refused_and_named() {
        let long = format!(r#"{{"name":"{}","kind":"tap"}}"#, "a".repeat(129));
        for (text, says) in [
            (r#"{"name":"a/b","kind":"tap"}"#, "no pod name"),
            (r#"{"name":"","kind":"tap"}"#, "no pod name"),
            (r#"{"name":"..","kind":"tap"}"#, "no pod name"),
            (long.as_str(), "no pod name"),
            (r#"{"name":"a","kind":"veth"}"#, "unknown kind \"veth\""),
            (r#"{"name":"a","kind":"tap","addresses":["10.1.0.2"]}"#, "kind tap needs netns"),
            (r#"{"name":"a","kind":"tap","netns":"/n"}"#, "at least one address"),
            (r#"{"name":"a","kind":"tap","netns":"/n","addresses":["10.1.0.256"]}"#, "invalid IP address"),
            (r#"{"name":"a","kind":"tap","netns":"/n","mode":"client","addresses":["10.1.0.2"]}"#, "no mode"),
            (r#"{"name":"a","kind":"tap","netns":"/n","adress":["10.1.0.2"]}"#, "unknown field `adress`"),
            (r#"{"name":"a","kind":"tap","netns":"/n","addresses":["10.1.0.2"],"mtu":575}"#, "MTU of 575"),
            (r#"{"name":"a","kind":"dpdk","devargs":"x","addresses":["10.1.0.2"],"routes":[]}"#, "no routes"),
            (
                r#"{"name":"a","kind":"dpdk","devargs":"x","addresses":["10.1.0.2"],"bandwidth":{"egress_rate":999}}"#,
                "within 1,000",
            ),
            (
                r#"{"name":"a","kind":"dpdk","devargs":"x","addresses":["10.1.0.2"],"bandwidth":{"egress_burst":9999}}"#,
                "needs its rate",
            ),
            (
                r#"{"name":"a","kind":"dpdk","devargs":"x","addresses":["10.1.0.2"],"mac":"01:00:00:00:00:00"}"#,
                "group",
            ),
            (
                r#"{"name":"a","kind":"dpdk","devargs":"x","addresses":["10.1.0.2"],"mac":"1"}"#,
                "no MAC address",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
