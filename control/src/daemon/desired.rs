//! The desired state: what the source says, and behind its pods those that were added through the API.
//!
//! It is one [`Model`] that reconciling reads and nobody else holds on to: changing a pod copies no cluster.

use std::sync::Arc;

use super::{Daemon, pods};
use crate::model::{Model, Pod};

impl Daemon {
    /// Whether this is what the source said last.
    pub(super) fn has_said(&self, source: &Model) -> bool {
        let of_source = self.model.pods.len() - self.added.len();
        let Model { networks, port, nodes, pods, routes } = source;
        let now = &*self.model;
        (networks, port, routes, &pods[..], nodes)
            == (&now.networks, &now.port, &now.routes, &now.pods[..of_source], &now.nodes)
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
    pub(super) fn take_pod(&mut self, pod: Pod) -> Result<(), String> {
        let model = Arc::make_mut(&mut self.model);
        model.pods.push(pod.clone());
        if let Err(error) = pods::check(model) {
            model.pods.pop();
            return Err(error);
        }
        self.added.insert(pod.name.clone(), pod);
        Ok(())
    }

    /// Takes a pod back that was added; false if there is none of this name.
    pub(super) fn drop_pod(&mut self, name: &str) -> bool {
        let added = self.added.remove(name).is_some();
        if added {
            // Names are unique, in the source too.
            Arc::make_mut(&mut self.model).pods.retain(|pod| pod.name != name);
        }
        added
    }
}
