//! A lease: which subnets a node has, and by what its peers reach it. The texts are flannel's, byte for byte: etcd's keys
//! and values, and what Kubernetes nodes are annotated with.

use crate::go_json::{Object, WrongValue};
use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::value::RawValue;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_types::{MacAddr, Vni};

/// The subnets of one node, without host bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnets {
    /// That of IPv4. In etcd each node has one, since the key begins with it.
    pub v4: Option<Ipv4Net>,
    /// That of IPv6.
    pub v6: Option<Ipv6Net>,
}

impl Subnets {
    /// The last part of the key in etcd: `10.5.34.0-24`, or `10.12.13.0-24&fd00:12:13::-64`. None without IPv4.
    pub fn key(&self) -> Option<String> {
        let v4 = self.v4?;
        let mut key = format!("{}-{}", v4.network(), v4.prefix_len());
        if let Some(v6) = self.v6 {
            key.push_str(&format!("&{}-{}", v6.network(), v6.prefix_len()));
        }
        Some(key)
    }

    /// Reads the last part of a key.
    ///
    /// # Errors
    /// It is not of that form, or an address has host bits.
    pub fn from_key(key: &str) -> Result<Self, WrongKey> {
        let wrong = || WrongKey(crate::go_json::shorten(key));
        let (v4, v6) = match key.split_once('&') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (key, None),
        };
        let parts = |text: &str| -> Option<(IpAddr, u8)> {
            let (address, length) = text.rsplit_once('-')?;
            let digits = length.bytes().all(|digit| digit.is_ascii_digit());
            Some((address.parse().ok()?, length.parse().ok().filter(|_| digits)?))
        };
        let read_v4 = |text| match parts(text)? {
            (IpAddr::V4(address), length) => {
                Ipv4Net::new(address, length).ok().filter(|net| net.network() == address)
            }
            (IpAddr::V6(_), _) => None,
        };
        let read_v6 = |text| match parts(text)? {
            (IpAddr::V6(address), length) => {
                Ipv6Net::new(address, length).ok().filter(|net| net.network() == address)
            }
            (IpAddr::V4(_), _) => None,
        };
        Ok(Self {
            v4: Some(read_v4(v4).ok_or_else(wrong)?),
            v6: match v6 {
                Some(text) => Some(read_v6(text).ok_or_else(wrong)?),
                None => None,
            },
        })
    }

    /// Whether the two have an address in common.
    pub fn overlap(&self, other: &Self) -> bool {
        let v4 = self.v4.zip(other.v4).is_some_and(|(a, b)| a.contains(&b) || b.contains(&a));
        let v6 = self.v6.zip(other.v6).is_some_and(|(a, b)| a.contains(&b) || b.contains(&a));
        v4 || v6
    }
}

impl fmt::Display for Subnets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4} and {v6}"),
            (Some(v4), None) => write!(f, "{v4}"),
            (None, Some(v6)) => write!(f, "{v6}"),
            (None, None) => f.write_str("no subnet"),
        }
    }
}

/// Text that is no key of a lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no subnet's key, such as 10.5.34.0-24 or 10.5.34.0-24&fd00:12:13::-64")]
pub struct WrongKey(String);

/// How a node is reached by its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The IPv4 address that peers send to. flannel writes `0.0.0.0` where there is none.
    pub public_ip: Option<Ipv4Addr>,
    /// The IPv6 address that peers send to.
    pub public_ipv6: Option<Ipv6Addr>,
    /// `vxlan`, `host-gw`, `ipip` …; empty for `udp` and `alloc`.
    pub backend_type: String,
    /// What the backend publishes for IPv4, as compact JSON. None: nothing. The text `null` counts as that too.
    pub backend_data: Option<String>,
    /// The same for IPv6.
    pub backend_v6_data: Option<String>,
}

impl Attributes {
    /// The value of a lease in etcd, as Go marshals it: this order, no spaces, the last three only if there are such.
    pub fn to_json(&self) -> String {
        let v4 = self.public_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut text = format!("{{\"PublicIP\":\"{v4}\",\"PublicIPv6\":");
        match self.public_ipv6 {
            Some(v6) => text.push_str(&format!("\"{v6}\"")),
            None => text.push_str("null"),
        }
        if !self.backend_type.is_empty() {
            text.push_str(&format!(
                ",\"BackendType\":{}",
                serde_json::Value::from(self.backend_type.as_str())
            ));
        }
        for (name, data) in [("BackendData", &self.backend_data), ("BackendV6Data", &self.backend_v6_data)] {
            if let Some(data) = data {
                text.push_str(&format!(",\"{name}\":{data}"));
            }
        }
        text.push('}');
        text
    }

    /// Reads the value of a lease.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(text: &str) -> Result<Self, WrongLease> {
        let object = Object::parse(text).map_err(|error| WrongLease::Json(error.to_string()))?;
        let data = |key| -> Option<String> { compact(object.text(key)?) };
        Ok(Self {
            public_ip: object.get::<Ipv4Addr>("PublicIP")?.filter(|address| !address.is_unspecified()),
            public_ipv6: object.get::<Ipv6Addr>("PublicIPv6")?.filter(|address| !address.is_unspecified()),
            backend_type: object.get("BackendType")?.unwrap_or_default(),
            backend_data: data("BackendData"),
            backend_v6_data: data("BackendV6Data"),
        })
    }
}

/// JSON without white space between its signs, as Go writes raw messages.
fn compact(text: &str) -> Option<String> {
    let text: &RawValue = serde_json::from_str(text).ok()?;
    let (mut out, mut quoted, mut escaped) = (String::with_capacity(text.get().len()), false, false);
    for letter in text.get().chars() {
        if quoted || !letter.is_ascii_whitespace() {
            out.push(letter);
        }
        (quoted, escaped) = match (quoted, escaped, letter) {
            (true, true, _) => (true, false),
            (true, false, '\\') => (true, true),
            (_, false, '"') => (!quoted, false),
            (same, ..) => (same, false),
        };
    }
    Some(out)
}

/// What is wrong with a lease's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongLease {
    /// It is no JSON object.
    #[error("it is no JSON object: {0}")]
    Json(String),
    /// A key holds something else.
    #[error(transparent)]
    Value(#[from] WrongValue),
}

/// What a node publishes of its VTEP on one underlay (backend `vxlan`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanData {
    /// The VNI of its device. Leases of old flannels have none.
    pub vni: Option<Vni>,
    /// The inner destination of what is routed to the node.
    pub vtep_mac: MacAddr,
}

impl VxlanData {
    /// Exactly what flannel writes, since it reads its own address back by splitting the text, not as JSON.
    pub fn to_json(&self) -> String {
        match self.vni {
            Some(vni) => format!("{{\"VNI\":{vni},\"VtepMAC\":\"{}\"}}", self.vtep_mac),
            None => format!("{{\"VtepMAC\":\"{}\"}}", self.vtep_mac),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is no JSON object, or the MAC address is missing or none that a station can have.
    pub fn from_json(text: &str) -> Result<Self, WrongLease> {
        let object = Object::parse(text).map_err(|error| WrongLease::Json(error.to_string()))?;
        let wrong = |key: &'static str, found: &str, reason: &str| {
            WrongLease::Value(WrongValue {
                key,
                found: crate::go_json::shorten(found),
                reason: reason.to_owned(),
            })
        };
        let vni = match object.get::<u32>("VNI")? {
            Some(number) => Some(
                Vni::new(number).map_err(|error| wrong("VNI", &number.to_string(), &error.to_string()))?,
            ),
            None => None,
        };
        let mac: String = object
            .get("VtepMAC")?
            .ok_or_else(|| wrong("VtepMAC", "missing", "it is the address of the VTEP"))?;
        // Go reads hyphens as well.
        let vtep_mac: MacAddr = mac.replace('-', ":").parse().map_err(|_| {
            wrong("VtepMAC", &mac, "it is no MAC address (six hexadecimal bytes with colons)")
        })?;
        if !vtep_mac.is_unicast() {
            return Err(wrong("VtepMAC", &mac, "no single station can have that address"));
        }
        Ok(Self { vni, vtep_mac })
    }
}

#[cfg(test)]
mod tests;
