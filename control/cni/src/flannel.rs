//! What flannel leaves for its CNI plugin, and what that plugin leaves: the node's subnet in one file, and for each
//! container how it was attached. The latter is kept as flannel's plugin keeps it, so that each of the two can delete the
//! other's pods.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::conf::Conf;
use crate::environment::Call;
use crate::error::{Error, code, io};
use crate::host_local::{Holder, Store};

/// The plugin that gives addresses where none is named.
pub(crate) const HOST_LOCAL: &str = "host-local";
/// A key in what is kept of a container, which says that this plugin made its interface. flannel's passes it on to the
/// bridge plugin, which does not look at it.
const OURS: &str = "madeByWeft";
/// The network of the list that flannel ships.
const NETWORK: &str = "cbr0";

/// What `subnet.env` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubnetEnv {
    /// All pods of the cluster.
    pub(crate) networks: Vec<IpNet>,
    /// The node's own, as networks.
    pub(crate) subnets: Vec<IpNet>,
    pub(crate) mtu: u32,
    pub(crate) ip_masq: bool,
}

impl SubnetEnv {
    /// Reads the file; until the node has its subnet, it is not there.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|error| {
            let code = if error.kind() == ErrorKind::NotFound { code::TRY_AGAIN } else { code::IO };
            let msg = format!("failed to load flannel 'subnet.env' file: {}: {error}", path.display());
            Error::new(code, msg)
                .with("weftd, or flanneld, writes it once the node has its subnet: see its log")
        })?;
        Self::parse(&text).map_err(|why| {
            let msg = format!("failed to load flannel 'subnet.env' file: {}: {why}", path.display());
            Error::new(code::CONFIG, msg)
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value = |key: &str| {
            text.lines().rev().find_map(|line| {
                let (there, value) = line.trim().split_once('=')?;
                (there == key).then(|| value.trim())
            })
        };
        let nets = |keys: [&str; 2]| {
            let given = keys.into_iter().filter_map(|key| Some((key, value(key)?)));
            let texts = given.flat_map(|(key, list)| list.split(',').map(move |text| (key, text.trim())));
            let nets = texts.filter(|(_, text)| !text.is_empty()).map(|(key, text)| {
                text.parse::<IpNet>()
                    .map(|net| net.trunc())
                    .map_err(|_| format!("{key}: {text:?} is no network"))
            });
            nets.collect::<Result<Vec<_>, _>>()
        };
        let networks = nets(["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"])?;
        let subnets = nets(["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"])?;
        let (mtu, ip_masq) = (value("FLANNEL_MTU"), value("FLANNEL_IPMASQ"));
        let missing: Vec<_> = [
            ("FLANNEL_NETWORK", networks.is_empty()),
            ("FLANNEL_SUBNET", subnets.is_empty()),
            ("FLANNEL_MTU", mtu.is_none()),
            ("FLANNEL_IPMASQ", ip_masq.is_none()),
        ]
        .into_iter()
        .filter_map(|(key, missing)| missing.then_some(key))
        .collect();
        let (Some(mtu), Some(ip_masq), []) = (mtu, ip_masq, &missing[..]) else {
            return Err(format!("missing {}", missing.join(", ")));
        };
        Ok(Self {
            networks,
            subnets,
            mtu: mtu.parse().map_err(|_| format!("FLANNEL_MTU: {mtu:?} is no number"))?,
            ip_masq: ip_masq == "true",
        })
    }

    /// The configuration of host-local that flannel's plugin makes of it.
    pub(crate) fn ipam(&self, given: Option<&Map<String, Value>>) -> Map<String, Value> {
        let mut ipam = given.cloned().unwrap_or_default();
        ipam.entry("type").or_insert_with(|| HOST_LOCAL.into());
        let ranges: Vec<_> = self.subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
        ipam.insert("ranges".to_owned(), ranges.into());
        let mut routes = match ipam.remove("routes") {
            Some(Value::Array(routes)) => routes,
            _ => Vec::new(),
        };
        routes.extend(self.networks.iter().map(|network| json!({ "dst": network })));
        ipam.insert("routes".to_owned(), routes.into());
        ipam
    }
}

/// How a container was attached, as flannel's plugin keeps it.
pub(crate) struct Kept {
    path: PathBuf,
    /// The configuration that the bridge plugin got, or would get.
    pub(crate) delegate: Map<String, Value>,
}

impl Kept {
    fn path(conf: &Conf, container: &str) -> PathBuf {
        conf.flannel_dir().join(container)
    }

    /// What is kept of a container. One that can't be understood is no more than flannel's plugin would make of it: nothing.
    pub(crate) fn of(conf: &Conf, container: &str) -> Result<Option<Self>, Error> {
        let path = Self::path(conf, container);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("read", &path)(error)),
        };
        Ok(serde_json::from_slice(&text).ok().map(|delegate| Self { path, delegate }))
    }

    /// The same, of the attachment that a call is about: what is kept says the container only, which may have interfaces of
    /// other networks too.
    pub(crate) fn of_attachment(conf: &Conf, call: &Call) -> Result<Option<Self>, Error> {
        let Some(kept) = Self::of(conf, &call.container)? else { return Ok(None) };
        if conf.is_flannel || kept.network() == conf.name {
            return Ok(Some(kept));
        }
        // The network's name may be another one since.
        let empty = Map::new();
        let holders = Store::of(kept.network(), kept.ipam().unwrap_or(&empty)).holders()?;
        let same = |holder: &Holder| {
            holder.container == call.container && holder.ifname.as_deref() == Some(call.ifname.as_str())
        };
        Ok(holders.iter().any(same).then_some(kept))
    }

    /// All that are kept of this network, with their containers.
    pub(crate) fn all(conf: &Conf) -> Result<Vec<(String, Self)>, Error> {
        let folder = conf.flannel_dir();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io("read", &folder)(error)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry.map_err(io("read", &folder))?.file_name();
            let Some(container) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            if let Some(kept) = Self::of(conf, container)?.filter(|kept| kept.network() == conf.name) {
                all.push((container.to_owned(), kept));
            }
        }
        Ok(all)
    }

    /// Whether this plugin made the interface.
    pub(crate) fn is_ours(&self) -> bool {
        self.delegate.get(OURS) == Some(&Value::Bool(true))
    }

    /// The network's name.
    pub(crate) fn network(&self) -> &str {
        self.delegate.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// The configuration of the plugin that gave the addresses.
    pub(crate) fn ipam(&self) -> Option<&Map<String, Value>> {
        self.delegate.get("ipam").and_then(Value::as_object)
    }

    /// Forgets it; what is gone is fine.
    pub(crate) fn forget(&self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", &self.path)(error)),
            _ => Ok(()),
        }
    }
}

/// Whether flannel's plugin may have to delete what is attached so: by a list of its own, or of its network, with addresses
/// that would stay taken otherwise.
pub(crate) fn is_kept(conf: &Conf, ipam: &Map<String, Value>) -> bool {
    let host_local = ipam.get("type").and_then(Value::as_str) == Some(HOST_LOCAL);
    conf.is_flannel || conf.name == NETWORK && host_local
}

/// Keeps how a container is attached, before it is: as flannel's plugin would attach it, who takes it over when a node goes
/// back.
pub(crate) fn keep(
    conf: &Conf,
    env: Option<&SubnetEnv>,
    ipam: &Map<String, Value>,
    container: &str,
) -> Result<(), Error> {
    let mut delegate = conf.delegate.clone();
    delegate.insert("type".to_owned(), "bridge".into());
    delegate.insert("name".to_owned(), conf.name.as_str().into());
    delegate.insert("cniVersion".to_owned(), conf.version.text().into());
    if let Some(env) = env {
        delegate.entry("ipMasq").or_insert((!env.ip_masq).into());
        delegate.entry("mtu").or_insert(env.mtu.into());
    }
    delegate.entry("isGateway").or_insert(true.into());
    delegate.insert("ipam".to_owned(), Value::Object(ipam.clone()));
    delegate
        .extend(conf.raw.get("runtimeConfig").map(|runtime| ("runtimeConfig".to_owned(), runtime.clone())));
    delegate.insert(OURS.to_owned(), true.into());

    let folder = conf.flannel_dir();
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io("make", &folder))?;
    let path = Kept::path(conf, container);
    // Whoever is killed half-way leaves the old one or the new one, whole.
    let new = folder.join(format!(".{container}.new"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(Value::Object(delegate).to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&folder)?.sync_all()
    };
    write().map_err(io("write", &path))
}

/// The first address of a network that hosts may have: the gateway.
pub(crate) fn gateway_of(net: &IpNet) -> IpAddr {
    match net.network() {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip).saturating_add(1)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip).saturating_add(1)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.3.1/24\n\
        FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42:3::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    #[test]
    fn the_subnet_is_read_as_flannel_writes_it() {
        let env = SubnetEnv::parse(BOTH).unwrap();
        assert_eq!((env.mtu, env.ip_masq), (1450, true));
        let ipam = env.ipam(None);
        assert_eq!(
            Value::Object(ipam),
            json!({"type": "host-local", "ranges": [[{"subnet": "10.42.3.0/24"}], [{"subnet": "2001:cafe:42:3::/64"}]],
                "routes": [{"dst": "10.42.0.0/16"}, {"dst": "2001:cafe:42::/56"}]})
        );
        let several = BOTH.replace("=10.42.0.0/16", "=10.42.0.0/16,10.43.0.0/16");
        let given = json!({"type": "other", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/d"});
        let ipam = SubnetEnv::parse(&several).unwrap().ipam(given.as_object());
        assert_eq!(ipam["routes"].as_array().unwrap().len(), 4);
        assert_eq!((&ipam["type"], &ipam["dataDir"]), (&json!("other"), &json!("/d")));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            SubnetEnv::parse("FLANNEL_NETWORK=10.42.0.0/16\n").unwrap_err(),
            "missing FLANNEL_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
        );
        assert!(SubnetEnv::parse(&BOTH.replace("1450", "x")).unwrap_err().contains("FLANNEL_MTU"));
        assert!(
            SubnetEnv::parse(&BOTH.replace("10.42.3.1", "10.42.3")).unwrap_err().contains("FLANNEL_SUBNET")
        );
        assert!(SubnetEnv::read(Path::new("/nowhere/subnet.env")).is_err_and(|error| error.code == 11));
    }
}
