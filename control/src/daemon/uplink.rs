//! The uplink's port: sockets on an ordinary interface, and the claim on the tunnel's UDP port where these are beside the kernel.

use tracing::info;
use weft_ffi::kernel::udp_claim::UdpClaim;
use weft_switch::drivers::UnderlayMtu;
use weft_switch::types::PortId;

use super::Daemon;
use crate::config::UplinkKind;
use crate::model::Model;
use crate::ports::open_uplink;

/// The uplink's port while it is open.
pub(super) struct UplinkPort {
    pub(super) id: PortId,
    /// The interface's number: one that was deleted and made again has another.
    index: u32,
    vxlan_port: u16,
    /// What the queues go by.
    mtu: UnderlayMtu,
}

/// Whether somebody else has to have the tunnel's port, so that the kernel answers nothing that comes for it.
pub(super) fn needs_claim(kind: UplinkKind) -> bool {
    kind != UplinkKind::Socket
}

impl Daemon {
    /// Opens the uplink's sockets; opens them anew when the interface or the tunnel's port is another one than before.
    pub(super) async fn open_uplink_port(&mut self, model: &Model) {
        let uplink = self.mirror.uplink();
        let (kind, port) = (self.config.uplink.kind, model.port);
        if let Some(open) = &self.uplink {
            open.mtu.set(uplink.mtu);
            if open.index == uplink.index && open.vxlan_port == port {
                return;
            }
        }
        // Both before anything is let go, so that a failure leaves the old uplink whole.
        let claim = match &self.claim {
            _ if !needs_claim(kind) => None,
            Some(claim) if claim.port() == port => None,
            _ => match UdpClaim::bind(port) {
                Ok(claim) => Some(claim),
                Err(error) => return self.problems.push(error.to_string()),
            },
        };
        let mtu = UnderlayMtu::new(uplink.mtu);
        let queues = match open_uplink(kind, &uplink.name, port, self.dataplane.workers().len(), &mtu) {
            Ok(queues) => queues,
            Err(error) => return self.problems.push(error.to_string()),
        };
        let Some(id) = self.dataplane.new_port() else {
            return self.problems.push("uplink: the switch has no free port number; remove a pod".to_owned());
        };
        for (worker, (rx, tx)) in queues.into_iter().enumerate() {
            self.dataplane.attach_tx(worker, id, tx);
            self.fresh.push((worker, id, rx));
        }
        if claim.is_some() {
            self.claim = claim;
        }
        info!("uplink {} ({}): MTU {}, VXLAN port {port}", uplink.name, kind.as_str(), uplink.mtu);
        let old = self.uplink.replace(UplinkPort { id, index: uplink.index, vxlan_port: port, mtu });
        if let Some(old) = old {
            self.publish(model);
            self.close_port(old.id, false).await;
        }
    }
}
