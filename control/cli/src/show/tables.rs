//! What the switch looks up, and what passes: `weft fdb`, `neigh`, `vtep`, `route`, `pins`, `flow`.

use weft_api::{FLOW_LIMIT_MAX, Fdb, Flows, NeighbourState, Neighbours, Pins, Routes, Vteps};

use super::yes;
use crate::table::{Table, bytes, duration, list, or_dash, printable};
use crate::view::{Form, Show};

impl Show for Fdb {
    fn show(&self, form: Form) -> String {
        if self.entries.is_empty() {
            return "no entries\n".to_owned();
        }
        let mut table = Table::new(form, &["MAC", "PORT", "+>PORT NUMBER", "KIND", ">AGE"]);
        for entry in &self.entries {
            table.row(vec![
                entry.mac.to_string(),
                or_dash(entry.port.as_ref()),
                or_dash(entry.port_id),
                entry.kind.name().to_owned(),
                or_dash(entry.age_s.map(duration)),
            ]);
        }
        table.render()
    }
}

impl Show for Neighbours {
    fn show(&self, form: Form) -> String {
        let mut out = String::new();
        if self.entries.is_empty() {
            out += "no neighbours\n";
        } else {
            let mut table =
                Table::new(form, &["ADDRESS", "MAC", "PORT", "+>PORT NUMBER", "KIND", "STATE", ">AGE"]);
            for entry in &self.entries {
                let state = entry.state.map(|state| match state {
                    NeighbourState::Resolved => "resolved",
                    NeighbourState::Unresolved => "unresolved",
                    NeighbourState::Kernel => "kernel",
                });
                table.row(vec![
                    entry.address.to_string(),
                    or_dash(entry.mac),
                    or_dash(entry.port.as_ref()),
                    or_dash(entry.port_id),
                    entry.kind.name().to_owned(),
                    or_dash(state),
                    or_dash(entry.age_s.map(duration)),
                ]);
            }
            out += &table.render();
        }
        if !self.conflicts.is_empty() {
            let mut table = Table::new(form, &["CONFLICT", "CLAIMED BY", "PORT", ">TIMES", "+>LAST SEEN"]);
            for conflict in &self.conflicts {
                table.row(vec![
                    conflict.address.to_string(),
                    conflict.mac.to_string(),
                    conflict.port.clone(),
                    conflict.count.to_string(),
                    conflict.last_seen.to_string(),
                ]);
            }
            out += &format!("\n{}", table.render());
        }
        out
    }
}

impl Show for Pins {
    fn show(&self, form: Form) -> String {
        let taken = format!(
            "{} of {} pins ({}), {} went before their time\n",
            self.count,
            self.capacity,
            bytes(self.memory_bytes),
            self.evicted
        );
        if self.entries.is_empty() {
            return taken;
        }
        let mut table =
            Table::new(form, &["PROTOCOL", "FROM", ">PORT", "TO", ">PORT", "STATE", ">AGE", "+>EXPIRES"]);
        for pin in &self.entries {
            let port = |port| or_dash((port != 0).then_some(port));
            table.row(vec![
                protocol(pin.protocol),
                pin.src.to_string(),
                port(pin.src_port),
                pin.dst.to_string(),
                port(pin.dst_port),
                pin.state.clone(),
                duration(pin.age_s),
                duration(pin.expires_s),
            ]);
        }
        format!("{}\n{taken}", table.render())
    }
}

impl Show for Vteps {
    fn show(&self, form: Form) -> String {
        let mut local = Table::new(form, &["LOCAL ADDRESS", "MAC", "NETWORK", ">VNI"]);
        for own in &self.local {
            local.row(vec![
                own.address.to_string(),
                own.mac.to_string(),
                own.network.clone(),
                own.vni.to_string(),
            ]);
        }
        if self.vteps.is_empty() {
            return format!("{}\nno other nodes\n", local.render());
        }
        let mut far = Table::new(
            form,
            &[
                "+>INDEX",
                "NODE",
                "NETWORK",
                "+>VNI",
                "ADDRESS",
                "MAC",
                "NEXT HOP",
                "+NEXT HOP MAC",
                "+SOURCE",
                ">MTU",
                "+>PATH MTU",
                "RESOLVED",
            ],
        );
        for vtep in &self.vteps {
            far.row(vec![
                or_dash(vtep.index),
                vtep.node.clone(),
                vtep.network.clone(),
                vtep.vni.to_string(),
                vtep.address.to_string(),
                or_dash(vtep.mac),
                or_dash(vtep.next_hop),
                or_dash(vtep.next_hop_mac),
                or_dash(vtep.source),
                or_dash(vtep.mtu),
                or_dash(vtep.path_mtu),
                yes(vtep.resolved),
            ]);
        }
        format!("{}\n{}", local.render(), far.render())
    }
}

impl Show for Routes {
    fn show(&self, form: Form) -> String {
        if self.routes.is_empty() {
            return "no routes\n".to_owned();
        }
        let mut table = Table::new(form, &["TO", "KIND", "VIA", "NODE", "PORT", "+NETWORK", "+>MTU"]);
        for route in &self.routes {
            table.row(vec![
                route.to.to_string(),
                route.kind.name().to_owned(),
                list(&route.via),
                or_dash(route.node.as_ref()),
                or_dash(route.port.as_ref()),
                or_dash(route.network.as_ref()),
                or_dash(route.mtu),
            ]);
        }
        let mut out = table.render();
        for reason in self.routes.iter().filter_map(|route| route.dropped.as_deref()) {
            out += &format!("\nnobody here has the address: dropped as {}\n", printable(reason));
        }
        out
    }
}

/// Protocols that people know by name (IANA's numbers).
fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}

impl Show for Flows {
    fn show(&self, form: Form) -> String {
        let mut out = String::new();
        if self.flows.is_empty() {
            out += "no flows\n";
        } else {
            let mut table = Table::new(
                form,
                &[
                    "FROM",
                    "PROTOCOL",
                    "SOURCE",
                    ">SPORT",
                    "DESTINATION",
                    ">DPORT",
                    ">PACKETS",
                    ">BYTES",
                    "VERDICT",
                    "TO",
                ],
            );
            for flow in &self.flows {
                table.row(vec![
                    flow.port.clone(),
                    protocol(flow.protocol),
                    flow.src.to_string(),
                    flow.sport.to_string(),
                    flow.dst.to_string(),
                    flow.dport.to_string(),
                    flow.packets.to_string(),
                    bytes(flow.bytes),
                    flow.verdict.name().to_owned(),
                    or_dash(flow.to.as_ref()),
                ]);
            }
            out += &table.render();
        }
        let listed = self.flows.len() as u64;
        if self.seen > listed {
            let more = self.seen - listed;
            out += &format!("\n{more} flows more: --limit lists up to {FLOW_LIMIT_MAX}\n");
        }
        if self.sampled_one_in > 1 || self.lost > 0 {
            out += &format!("\nestimated: one packet in {} was looked at", self.sampled_one_in);
            out +=
                &if self.lost > 0 { format!(", {} samples were lost\n", self.lost) } else { "\n".to_owned() };
        }
        out
    }
}
