//! How fast the pods may receive and send: as the desired state says, or, before that, as Kubernetes does of the pod that a container
//! runtime's attachment belongs to. Its annotations may change while the pod runs.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use weft_flannel::kube::Pods;
use weft_switch::types::BitRate;

use super::Daemon;
use crate::model::{Bandwidth, Pod, RateLimit};

/// Kubernetes' pods of this node; none where Kubernetes is not asked.
pub(super) type KubePods = watch::Receiver<Arc<Pods>>;

/// Pods of nobody: their receiver never tells of a change.
pub(super) fn no_pods() -> KubePods {
    watch::channel(Arc::default()).1
}

impl Daemon {
    /// What Kubernetes says of a pod.
    fn annotated(&self, name: &str) -> Bandwidth {
        let known = || {
            let cni = self.cni.get(name)?;
            let name = format!("{}/{}", cni.namespace.as_deref()?, cni.pod.as_deref()?);
            let pods = self.kube_pods.borrow();
            let pod = pods.get(&name)?;
            let limit = |rate: BitRate| RateLimit { rate, burst: None };
            Some(Bandwidth {
                ingress: pod.ingress_bandwidth.map(limit),
                egress: pod.egress_bandwidth.map(limit),
            })
        };
        known().unwrap_or_default()
    }

    /// What is in force for a pod.
    pub(super) fn bandwidth_of(&self, pod: &Pod) -> Bandwidth {
        self.annotated(&pod.name).or(pod.bandwidth)
    }

    /// What Kubernetes says of all pods that it limits.
    pub(super) fn all_annotated(&self) -> HashMap<String, Bandwidth> {
        let limits = self.cni.keys().map(|name| (name.clone(), self.annotated(name)));
        limits.filter(|(_, bandwidth)| !bandwidth.is_unlimited()).collect()
    }

    /// Kubernetes' pods have changed: their limits are put into force, if those have.
    pub(super) fn take_annotations(&mut self) {
        if self.limited_by_kube != self.all_annotated() {
            self.publish(&Arc::clone(&self.model));
        }
    }
}
