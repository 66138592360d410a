//! How a pod is attached, in the words of the desired state, of the API and of the state directory, and the ways
//! between them.

use ipnet::IpNet;
use serde_json::{Map, Value};
use weft_api::{Bandwidth as ApiBandwidth, Cni, PodPort as ApiPort, PodSpec};
use weft_node::{StoredAttachment, StoredPod};
use weft_switch::types::{BitRate, MacAddr, Mtu};

use crate::model::{Attachment, Bandwidth, Node, Pod, PodRoute, RateLimit, VhostMode};

/// The state file's words for what not every pod has.
const TRUSTED: &str = "trusted";
const MTU: &str = "mtu";
const ROUTES: &str = "routes";
const CNI: &str = "cni";
const BANDWIDTH: &str = "bandwidth";

/// What the attachment is called in the API and in the state.
pub(super) fn kind(attachment: &Attachment) -> &'static str {
    match attachment {
        Attachment::Tap { .. } => "tap",
        Attachment::VhostUser { .. } => "vhost-user",
        Attachment::Dpdk { .. } => "dpdk",
    }
}

/// As the API shows it.
pub(super) fn shown(attachment: &Attachment) -> ApiPort {
    match attachment {
        Attachment::Tap { netns, ifname } => ApiPort::Tap { netns: netns.clone(), ifname: ifname.clone() },
        Attachment::VhostUser { socket, mode } => ApiPort::VhostUser {
            socket: socket.clone(),
            mode: match mode {
                VhostMode::Client => weft_api::VhostMode::Client,
                VhostMode::Server => weft_api::VhostMode::Server,
            },
        },
        Attachment::Dpdk { devargs } => ApiPort::Dpdk { devargs: devargs.clone() },
    }
}

fn asked_for(port: &ApiPort) -> Attachment {
    match port {
        ApiPort::Tap { netns, ifname } => Attachment::Tap { netns: netns.clone(), ifname: ifname.clone() },
        ApiPort::VhostUser { socket, mode } => Attachment::VhostUser {
            socket: socket.clone(),
            mode: match mode {
                weft_api::VhostMode::Client => VhostMode::Client,
                weft_api::VhostMode::Server => VhostMode::Server,
            },
        },
        ApiPort::Dpdk { devargs } => Attachment::Dpdk { devargs: devargs.clone() },
    }
}

/// A specification has been checked; what is wrong all the same is no limit.
fn wanted_bandwidth(asked: &ApiBandwidth) -> Bandwidth {
    let limit = |rate: Option<u64>, burst| Some(RateLimit { rate: BitRate::new(rate?).ok()?, burst });
    Bandwidth {
        ingress: limit(asked.ingress_rate, asked.ingress_burst),
        egress: limit(asked.egress_rate, asked.egress_burst),
    }
}

/// Limits as the API shows them.
pub(super) fn shown_bandwidth(bandwidth: &Bandwidth) -> ApiBandwidth {
    let Bandwidth { ingress, egress } = bandwidth;
    ApiBandwidth {
        ingress_rate: ingress.map(|limit| limit.rate.get()),
        ingress_burst: ingress.and_then(|limit| limit.burst),
        egress_rate: egress.map(|limit| limit.rate.get()),
        egress_burst: egress.and_then(|limit| limit.burst),
    }
}

/// The pod of the node called `node` that a specification asks for, with the prefix lengths that the subnets of the node
/// have.
pub(super) fn wanted(spec: &PodSpec, node: &str, own: Option<&Node>) -> Pod {
    let net = |address| match own.and_then(|own| own.subnet_of(address)) {
        Some(subnet) => IpNet::new(address, subnet.prefix_len()).unwrap_or_else(|_| address.into()),
        None => IpNet::from(address),
    };
    let mut pod = Pod {
        name: spec.name.clone(),
        node: node.to_owned(),
        attachment: asked_for(&spec.port),
        addresses: spec.addresses.iter().copied().map(net).collect(),
        mac: spec.mac.map(|mac| MacAddr(mac.0)),
        trusted: spec.trusted,
        mtu: spec.mtu.and_then(|mtu| Mtu::new(mtu).ok()),
        routes: spec.routes.as_ref().map(|routes| {
            routes.iter().map(|route| PodRoute { to: route.to.trunc(), via: route.via }).collect()
        }),
        bandwidth: wanted_bandwidth(&spec.bandwidth),
    };
    pod.mac = Some(pod.mac_or_derived());
    pod
}

/// A pod as the state directory holds it.
pub(super) fn store(pod: &Pod, cni: Option<&Cni>) -> StoredPod {
    let mut fields = match serde_json::to_value(&pod.attachment) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.remove("kind");
    let mut more = Map::new();
    if pod.trusted {
        more.insert(TRUSTED.to_owned(), Value::Bool(true));
    }
    if let Some(mtu) = pod.mtu {
        more.insert(MTU.to_owned(), mtu.get().into());
    }
    let routes = pod.routes.as_ref().and_then(|routes| serde_json::to_value(routes).ok());
    more.extend(routes.map(|routes| (ROUTES.to_owned(), routes)));
    if !pod.bandwidth.is_unlimited() {
        more.extend(serde_json::to_value(pod.bandwidth).ok().map(|limits| (BANDWIDTH.to_owned(), limits)));
    }
    let cni = cni.and_then(|cni| serde_json::to_value(cni).ok());
    more.extend(cni.map(|cni| (CNI.to_owned(), cni)));
    StoredPod {
        name: pod.name.clone(),
        attachment: StoredAttachment { kind: kind(&pod.attachment).to_owned(), fields },
        addresses: pod.addresses.iter().map(ToString::to_string).collect(),
        mac: pod.mac_or_derived().to_string(),
        more,
    }
}

/// A pod from the state directory, of this node, and the attachment that it is.
pub(super) fn restore(stored: &StoredPod, node: &str) -> Result<(Pod, Option<Cni>), String> {
    let wrong = |what: &str| format!("pod {}: its stored {what} cannot be read", stored.name);
    let more = |word: &str| stored.more.get(word).cloned();
    let mtu = more(MTU).map(|mtu| mtu.as_u64().and_then(|mtu| Mtu::new(mtu.try_into().ok()?).ok()));
    let routes = more(ROUTES).map(serde_json::from_value).transpose().map_err(|_| wrong("routes"))?;
    let bandwidth = more(BANDWIDTH).map(serde_json::from_value).transpose();
    let cni = more(CNI).map(serde_json::from_value).transpose().map_err(|_| wrong("CNI attachment"))?;
    let mut fields = stored.attachment.fields.clone();
    fields.insert("kind".to_owned(), Value::String(stored.attachment.kind.clone()));
    let attachment = serde_json::from_value(Value::Object(fields)).map_err(|_| wrong("attachment"))?;
    let addresses: Result<Vec<IpNet>, _> = stored.addresses.iter().map(|text| text.parse()).collect();
    let pod = Pod {
        name: stored.name.clone(),
        node: node.to_owned(),
        attachment,
        addresses: addresses.map_err(|_| wrong("addresses"))?,
        mac: Some(stored.mac.parse().map_err(|_| wrong("MAC address"))?),
        trusted: more(TRUSTED).is_some_and(|trusted| trusted == Value::Bool(true)),
        mtu: mtu.map(|mtu| mtu.ok_or_else(|| wrong("MTU"))).transpose()?,
        routes,
        bandwidth: bandwidth.map_err(|_| wrong("bandwidth"))?.unwrap_or_default(),
    };
    Ok((pod, cni))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_the_same_after_a_restart() {
        let cni = Cni {
            network: "cbr0".to_owned(),
            container: "c1".to_owned(),
            ifname: "net1".to_owned(),
            netns: "/run/netns/a".into(),
            namespace: Some("web".to_owned()),
            pod: None,
        };
        let route = weft_api::PodRoute { to: "10.244.3.0/16".parse().unwrap(), via: None };
        let bandwidth = ApiBandwidth {
            ingress_rate: Some(1_000_000),
            ingress_burst: Some(8000),
            egress_rate: Some(5000),
            egress_burst: None,
        };
        for (port, trusted, mtu, routes, cni) in [
            (
                ApiPort::Tap { netns: "/run/netns/a".into(), ifname: "net1".into() },
                false,
                Some(1400),
                Some(vec![route]),
                Some(cni),
            ),
            (
                ApiPort::VhostUser { socket: "/run/s".into(), mode: weft_api::VhostMode::Server },
                true,
                None,
                None,
                None,
            ),
            (ApiPort::Dpdk { devargs: "net_null0".into() }, true, None, Some(Vec::new()), None),
        ] {
            let addresses = vec!["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
            let name = "a".to_owned();
            let bandwidth = if trusted { ApiBandwidth::default() } else { bandwidth };
            let (asked, mac) = (port.clone(), None);
            let spec = PodSpec { name, port: asked, addresses, mac, trusted, mtu, routes, cni, bandwidth };
            let pod = wanted(&spec, "n1", None);
            assert_eq!(shown_bandwidth(&pod.bandwidth), bandwidth);
            assert_eq!(shown(&pod.attachment), port);
            assert_eq!(restore(&store(&pod, spec.cni.as_ref()), "n1"), Ok((pod, spec.cni)));
        }
    }
}
