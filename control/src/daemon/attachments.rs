//! How a pod is attached, in the words of the desired state, of the API and of the state directory, and the ways
//! between them.

use ipnet::IpNet;
use serde_json::{Map, Value};
use weft_api::{PodPort as ApiPort, PodSpec};
use weft_node::{StoredAttachment, StoredPod};
use weft_switch::types::MacAddr;

use crate::model::{Attachment, Node, Pod, VhostMode};

/// The state file's word for a trusted pod.
const TRUSTED: &str = "trusted";

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
    };
    pod.mac = Some(pod.mac_or_derived());
    pod
}

/// A pod as the state directory holds it.
pub(super) fn store(pod: &Pod) -> StoredPod {
    let mut fields = match serde_json::to_value(&pod.attachment) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.remove("kind");
    let mut more = Map::new();
    if pod.trusted {
        more.insert(TRUSTED.to_owned(), Value::Bool(true));
    }
    StoredPod {
        name: pod.name.clone(),
        attachment: StoredAttachment { kind: kind(&pod.attachment).to_owned(), fields },
        addresses: pod.addresses.iter().map(ToString::to_string).collect(),
        mac: pod.mac_or_derived().to_string(),
        more,
    }
}

/// A pod from the state directory, of this node.
pub(super) fn restore(stored: &StoredPod, node: &str) -> Result<Pod, String> {
    let wrong = |what: &str| format!("pod {}: its stored {what} cannot be read", stored.name);
    let mut fields = stored.attachment.fields.clone();
    fields.insert("kind".to_owned(), Value::String(stored.attachment.kind.clone()));
    let attachment = serde_json::from_value(Value::Object(fields)).map_err(|_| wrong("attachment"))?;
    let addresses: Result<Vec<IpNet>, _> = stored.addresses.iter().map(|text| text.parse()).collect();
    Ok(Pod {
        name: stored.name.clone(),
        node: node.to_owned(),
        attachment,
        addresses: addresses.map_err(|_| wrong("addresses"))?,
        mac: Some(stored.mac.parse().map_err(|_| wrong("MAC address"))?),
        trusted: stored.more.get(TRUSTED).and_then(Value::as_bool).unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_the_same_after_a_restart() {
        for (port, trusted) in [
            (ApiPort::Tap { netns: "/run/netns/a".into(), ifname: "net1".into() }, false),
            (ApiPort::VhostUser { socket: "/run/s".into(), mode: weft_api::VhostMode::Server }, true),
            (ApiPort::Dpdk { devargs: "net_null0".into() }, true),
        ] {
            let addresses = vec!["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
            let spec = PodSpec { name: "a".into(), port: port.clone(), addresses, mac: None, trusted };
            let pod = wanted(&spec, "n1", None);
            assert_eq!(shown(&pod.attachment), port);
            assert_eq!(restore(&store(&pod), "n1"), Ok(pod));
        }
    }
}
