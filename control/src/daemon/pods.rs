//! Pods: which ports are opened and closed for them, and how they are remembered.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ipnet::IpNet;
use serde_json::{Map, Value};
use tracing::{info, warn};
use weft_node::{PodInterface, StoredAttachment, StoredPod, configure_pod};
use weft_switch::tables::Place;

use super::{Daemon, PodPort, tap_mtu};
use crate::compile::{OpenPort, pod_mtu};
use crate::model::{Attachment, Model, Pod, gateway, validate};
use crate::ports::open_pod;

/// Everything that is wrong with the model, in one text.
pub(super) fn check(model: &Model, node: &str) -> Result<(), String> {
    validate(model, node).map_err(|wrong| {
        let lines: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })
}

/// What tells one network namespace from another: its device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NetnsId(u64, u64);

/// The network namespace that an ordinary pod is in at this time.
fn netns_of(attachment: &Attachment) -> Option<NetnsId> {
    let Attachment::Tap { netns, .. } = attachment else { return None };
    fs::metadata(netns).ok().map(|there| NetnsId(there.dev(), there.ino()))
}

impl PodPort {
    /// The namespace of its interface is gone, or another one has its place.
    pub(super) fn has_lost_netns(&self) -> bool {
        self.netns != netns_of(&self.pod.attachment)
    }
}

impl Daemon {
    /// Closes the ports of pods whose attachment, MTU or namespace is another one now, so that they can be opened anew.
    pub(super) async fn close_changed(&mut self, model: &Model) {
        let mtu = pod_mtu(model, self.mirror.uplink().mtu);
        let mut changed = Vec::new();
        for pod in model.pods_of(&self.node) {
            let other = |open: &PodPort| {
                open.pod.attachment != pod.attachment || open.mtu != mtu || open.has_lost_netns()
            };
            if self.pods.get(&pod.name).is_some_and(other)
                && let Some(open) = self.pods.remove(&pod.name)
            {
                // The device itself goes only if it is not the one that the pod is to have.
                changed.push((open.port.id, open.pod.attachment != pod.attachment));
            }
        }
        if changed.is_empty() {
            return;
        }
        self.publish(model);
        for (id, delete) in changed {
            self.dataplane.remove(id, delete).await;
        }
    }

    /// Forgets the pods that are no longer desired; their ports are to be removed.
    pub(super) fn take_unwanted(&mut self, model: &Model) -> Vec<weft_switch::types::PortId> {
        let wanted: std::collections::HashSet<_> = model.pods_of(&self.node).map(|pod| &pod.name).collect();
        self.failed.retain(|name, _| wanted.contains(name));
        let gone: Vec<_> = self.pods.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        gone.into_iter()
            .filter_map(|name| {
                info!("pod {name}: removed");
                self.pods.remove(&name).map(|open| open.port.id)
            })
            .collect()
    }

    /// Opens the ports of pods that have none, and brings the interfaces inside the others into line.
    pub(super) async fn open_missing(&mut self, model: &Model) {
        let mtu = pod_mtu(model, self.mirror.uplink().mtu);
        let pods: Vec<Pod> = model.pods_of(&self.node).cloned().collect();
        for pod in pods {
            let name = pod.name.clone();
            let done = match self.pods.get_mut(&name) {
                Some(open) if open.pod == pod => Ok(()),
                Some(open) => {
                    let outcome = configure(model, &self.node, &pod, mtu).await;
                    if outcome.is_ok() {
                        open.pod = pod;
                    }
                    outcome
                }
                None => self.open_one(model, pod, mtu).await,
            };
            match done {
                Ok(()) => drop(self.failed.remove(&name)),
                Err(error) => {
                    if self.failed.get(&name) != Some(&error) {
                        warn!("pod {name}: {error}");
                    }
                    self.failed.insert(name, error);
                }
            }
        }
    }

    async fn open_one(&mut self, model: &Model, pod: Pod, mtu: u32) -> Result<(), String> {
        // Looked at before: if another takes its place meanwhile, the next look finds out.
        let netns = netns_of(&pod.attachment);
        let opened = open_pod(&self.dataplane, &pod.attachment, pod.mac_or_derived(), tap_mtu(mtu)).await;
        let opened = opened.map_err(|error| error.to_string())?;
        let id = match configure(model, &self.node, &pod, mtu).await {
            Ok(()) => {
                self.dataplane.new_port().ok_or("the switch has no free port number; remove a pod".to_owned())
            }
            Err(error) => Err(error),
        };
        let id = match id {
            Ok(id) => id,
            Err(error) => {
                opened.discard();
                return Err(error);
            }
        };
        let worker = id.index() % self.dataplane.workers().len().max(1);
        self.dataplane.hold(id, opened.device);
        self.dataplane.attach_tx(worker, id, opened.tx);
        self.fresh.push((worker, id, opened.rx));
        info!("pod {}: port {id} ({})", pod.name, kind(&pod.attachment));
        let port = OpenPort { id, place: Place::Worker(worker as u16) };
        self.pods.insert(pod.name.clone(), PodPort { pod, port, mtu, netns });
        Ok(())
    }
}

/// Configures the interface inside an ordinary pod; the others configure themselves.
async fn configure(model: &Model, node: &str, pod: &Pod, mtu: u32) -> Result<(), String> {
    let Attachment::Tap { netns, ifname } = &pod.attachment else { return Ok(()) };
    let own = model.node(node);
    let subnets = pod.addresses.iter().filter_map(|net| own.and_then(|own| own.subnet_of(net.addr())));
    let mut gateways: Vec<_> = subnets.filter_map(|subnet| gateway(&subnet)).collect();
    gateways.sort_unstable();
    // One for each family: the first.
    gateways.dedup_by_key(|address| address.is_ipv4());
    let interface = PodInterface {
        ifname: ifname.clone(),
        mac: pod.mac_or_derived().0,
        mtu,
        addresses: pod.addresses.clone(),
        gateways,
    };
    let netns: &Path = netns;
    configure_pod(Some(netns), interface).await.map_err(|error| error.to_string())
}

/// What the attachment is called in the API and in the state.
pub(super) fn kind(attachment: &Attachment) -> &'static str {
    match attachment {
        Attachment::Tap { .. } => "tap",
        Attachment::VhostUser { .. } => "vhost-user",
        Attachment::Dpdk { .. } => "dpdk",
    }
}

/// A pod as the state directory holds it.
pub(super) fn store(pod: &Pod) -> StoredPod {
    let mut fields = match serde_json::to_value(&pod.attachment) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.remove("kind");
    StoredPod {
        name: pod.name.clone(),
        attachment: StoredAttachment { kind: kind(&pod.attachment).to_owned(), fields },
        addresses: pod.addresses.iter().map(ToString::to_string).collect(),
        mac: pod.mac_or_derived().to_string(),
        more: Map::new(),
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
    })
}
