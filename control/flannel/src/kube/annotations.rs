//! The annotations by which nodes tell each other how they are reached. Names and values are flannel's, byte for byte.

use crate::lease::Attributes;
use crate::net_conf::{Backend, NetConf};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What the annotations are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    managed: String,
    backend_type: String,
    backend_data: String,
    backend_v6_data: String,
    public_ip: String,
    public_ipv6: String,
    public_ip_overwrite: String,
    public_ipv6_overwrite: String,
    node_public_ip: String,
    node_public_ipv6: String,
}

/// A prefix that no annotation can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--kube-annotation-prefix {0:?}: write it as a domain name, or as one with a slash and a word, such as \
     flannel.alpha.coreos.com or example.com/pods (small letters, digits, '-' and '_')"
)]
pub struct WrongPrefix(String);

impl Names {
    /// flannel's rules: a slash is added where there is none; where there is one with something behind it, a hyphen.
    pub(super) fn new(prefix: &str) -> Result<Self, WrongPrefix> {
        let wrong = || WrongPrefix(prefix.to_owned());
        let (domain, word) = prefix.split_once('/').unwrap_or((prefix, ""));
        let letters = |text: &str| {
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
        };
        let labels: Vec<_> = domain.split('.').collect();
        if labels.len() < 2 || labels.iter().any(|label| label.is_empty() || !letters(label)) {
            return Err(wrong());
        }
        if !letters(word) || word == "-" {
            return Err(wrong());
        }
        let hyphen = if word.is_empty() || word.ends_with('-') { "" } else { "-" };
        let name = |last: &str| format!("{domain}/{word}{hyphen}{last}");
        Ok(Self {
            managed: name("kube-subnet-manager"),
            backend_type: name("backend-type"),
            backend_data: name("backend-data"),
            backend_v6_data: name("backend-v6-data"),
            public_ip: name("public-ip"),
            public_ipv6: name("public-ipv6"),
            public_ip_overwrite: name("public-ip-overwrite"),
            public_ipv6_overwrite: name("public-ipv6-overwrite"),
            node_public_ip: name("node-public-ip"),
            node_public_ipv6: name("node-public-ipv6"),
        })
    }
}

/// What a node's annotations say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// It takes part in flannel's network.
    pub(super) managed: bool,
    pub(super) backend_type: Option<Box<str>>,
    pub(super) backend_data: Option<Box<str>>,
    pub(super) backend_v6_data: Option<Box<str>>,
    pub(super) public_ip: Option<Box<str>>,
    pub(super) public_ipv6: Option<Box<str>>,
    /// What an operator wants published, and which of its addresses the node is to use: read of this node only.
    pub(super) asked: Asked,
}

/// What an operator asks for by annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) public_ip_overwrite: Option<Box<str>>,
    pub(super) public_ipv6_overwrite: Option<Box<str>>,
    pub(super) node_public_ip: Option<Box<str>>,
    pub(super) node_public_ipv6: Option<Box<str>>,
}

impl Notes {
    /// Takes what is ours out of all annotations.
    pub(super) fn pick(mut all: HashMap<String, String>, names: &Names, own: bool) -> Self {
        let mut take = |name: &str| all.remove(name).map(String::into_boxed_str);
        Self {
            managed: take(&names.managed).is_some_and(|value| &*value == "true"),
            backend_type: take(&names.backend_type),
            backend_data: take(&names.backend_data),
            backend_v6_data: take(&names.backend_v6_data),
            public_ip: take(&names.public_ip),
            public_ipv6: take(&names.public_ipv6),
            asked: match own {
                true => Asked {
                    public_ip_overwrite: take(&names.public_ip_overwrite).filter(|text| !text.is_empty()),
                    public_ipv6_overwrite: take(&names.public_ipv6_overwrite).filter(|text| !text.is_empty()),
                    node_public_ip: take(&names.node_public_ip),
                    node_public_ipv6: take(&names.node_public_ipv6),
                },
                false => Asked::default(),
            },
        }
    }

    /// The patch that makes a node say `attributes`, with only what differs. None: it says so already.
    pub(super) fn patch(&self, attributes: &Attributes, config: &NetConf, names: &Names) -> Option<String> {
        let mut patch = BTreeMap::new();
        let mut set = |name: &str, now: &Option<Box<str>>, wanted: &str| {
            if now.as_deref() != Some(wanted) {
                patch.insert(name.to_owned(), wanted.to_owned());
            }
        };
        let json = |data: &Option<String>| data.clone().unwrap_or_else(|| "null".to_owned());
        set(&names.backend_type, &self.backend_type, &attributes.backend_type);
        // A VTEP without a MAC address is none.
        let has = |data: &Option<String>| !matches!(config.backend, Backend::Vxlan(_)) || data.is_some();
        let (asked, data) = (&self.asked, &attributes.backend_data);
        let public_ip = published(attributes.public_ip, &asked.public_ip_overwrite);
        if let Some(public_ip) = public_ip.filter(|_| config.network.is_some() && has(data)) {
            set(&names.backend_data, &self.backend_data, &json(data));
            set(&names.public_ip, &self.public_ip, &public_ip);
        }
        // flannel's backends with IPv6, of those that weft has.
        let can =
            config.ipv6_network.is_some() && matches!(config.backend, Backend::Vxlan(_) | Backend::HostGw);
        let data = &attributes.backend_v6_data;
        let public_ipv6 = published(attributes.public_ipv6, &asked.public_ipv6_overwrite);
        if let Some(public_ipv6) = public_ipv6.filter(|_| can && has(data)) {
            set(&names.backend_v6_data, &self.backend_v6_data, &json(data));
            set(&names.public_ipv6, &self.public_ipv6, &public_ipv6);
        }
        let managed = self.managed.then(|| "true".into());
        set(&names.managed, &managed, "true");
        (!patch.is_empty()).then(|| format!("{{\"metadata\":{{\"annotations\":{}}}}}", object(&patch)))
    }
}

/// A JSON object of strings, in the order of their names as Go writes maps.
fn object(pairs: &BTreeMap<String, String>) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let pairs: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// The address that is published: an operator's word counts more than the interface, if it is an address at all.
fn published<A: FromStr + fmt::Display>(address: Option<A>, overwrite: &Option<Box<str>>) -> Option<String> {
    let asked = overwrite.as_deref().filter(|text| text.parse::<A>().is_ok()).map(str::to_owned);
    asked.or_else(|| address.map(|address| address.to_string()))
}

/// What an operator has annotated this node with, and what it said of itself before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// `node-public-ip`: as if it were given as `--public-ip`.
    pub public_ip: Option<Ipv4Addr>,
    /// `node-public-ipv6`: as if it were given as `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
    /// `public-ip-overwrite`: what the others are told in its place.
    pub public_ip_overwrite: Option<Ipv4Addr>,
    /// `public-ipv6-overwrite`: the same.
    pub public_ipv6_overwrite: Option<Ipv6Addr>,
    /// The VTEP's MAC address that the peers know, to be kept.
    pub vtep_mac: Option<weft_types::MacAddr>,
    /// The same on the IPv6 underlay.
    pub vtep_mac_v6: Option<weft_types::MacAddr>,
}

impl Notes {
    /// Reads what concerns this node's start. What can't be read is told by `complain`, and does not count.
    pub(super) fn advice(&self, mut complain: impl FnMut(String)) -> Advice {
        let mac = |text: &Option<Box<str>>| {
            let data = crate::lease::VxlanData::from_json(text.as_deref()?).ok()?;
            Some(data.vtep_mac)
        };
        let asked = &self.asked;
        Advice {
            public_ip_overwrite: parse("public-ip-overwrite", &asked.public_ip_overwrite, &mut complain),
            public_ipv6_overwrite: parse(
                "public-ipv6-overwrite",
                &asked.public_ipv6_overwrite,
                &mut complain,
            ),
            public_ip: parse("node-public-ip", &asked.node_public_ip, &mut complain),
            public_ipv6: parse("node-public-ipv6", &asked.node_public_ipv6, &mut complain),
            vtep_mac: mac(&self.backend_data),
            vtep_mac_v6: mac(&self.backend_v6_data),
        }
    }
}

fn parse<A>(name: &str, text: &Option<Box<str>>, complain: &mut impl FnMut(String)) -> Option<A>
where
    A: FromStr<Err: fmt::Display>,
{
    let text = text.as_deref()?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(error) => {
            complain(format!("annotation {name} is {:?}: {error}", crate::go_json::shorten(text)));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Own;

    const VXLAN: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
    const DUAL: &str = r#"{"Network":"10.244.0.0/16","IPv6Network":"fd00:10:244::/56","EnableIPv6":true,
                           "Backend":{"Type":"vxlan"}}"#;

    fn own() -> Own {
        Own {
            public_ip: Some(Ipv4Addr::new(172, 16, 0, 1)),
            public_ipv6: Some("fd00::1".parse().unwrap()),
            vtep_mac: Some("12:c6:65:89:b4:e3".parse().unwrap()),
            vtep_mac_v6: Some("02:00:00:00:00:06".parse().unwrap()),
            inherits: false,
            previous: None,
        }
    }

    fn patch(config: &str, notes: &Notes) -> Option<String> {
        let (config, names) =
            (NetConf::parse(config).unwrap(), Names::new("flannel.alpha.coreos.com").unwrap());
        notes.patch(&own().attributes(&config), &config, &names)
    }

    #[test]
    fn prefixes_are_completed_as_flannel_does() {
        let first = |prefix: &str| Names::new(prefix).map(|names| names.managed);
        let name = |text: &str| Ok(text.to_owned());
        assert_eq!(first("flannel.alpha.coreos.com"), name("flannel.alpha.coreos.com/kube-subnet-manager"));
        assert_eq!(first("flannel.alpha.coreos.com/"), name("flannel.alpha.coreos.com/kube-subnet-manager"));
        assert_eq!(first("a.b/pods"), name("a.b/pods-kube-subnet-manager"));
        assert_eq!(first("a.b/pods-"), name("a.b/pods-kube-subnet-manager"));
        assert_eq!(first("a_1.b-2/x_y"), name("a_1.b-2/x_y-kube-subnet-manager"));
        for wrong in
            ["", "/", "flannel", "flannel/", "a..b", ".a.b", "a.b/c/d", "a.b/C", "A.b", "a.b/ä", "a.b/-"]
        {
            assert!(Names::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_patch_has_flannels_bytes() {
        assert_eq!(
            patch(VXLAN, &Notes::default()).unwrap(),
            concat!(
                r#"{"metadata":{"annotations":{"#,
                r#""flannel.alpha.coreos.com/backend-data":"{\"VNI\":1,\"VtepMAC\":\"12:c6:65:89:b4:e3\"}","#,
                r#""flannel.alpha.coreos.com/backend-type":"vxlan","#,
                r#""flannel.alpha.coreos.com/kube-subnet-manager":"true","#,
                r#""flannel.alpha.coreos.com/public-ip":"172.16.0.1"}}}"#
            )
        );
        assert_eq!(
            patch(DUAL, &Notes::default()).unwrap(),
            concat!(
                r#"{"metadata":{"annotations":{"#,
                r#""flannel.alpha.coreos.com/backend-data":"{\"VNI\":1,\"VtepMAC\":\"12:c6:65:89:b4:e3\"}","#,
                r#""flannel.alpha.coreos.com/backend-type":"vxlan","#,
                r#""flannel.alpha.coreos.com/backend-v6-data":"{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:00:06\"}","#,
                r#""flannel.alpha.coreos.com/kube-subnet-manager":"true","#,
                r#""flannel.alpha.coreos.com/public-ip":"172.16.0.1","#,
                r#""flannel.alpha.coreos.com/public-ipv6":"fd00::1"}}}"#
            )
        );
        for (backend, kind) in [("host-gw", "host-gw"), ("ipip", "ipip"), ("udp", ""), ("alloc", "")] {
            let config = format!(r#"{{"Network":"10.244.0.0/16","Backend":{{"Type":"{backend}"}}}}"#);
            let wanted = concat!(
                r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/backend-data":"null","#,
                r#""flannel.alpha.coreos.com/backend-type":"KIND","#,
                r#""flannel.alpha.coreos.com/kube-subnet-manager":"true","#,
                r#""flannel.alpha.coreos.com/public-ip":"172.16.0.1"}}}"#
            );
            assert_eq!(patch(&config, &Notes::default()).unwrap(), wanted.replace("KIND", kind), "{backend}");
        }
    }

    #[test]
    fn only_what_differs_is_written() {
        let said = Notes {
            managed: true,
            backend_type: Some("vxlan".into()),
            backend_data: Some(r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#.into()),
            public_ip: Some("172.16.0.1".into()),
            ..Notes::default()
        };
        assert_eq!(patch(VXLAN, &said), None);
        // The same as JSON is not enough: flanneld splits the text.
        let spaced = Notes {
            backend_data: Some(r#"{"VNI": 1,"VtepMAC":"12:c6:65:89:b4:e3"}"#.into()),
            ..said.clone()
        };
        assert_eq!(
            patch(VXLAN, &spaced).unwrap(),
            r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/backend-data":"{\"VNI\":1,\"VtepMAC\":\"12:c6:65:89:b4:e3\"}"}}}"#
        );
        let asked = Asked { public_ip_overwrite: Some("203.0.113.9".into()), ..Asked::default() };
        assert_eq!(
            patch(VXLAN, &Notes { asked: asked.clone(), ..said.clone() }).unwrap(),
            r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/public-ip":"203.0.113.9"}}}"#
        );
        let done = Notes { asked, public_ip: Some("203.0.113.9".into()), ..said };
        assert_eq!(patch(VXLAN, &done), None);
        let nonsense = Asked { public_ip_overwrite: Some("nonsense".into()), ..Asked::default() };
        assert_eq!(
            patch(VXLAN, &Notes { asked: nonsense, ..done }).unwrap(),
            r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/public-ip":"172.16.0.1"}}}"#
        );
    }

    #[test]
    fn a_node_reads_its_own_notes_at_its_start() {
        let notes = Notes {
            backend_data: Some(r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#.into()),
            backend_v6_data: Some("null".into()),
            asked: Asked {
                node_public_ip: Some("10.0.0.7".into()),
                node_public_ipv6: Some("nonsense".into()),
                ..Asked::default()
            },
            ..Notes::default()
        };
        let mut complaints = Vec::new();
        let advice = notes.advice(|complaint| complaints.push(complaint));
        assert_eq!(advice.public_ip, Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(advice.vtep_mac, Some("12:c6:65:89:b4:e3".parse().unwrap()));
        assert_eq!((advice.public_ipv6, advice.vtep_mac_v6), (None, None));
        assert_eq!(complaints, [r#"annotation node-public-ipv6 is "nonsense": invalid IPv6 address syntax"#]);
    }
}
