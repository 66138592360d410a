//! Pods: which ports are opened and closed for them, and how they are remembered.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use tracing::{info, warn};
use weft_node::{Crew, PodInterface, configure_pod, delete_tap};
use weft_switch::tables::Place;

use super::attachments::{kind, restore};
use super::{Daemon, PodPort, device_mtu};
use crate::compile::{Mtus, OpenPort, gateway_mac};
use crate::dataplane::Closing;
use crate::model::{Attachment, Model, Pod, gateway, validate_pods};
use crate::ports::{Opened, PodTap, open_pod};

/// How many ports are opened at a time.
const OPEN_AT_ONCE: usize = 64;

/// How many threads make pods' interfaces, each one after the other. So does the kernel: more only wait for its lock, which costs a core
/// each.
const CREW: usize = 3;

/// How many devices that no pod has any more are deleted at a time. For each the kernel waits by itself.
const DELETE_AT_ONCE: usize = 16;

/// Everything that is wrong with the pods of a model that is right otherwise, in one text.
pub(super) fn check(model: &Model) -> Result<(), String> {
    validate_pods(model).map_err(|wrong| {
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

/// Whether there is no network namespace at this path, now or ever again: nothing at all, or the plain file that it was
/// bound to.
pub(super) fn is_no_netns(path: &Path) -> bool {
    match statfs(path) {
        Ok(there) => there.filesystem_type() != NSFS_MAGIC,
        Err(error) => error == Errno::ENOENT,
    }
}

impl PodPort {
    /// The namespace of its interface is gone, or another one has its place.
    pub(super) fn has_lost_netns(&self) -> bool {
        self.netns != netns_of(&self.pod.attachment)
    }
}

impl Daemon {
    /// Closes the ports that have to be opened anew: of pods whose attachment is another one now, of devices that another
    /// pod is to have, and of pods with another namespace.
    pub(super) async fn close_changed(&mut self, model: &Model) {
        // Asked for each open port: not to look through a cluster's pods each time.
        let by_attachment: HashMap<_, _> =
            model.pods_of(&self.node).map(|pod| (&pod.attachment, &pod.name)).collect();
        let names: HashSet<_> = by_attachment.values().copied().collect();
        let mut changed = Vec::new();
        for (name, open) in &self.pods {
            let heir = by_attachment.get(&open.pod.attachment).copied();
            let moved = heir.is_some_and(|heir| heir != name);
            let replaced = heir.is_none() && names.contains(name);
            let lost = open.has_lost_netns();
            if moved || replaced || lost {
                // The device itself goes only if no pod is to have it. One in a lost namespace goes with that.
                changed.push((name.clone(), Closing { id: open.port.id, delete: heir.is_none() }));
            }
        }
        if changed.is_empty() {
            return;
        }
        let (names, closing): (Vec<_>, Vec<_>) = changed.into_iter().unzip();
        names.iter().for_each(|name| drop(self.pods.remove(name)));
        self.publish(model);
        self.close_ports(&closing).await;
    }

    /// Writes down, before anything is made, which devices will be: a weftd that is killed half-way leaves none unknown.
    /// Which of them are new.
    fn record_devices(&mut self, model: &Model) -> BTreeSet<Device> {
        let wanted: BTreeSet<_> = model.pods_of(&self.node).filter_map(device).collect();
        let new: BTreeSet<_> = wanted.difference(&self.devices).cloned().collect();
        self.devices.extend(new.iter().cloned());
        self.save();
        new
    }

    /// Deletes the devices that no pod is to have any more, such as those of pods that were removed while weftd was
    /// down, and forgets those that are deleted already.
    pub(super) async fn delete_orphans(&mut self, model: &Model) {
        let mut wanted: BTreeSet<_> = model.pods_of(&self.node).filter_map(device).collect();
        let unfit = self.unfit.iter().filter_map(|(stored, _)| restore(stored, &self.node).ok());
        wanted.extend(unfit.filter_map(|(pod, _)| device(&pod)));
        let orphans: Vec<_> = self.devices.difference(&wanted).cloned().collect();
        let deleting = orphans.into_iter().map(|(netns, name)| async move {
            let deleted = delete_tap(netns.as_deref(), &name).await;
            (netns, name, deleted)
        });
        let mut deleted = futures_util::stream::iter(deleting).buffer_unordered(DELETE_AT_ONCE);
        while let Some((netns, name, deleted)) = deleted.next().await {
            match deleted {
                // What is no TAP was never weft's: the pod was refused because of it.
                Ok(_) | Err(weft_node::Error::NotTap { .. }) => drop(self.devices.remove(&(netns, name))),
                Err(error) => self.problems.push(format!("a device that no pod has any more stays: {error}")),
            }
        }
    }

    /// Forgets the pods that are no longer desired; their ports are to be removed.
    pub(super) fn take_unwanted(&mut self, model: &Model) -> Vec<Closing> {
        let wanted: HashSet<_> = model.pods_of(&self.node).map(|pod| &pod.name).collect();
        self.failed.retain(|name, _| wanted.contains(name));
        let gone: Vec<_> = self.pods.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        gone.into_iter()
            .filter_map(|name| {
                info!("pod {name}: removed");
                self.pods.remove(&name).map(|open| Closing { id: open.port.id, delete: true })
            })
            .collect()
    }

    /// Whether a container runtime's pod has lost its network namespace for good.
    pub(super) fn any_departed(&self) -> bool {
        self.cni.values().any(|cni| is_no_netns(&cni.netns))
    }

    /// Forgets the pods of container runtimes whose network namespaces are gone: nobody may be left to say that they are, such
    /// as after the node has started again.
    pub(super) fn drop_departed(&mut self) {
        let gone: Vec<_> = self.cni.iter().filter(|(_, cni)| is_no_netns(&cni.netns)).collect();
        let names: Vec<_> = gone.into_iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            info!("pod {name}: its network namespace is gone, and so is it");
            self.drop_pod(&name);
        }
    }

    /// Opens the ports of pods that have none, several at a time, and brings the interfaces inside the others into line.
    pub(super) async fn open_missing(&mut self, model: &Model) {
        let new = self.record_devices(model);
        let underlay = self.mirror.uplink().mtu;
        let mtus = Mtus::new(model, underlay);
        let node = self.node.clone();
        let mut missing = Vec::new();
        for pod in model.pods_of(&node) {
            let mtu = mtus.of_pod(pod);
            let Some(open) = self.pods.get_mut(&pod.name) else {
                missing.push(pod);
                continue;
            };
            let mut outcome = Ok(());
            if open.pod != *pod || open.mtu != mtu {
                outcome = configure(model, &node, pod, &open.pod.addresses, mtu).await;
                if outcome.is_ok() {
                    (open.pod, open.mtu) = (pod.clone(), mtu);
                }
            }
            self.note_outcome(&pod.name, outcome);
        }
        let (this, crew) = (&*self, Crew::new(CREW));
        let crew = &crew;
        let opening = missing.into_iter().map(|pod| {
            let mtu = mtus.of_pod(pod);
            let device = device(pod);
            // Of what is to be made now nothing may be there yet, where the caller relies on that.
            let must_be_new =
                this.cni.contains_key(&pod.name) && device.as_ref().is_some_and(|d| new.contains(d));
            async move {
                let opened = this.open_one(model, pod, mtu, underlay, must_be_new, crew).await;
                (pod, mtu, device, opened)
            }
        });
        let opened: Vec<_> =
            futures_util::stream::iter(opening).buffer_unordered(OPEN_AT_ONCE).collect().await;
        for (pod, mtu, device, opened) in opened {
            let done = opened.and_then(|(netns, opened)| self.take_port(pod.clone(), mtu, netns, opened));
            // What was not made now is not weft's, and never to be deleted.
            if let (Err(_), Some(device)) = (&done, device.filter(|device| new.contains(device))) {
                self.devices.remove(&device);
            }
            self.note_outcome(&pod.name, done);
        }
    }

    fn note_outcome(&mut self, name: &str, done: Result<(), String>) {
        match done {
            Ok(()) => drop(self.failed.remove(name)),
            Err(error) => {
                if self.failed.get(name) != Some(&error) {
                    warn!("pod {name}: {error}");
                }
                self.failed.insert(name.to_owned(), error);
            }
        }
    }

    /// Makes what a pod's port is of. With `must_be_new`, an interface that is there already is another's.
    async fn open_one(
        &self,
        model: &Model,
        pod: &Pod,
        mtu: u32,
        underlay: u32,
        must_be_new: bool,
        crew: &Crew,
    ) -> Result<(Option<NetnsId>, Opened), String> {
        // Looked at before: if another takes its place meanwhile, the next look finds out.
        let netns = netns_of(&pod.attachment);
        let tap = |ifname: &str| PodTap {
            interface: interface(model, &self.node, pod, ifname, &[], mtu),
            must_be_new,
        };
        let opened = open_pod(&self.dataplane, &pod.attachment, tap, device_mtu(underlay), crew).await;
        Ok((netns, opened.map_err(|error| error.to_string())?))
    }

    /// Gives what was opened to a worker.
    fn take_port(
        &mut self,
        pod: Pod,
        mtu: u32,
        netns: Option<NetnsId>,
        opened: Opened,
    ) -> Result<(), String> {
        let Some(id) = self.dataplane.new_port() else {
            opened.discard();
            return Err("the switch has no free port number; remove a pod".to_owned());
        };
        let worker = id.index() % self.dataplane.workers().len().max(1);
        self.dataplane.hold(id, opened.device);
        self.dataplane.attach_tx(worker, id, opened.tx);
        self.fresh.push((worker, id, opened.rx));
        self.spread.add(id, opened.further, worker, self.dataplane.workers().len());
        info!("pod {}: port {id} ({})", pod.name, kind(&pod.attachment));
        let port = OpenPort { id, place: Place::Worker(worker as u16) };
        self.pods.insert(pod.name.clone(), PodPort { pod, port, mtu, netns });
        Ok(())
    }
}

/// A TAP: its network namespace and its name there.
pub(super) type Device = (Option<PathBuf>, String);

/// The TAP of a pod that has one.
fn device(pod: &Pod) -> Option<Device> {
    match &pod.attachment {
        Attachment::Tap { netns, ifname } => Some((Some(netns.clone()), ifname.clone())),
        Attachment::VhostUser { .. } | Attachment::Dpdk { .. } => None,
    }
}

/// Configures the interface inside an ordinary pod, which had the addresses `before`; the others configure themselves.
async fn configure(model: &Model, node: &str, pod: &Pod, before: &[IpNet], mtu: u32) -> Result<(), String> {
    let Attachment::Tap { netns, ifname } = &pod.attachment else { return Ok(()) };
    let interface = interface(model, node, pod, ifname, before, mtu);
    configure_pod(netns, interface).await.map_err(|error| error.to_string())
}

/// What the interface inside an ordinary pod, which had the addresses `before`, is to look like.
fn interface(model: &Model, node: &str, pod: &Pod, ifname: &str, before: &[IpNet], mtu: u32) -> PodInterface {
    let own = model.node(node);
    let subnets = pod.addresses.iter().filter_map(|net| own.and_then(|own| own.subnet_of(net.addr())));
    let mut gateways: Vec<_> = subnets.filter_map(|subnet| gateway(&subnet)).collect();
    gateways.sort_unstable();
    // One for each family: the first.
    gateways.dedup_by_key(|address| address.is_ipv4());
    let of_family = |net: &IpNet| gateways.iter().copied().find(|ip| ip.is_ipv4() == net.addr().is_ipv4());
    let routes: Vec<(IpNet, IpAddr)> = match &pod.routes {
        Some(routes) => routes
            .iter()
            .filter_map(|route| Some((route.to, route.via.or_else(|| of_family(&route.to))?)))
            .collect(),
        None => gateways.iter().map(|gateway| (default_of(*gateway), *gateway)).collect(),
    };
    PodInterface {
        ifname: ifname.to_owned(),
        mac: pod.mac_or_derived().0,
        mtu,
        addresses: pod.addresses.clone(),
        outdated: before.iter().filter(|net| !pod.addresses.contains(net)).copied().collect(),
        routes,
        routers: own
            .map(|own| gateways.iter().map(|ip| (*ip, gateway_mac(own).0)).collect())
            .unwrap_or_default(),
    }
}

/// All addresses of a gateway's family.
fn default_of(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V4(_) => Ipv4Net::default().into(),
        IpAddr::V6(_) => Ipv6Net::default().into(),
    }
}
