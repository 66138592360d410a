//! The pods of this node, for names in lists, and for what is annotated and labelled.

use super::follow::Said;
use super::object::{Identity, Metadata, Object, Reading};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use tracing::warn;
use weft_types::{BitRate, TypeError};

/// The pods of this node that have not ended, by `namespace/name`. Pods on the node's own network are not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods(BTreeMap<String, Pod>);

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its addresses, as far as the kubelet has reported them.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it may receive (annotation `kubernetes.io/ingress-bandwidth`).
    pub ingress_bandwidth: Option<BitRate>,
    /// What it may send (annotation `kubernetes.io/egress-bandwidth`).
    pub egress_bandwidth: Option<BitRate>,
    wrong: Option<String>,
}

impl Pods {
    /// The pod of that name, `namespace/name`.
    pub fn get(&self, name: &str) -> Option<&Pod> {
        self.0.get(name)
    }

    /// The pod with that address.
    pub fn with_address(&self, address: IpAddr) -> Option<(&str, &Pod)> {
        self.iter().find(|(_, pod)| pod.addresses.contains(&address))
    }

    /// All, sorted by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Pod)> {
        self.0.iter().map(|(name, pod)| (name.as_str(), pod))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The pods, and what was complained about.
#[derive(Default)]
pub(super) struct Known {
    pub(super) pods: Pods,
    complaints: HashMap<String, String>,
}

impl Known {
    /// Takes over what was said; whether anything is different now.
    pub(super) fn take(&mut self, said: Said<Pod>) -> bool {
        match said {
            Said::All(all) => {
                self.complaints.retain(|name, _| all.contains_key(name));
                for (name, pod) in &all {
                    self.complain(name, pod);
                }
                let changed = self.pods.0 != all;
                self.pods.0 = all;
                changed
            }
            Said::One(name, pod) => {
                self.complain(&name, &pod);
                let before = self.pods.0.insert(name.clone(), pod);
                before.as_ref() != self.pods.0.get(&name)
            }
            Said::Gone(name) => {
                self.complaints.remove(&name);
                self.pods.0.remove(&name).is_some()
            }
            Said::At(_) | Said::Lost(_) | Said::Back => false,
        }
    }

    fn complain(&mut self, name: &str, pod: &Pod) {
        match &pod.wrong {
            Some(wrong) if self.complaints.get(name) != Some(wrong) => {
                warn!("pod {name}: {wrong}");
                self.complaints.insert(name.to_owned(), wrong.clone());
            }
            Some(_) => {}
            None => drop(self.complaints.remove(name)),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodJson {
    metadata: Metadata,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    host_network: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    address: Option<String>,
    #[serde(rename = "podIPs")]
    addresses: Option<Vec<PodAddress>>,
}

#[derive(Deserialize)]
struct PodAddress {
    #[serde(default)]
    ip: String,
}

impl Object for Pod {
    fn read(json: &str, _: &Reading) -> Result<(Identity, Option<Self>), serde_json::Error> {
        let PodJson { mut metadata, spec, status } = serde_json::from_str(json)?;
        let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
        let identity = metadata.identity();
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if ended || spec.host_network == Some(true) {
            return Ok((identity, None));
        }
        let annotations = metadata.annotations.unwrap_or_default();
        let mut wrong = None;
        let mut bandwidth = |name: &str| {
            let text = annotations.get(name)?;
            let read = text.parse::<BitRate>();
            if let Err(error) = &read {
                let text = crate::go_json::shorten(text);
                let reason = match error {
                    TypeError::Rate(_) => "it is not within 1k and 1P",
                    _ => "it is no quantity, such as 10M",
                };
                wrong = Some(format!("annotation {name} is {text:?}: {reason}; it does not count"));
            }
            read.ok()
        };
        let (ingress_bandwidth, egress_bandwidth) =
            (bandwidth("kubernetes.io/ingress-bandwidth"), bandwidth("kubernetes.io/egress-bandwidth"));
        let listed = status.addresses.filter(|list| !list.is_empty());
        let texts = listed.map(|list| list.into_iter().map(|address| address.ip).collect());
        let texts: Vec<String> = texts.unwrap_or_else(|| status.address.into_iter().collect());
        Ok((
            identity,
            Some(Self {
                addresses: texts.iter().filter_map(|text| text.parse().ok()).collect(),
                labels: metadata.labels.unwrap_or_default(),
                ingress_bandwidth,
                egress_bandwidth,
                wrong,
            }),
        ))
    }
}
