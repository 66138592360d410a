//! The desired state: what the source says, and behind its pods those that were added through the API.
//!
//! It is one [`Model`] that reconciling reads and nobody else holds on to: changing a pod copies no cluster.

use std::sync::Arc;

use weft_api::Cni;

use super::{Daemon, pods};
use crate::model::{Model, Pod};

/// What came with each pod, and what is said of it.
type Told<T> = Vec<(T, String)>;

impl Daemon {
    /// Whether this is what the source said last.
    pub(super) fn has_said(&self, source: &Model) -> bool {
        let of_source = self.model.pods.len() - self.added.len();
        let Model { networks, port, encapsulation, nodes, pods, routes } = source;
        let now = &*self.model;
        (networks, port, encapsulation, routes, &pods[..], nodes)
            == (&now.networks, &now.port, &now.encapsulation, &now.routes, &now.pods[..of_source], &now.nodes)
    }

    /// Takes what the source says, which is right by itself, unless it does not go together with the pods that were added: then it
    /// waits, and the reason is given.
    pub(super) fn take_source(&mut self, mut source: Model) -> Result<(), String> {
        let of_source = source.pods.len();
        source.pods.extend(self.added.values().cloned());
        if !self.added.is_empty() {
            if let Err(error) = pods::check(&source) {
                source.pods.truncate(of_source);
                self.pending = Some(source);
                return Err(error);
            }
        }
        self.model = Arc::new(source);
        self.pending = None;
        Ok(())
    }

    /// Adds a pod, if it goes together with all else.
    pub(super) fn take_pod(&mut self, pod: Pod, cni: Option<Cni>) -> Result<(), String> {
        let (_, refused) = self.take_pods(vec![(pod, cni, ())]);
        refused.into_iter().next().map_or(Ok(()), |((), reason)| Err(reason))
    }

    /// Adds those of the pods that go together with all else and with those before them. What came with each comes back: with its name,
    /// or with the reason why it is not added.
    pub(super) fn take_pods<T>(&mut self, wanted: Vec<(Pod, Option<Cni>, T)>) -> (Told<T>, Told<T>) {
        let model = Arc::make_mut(&mut self.model);
        // Checking takes time in proportion to the pods: once for all, and one by one only if something is wrong.
        let before = model.pods.len();
        model.pods.extend(wanted.iter().map(|(pod, ..)| pod.clone()));
        let all_fit = pods::check(model).is_ok();
        model.pods.truncate(before);
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        for (pod, cni, with) in wanted {
            let name = pod.name.clone();
            model.pods.push(pod.clone());
            if let Err(reason) = if all_fit { Ok(()) } else { pods::check(model) } {
                model.pods.pop();
                refused.push((with, reason));
                continue;
            }
            self.added.insert(name.clone(), pod);
            self.cni.extend(cni.map(|cni| (name.clone(), cni)));
            taken.push((with, name));
        }
        (taken, refused)
    }

    /// Takes a pod back that was added; false if there is none of this name.
    pub(super) fn drop_pod(&mut self, name: &str) -> bool {
        let added = self.added.remove(name).is_some();
        self.cni.remove(name);
        if added {
            // Names are unique, in the source too.
            Arc::make_mut(&mut self.model).pods.retain(|pod| pod.name != name);
        }
        added
    }
}
