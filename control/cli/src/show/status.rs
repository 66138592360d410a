//! `weft status`.

use weft_api::{Peer, State, Status};

use super::yes;
use crate::table::{Table, bytes, duration, list, or_dash, pairs};
use crate::view::{Form, Show};

/// Peers that are listed in full in the narrow form. Of more, only those that are not well.
const FEW: usize = 20;

impl Show for Status {
    fn show(&self, form: Form) -> String {
        let mut lines: Vec<(&str, String)> = vec![(
            "state",
            match self.state {
                State::Ready => "ready".to_owned(),
                State::Degraded => "degraded".to_owned(),
            },
        )];
        lines.extend(self.problems.iter().map(|problem| ("problem", problem.clone())));
        lines.extend(self.notes.iter().map(|note| ("note", note.clone())));
        lines.push(("node", self.node.clone()));
        lines.push(("weftd", format!("{}, pid {}, up {}", self.version, self.pid, duration(self.uptime_s))));
        lines.push(("generation", self.generation.to_string()));
        lines.push(("source", source_line(self)));
        if let Some(error) = &self.source.last_error {
            lines.push(("source error", error.clone()));
        }
        lines.extend(store_line(self).map(|line| ("store", line)));
        let memory = &self.memory;
        lines.push((
            "memory",
            format!(
                "{} of {} packet buffers free{}, {} resident",
                memory.packet_buffers_free,
                memory.packet_buffers_total,
                if memory.hugepages { " (huge pages)" } else { "" },
                bytes(memory.rss_bytes)
            ),
        ));
        let uplink = &self.uplink;
        let addresses = list(&uplink.addresses);
        lines.push((
            "uplink",
            format!("{} ({}), MTU {}, {addresses}", uplink.interface, uplink.kind, uplink.mtu),
        ));
        let network = &self.network;
        let nets: Vec<String> = network
            .ipv4
            .iter()
            .map(ToString::to_string)
            .chain(network.ipv6.iter().map(ToString::to_string))
            .collect();
        lines.push((
            "network",
            format!(
                "{}, VNI {}, UDP port {}, pod MTU {}",
                list(&nets),
                network.vni,
                network.port,
                network.pod_mtu
            ),
        ));
        lines.push(("workers", self.workers.to_string()));
        lines.push(("host port", or_dash(self.host_port.as_ref())));
        lines.push(("pods", self.pods.to_string()));
        lines.push(("peers", self.peers.len().to_string()));
        pairs(&lines) + &peers(self, form)
    }
}

fn source_line(status: &Status) -> String {
    let source = &status.source;
    let mut line = source.kind.clone();
    if let Some(path) = &source.path {
        line += &format!(" {}", path.display());
    }
    // By the daemon's clocks: its node's time may have been set meanwhile, ours may be another.
    let now = status.started_at.saturating_add(status.uptime_s);
    match source.last_loaded {
        Some(loaded) => line += &format!(", loaded {} ago", duration(now.saturating_sub(loaded))),
        None => line += ", never loaded",
    }
    line
}

fn store_line(status: &Status) -> Option<String> {
    let store = status.source.store.as_ref()?;
    let now = status.started_at.saturating_add(status.uptime_s);
    let mut line = match store.connected {
        true => "connected".to_owned(),
        false => format!("lost {} ago", duration(now.saturating_sub(store.since))),
    };
    line += &format!(", lease of {}", list(&store.subnets));
    match store.lease_until {
        Some(until) => line += &format!(" for {}", duration(until.saturating_sub(now))),
        None => line += " without end",
    }
    if let Some(position) = &store.position {
        line += &format!(", read up to {position}");
    }
    Some(line)
}

/// The table of the peers, with a blank line in front.
fn peers(status: &Status, form: Form) -> String {
    let all = form.wide || status.peers.len() <= FEW;
    let shown: Vec<&Peer> = status.peers.iter().filter(|peer| all || !peer.resolved).collect();
    let mut table = Table::new(form, &["PEER", "SUBNETS", "PUBLIC IPS", "VTEP MAC", "NEXT HOP", "RESOLVED"]);
    for peer in &shown {
        table.row(vec![
            peer.name.clone(),
            list(&peer.subnets),
            list(&peer.public_ips),
            or_dash(peer.vtep_mac),
            or_dash(peer.next_hop),
            yes(peer.resolved),
        ]);
    }
    let hidden = status.peers.len() - shown.len();
    let mut out = if shown.is_empty() { String::new() } else { format!("\n{}", table.render()) };
    if hidden > 0 {
        out += &format!("\n{hidden} peers are resolved; -o wide lists them\n");
    }
    out
}
