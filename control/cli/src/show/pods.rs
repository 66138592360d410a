//! `weft pod` and `weft port`.

use weft_api::{Bandwidth, Cni, Origin, Pod, PodPort, PodState, Pods, Port, Ports, VhostMode};
use weft_types::BitRate;

use super::yes;
use crate::table::{Table, bytes, list, or_dash, pairs};
use crate::view::{Form, Show};

fn state(pod: &Pod) -> String {
    match pod.state {
        PodState::Up => "up",
        PodState::Waiting => "waiting",
        PodState::Failed => "failed",
    }
    .to_owned()
}

fn origin(pod: &Pod) -> String {
    match pod.origin {
        Origin::File => "file",
        Origin::Api => "api",
    }
    .to_owned()
}

fn attached_to(pod: &Pod) -> String {
    match &pod.port {
        PodPort::Tap { netns, ifname } => format!("{ifname} in {}", netns.display()),
        PodPort::VhostUser { socket, mode } => {
            let mode = match mode {
                VhostMode::Client => "client",
                VhostMode::Server => "server",
            };
            format!("{} ({mode})", socket.display())
        }
        PodPort::Dpdk { devargs } => devargs.clone(),
    }
}

/// A rate as it may be given.
fn rate(bits: Option<u64>) -> Option<String> {
    bits.map(|bits| BitRate::new(bits).map_or_else(|_| bits.to_string(), |rate| rate.to_string()))
}

/// In and out, such as `100M/1G`.
fn limits(Bandwidth { ingress_rate, egress_rate, .. }: &Bandwidth) -> Option<String> {
    let (ingress, egress) = (rate(*ingress_rate), rate(*egress_rate));
    (ingress.is_some() || egress.is_some()).then(|| format!("{}/{}", or_dash(ingress), or_dash(egress)))
}

/// One of them, with its burst.
fn limit(bits: Option<u64>, burst: Option<u64>) -> Option<String> {
    let burst = burst.map_or_else(String::new, |burst| format!(", {burst} bits at once"));
    Some(format!("{}bit/s{burst}", rate(bits)?))
}

/// The pod's name in Kubernetes.
fn of_kubernetes(cni: &Cni) -> Option<String> {
    Some(format!("{}/{}", cni.namespace.as_deref()?, cni.pod.as_deref()?))
}

impl Show for Pods {
    fn show(&self, form: Form) -> String {
        if self.pods.is_empty() {
            return "no pods\n".to_owned();
        }
        let mut table = Table::new(
            form,
            &[
                "NAME",
                "STATE",
                "KIND",
                "ADDRESSES",
                "MAC",
                ">PORT",
                ">MTU",
                "IN/OUT",
                "+TRUSTED",
                "ORIGIN",
                "+POD",
                "ATTACHED TO",
                "ERROR",
            ],
        );
        for pod in &self.pods {
            table.row(vec![
                pod.name.clone(),
                state(pod),
                pod.port.kind().to_owned(),
                list(&pod.addresses),
                pod.mac.to_string(),
                or_dash(pod.port_id),
                pod.mtu.to_string(),
                or_dash(limits(&pod.bandwidth)),
                yes(pod.trusted),
                origin(pod),
                or_dash(pod.cni.as_ref().and_then(of_kubernetes)),
                attached_to(pod),
                pod.error.clone().unwrap_or_default(),
            ]);
        }
        table.render()
    }
}

impl Show for Pod {
    fn show(&self, _: Form) -> String {
        let mut lines = vec![("name", self.name.clone()), ("state", state(self))];
        lines.extend(self.error.iter().map(|error| ("error", error.clone())));
        lines.extend([
            ("kind", self.port.kind().to_owned()),
            ("attached to", attached_to(self)),
            ("addresses", list(&self.addresses)),
            ("mac", self.mac.to_string()),
            ("trusted", yes(self.trusted)),
            ("port", or_dash(self.port_id)),
            ("mtu", self.mtu.to_string()),
            ("origin", origin(self)),
            ("node", self.node.clone()),
        ]);
        let Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst } = self.bandwidth;
        lines.extend(limit(ingress_rate, ingress_burst).map(|limit| ("receives at most", limit)));
        lines.extend(limit(egress_rate, egress_burst).map(|limit| ("sends at most", limit)));
        if let Some(cni) = &self.cni {
            lines.extend(of_kubernetes(cni).map(|pod| ("pod", pod)));
            lines.extend([
                ("container", cni.container.clone()),
                ("interface", cni.ifname.clone()),
                ("network", cni.network.clone()),
            ]);
        }
        pairs(&lines)
    }
}

fn connected(port: &Port) -> String {
    if port.connected { "up" } else { "waiting" }.to_owned()
}

fn worker(port: &Port) -> String {
    port.worker.map_or_else(|| "each".to_owned(), |worker| worker.to_string())
}

impl Show for Ports {
    fn show(&self, form: Form) -> String {
        let mut table = Table::new(
            form,
            &[
                ">PORT",
                "NAME",
                "KIND",
                "ROLE",
                "STATE",
                ">WORKER",
                "+>MTU",
                ">RX PACKETS",
                "+>RX BYTES",
                ">RX DROPS",
                ">TX PACKETS",
                "+>TX BYTES",
                ">TX DROPS",
                "+>LEARNED",
            ],
        );
        for port in &self.ports {
            table.row(vec![
                port.id.to_string(),
                port.name.clone(),
                port.kind.clone(),
                port.role.name().to_owned(),
                connected(port),
                worker(port),
                port.mtu.to_string(),
                port.rx_packets.to_string(),
                bytes(port.rx_bytes),
                port.rx_drops.to_string(),
                port.tx_packets.to_string(),
                bytes(port.tx_bytes),
                port.tx_drops.to_string(),
                port.learned.to_string(),
            ]);
        }
        table.render()
    }
}

impl Show for Port {
    fn show(&self, _: Form) -> String {
        let counted = |packets: u64, count: u64, drops: u64| {
            format!("{packets} packets, {}, {drops} dropped", bytes(count))
        };
        let mut lines = vec![
            ("name", self.name.clone()),
            ("port", self.id.to_string()),
            ("kind", self.kind.clone()),
            ("role", self.role.name().to_owned()),
            ("state", connected(self)),
            ("worker", worker(self)),
            ("mtu", self.mtu.to_string()),
            ("rx", counted(self.rx_packets, self.rx_bytes, self.rx_drops)),
            ("tx", counted(self.tx_packets, self.tx_bytes, self.tx_drops)),
            ("learned", self.learned.to_string()),
        ];
        if self.delayed > 0 || self.paused > 0 {
            let held = format!("{} frames to it had to wait, {} pauses", self.delayed, self.paused);
            lines.push(("by its limits", held));
        }
        pairs(&lines)
    }
}
