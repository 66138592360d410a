//! The uplink's port: sockets on an ordinary interface, and the claim on the tunnel's UDP port beside them.

use tracing::info;
use weft_ffi::kernel::udp_claim::UdpClaim;
use weft_switch::types::PortId;

use super::Daemon;
use crate::model::Model;
use crate::ports::open_uplink;

/// The uplink's port while it is open.
pub(super) struct UplinkPort {
    pub(super) id: PortId,
    /// The interface's number: one that was deleted and made again has another.
    index: u32,
    vxlan_port: u16,
}

impl Daemon {
    /// Opens the uplink's sockets; opens them anew when the interface or the tunnel's port is another one than before.
    pub(super) async fn open_uplink_port(&mut self, model: &Model) {
        let uplink = self.mirror.uplink();
        let port = model.port;
        if self.uplink.as_ref().is_some_and(|open| open.index == uplink.index && open.vxlan_port == port) {
            return;
        }
        // Both before anything is let go, so that a failure leaves the old uplink whole.
        let claim = match &self.claim {
            Some(claim) if claim.port() == port => None,
            _ => match UdpClaim::bind(port) {
                Ok(claim) => Some(claim),
                Err(error) => return self.problems.push(error.to_string()),
            },
        };
        let queues = match open_uplink(&uplink.name, port, self.dataplane.workers().len()) {
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
        info!("uplink {}: MTU {}, VXLAN port {port}", uplink.name, uplink.mtu);
        let old = self.uplink.replace(UplinkPort { id, index: uplink.index, vxlan_port: port });
        if let Some(old) = old {
            self.publish(model);
            self.close_port(old.id, false).await;
        }
    }
}
