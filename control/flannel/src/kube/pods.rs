//! The pods of this node, for names in lists, and for what is annotated and labelled.

use super::follow::Said;
use super::object::{Identity, Metadata, Object, Reading};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use tracing::warn;

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
    /// What it may receive, in bits a second (annotation `kubernetes.io/ingress-bandwidth`).
    pub ingress_bandwidth: Option<u64>,
    /// What it may send, in bits a second (annotation `kubernetes.io/egress-bandwidth`).
    pub egress_bandwidth: Option<u64>,
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
            let read = bandwidth(text);
            if let Err(reason) = read {
                let text = crate::go_json::shorten(text);
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

/// Bits a second by a Kubernetes quantity: a decimal number with a suffix (`k`, `M`, `G`, `T`, `P`, with `i` behind for powers
/// of 1024; `m` for thousandths) or an exponent. The kubelet takes 1k to 1P, and so does weft.
fn bandwidth(text: &str) -> Result<u64, &'static str> {
    const NONE: &str = "it is no quantity, such as 10M";
    let number_ends = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_ends);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() || part.contains('.') || number.len() > 30 {
        return Err(NONE);
    }
    // Up to 30 digits and a factor of 2^50 at most: no overflow of 128 bits, after the range of exponents is checked.
    let digits: u128 = format!("{whole}{part}").parse().map_err(|_| NONE)?;
    let tens = |exponent: i32| (1u128, exponent);
    let (factor, exponent) = match suffix {
        "" => tens(0),
        "m" => tens(-3),
        "k" => tens(3),
        "M" => tens(6),
        "G" => tens(9),
        "T" => tens(12),
        "P" => tens(15),
        "E" => tens(18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        other => {
            let exponent = other.strip_prefix(['e', 'E']).ok_or(NONE)?;
            tens(exponent.parse().map_err(|_| NONE)?)
        }
    };
    let exponent = i64::from(exponent) - part.len() as i64;
    const RANGE: &str = "it is not within 1k and 1P";
    let value = match u32::try_from(exponent.unsigned_abs()).ok().and_then(|power| 10u128.checked_pow(power))
    {
        Some(power) if exponent >= 0 => digits.checked_mul(factor).and_then(|n| n.checked_mul(power)),
        Some(power) => digits.checked_mul(factor).map(|n| n / power),
        None => None,
    };
    match value.and_then(|value| u64::try_from(value).ok()) {
        Some(value @ 1_000..=1_000_000_000_000_000) => Ok(value),
        _ => Err(RANGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_quantities() {
        for (text, bits) in [
            ("1000", 1_000),
            ("1k", 1_000),
            ("10M", 10_000_000),
            ("0.5G", 500_000_000),
            (".5G", 500_000_000),
            ("1.", 0),
            ("1Mi", 1_048_576),
            ("1.5Ki", 1_536),
            ("1e6", 1_000_000),
            ("1E6", 1_000_000),
            ("12e-1k", 0),
            ("5000000m", 5_000),
            ("1P", 1_000_000_000_000_000),
            ("1E", 0),
            ("999", 0),
            ("2P", 0),
            ("99999999999999999999999999999P", 0),
            ("1e999999999999", 0),
            ("1e-2147483648", 0),
            ("", 0),
            (".", 0),
            ("M", 0),
            ("-1M", 0),
            ("1.2.3M", 0),
            ("10 M", 0),
            ("10Mb", 0),
            ("١k", 0),
        ] {
            assert_eq!(bandwidth(text).unwrap_or_default(), bits, "{text}");
        }
    }
}
