//! weftd.toml while weftd runs: it is read again after each change and on demand.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tracing::{debug, error};

use crate::config::{Config, ConfigError, LogLevel, SourceKind};
use crate::source::watch::Watch;
use weft_flannel::flags::Flags;

/// The file with weftd's own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether a missing file means the defaults: nobody has named it.
    pub optional: bool,
    /// flanneld's options from the command line, which go before the file.
    pub flags: Flags,
}

impl ConfigFile {
    /// Reads it.
    ///
    /// # Errors
    /// As [`Config::load`]; a missing file only if it is not optional.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut config = match self.optional {
            true => Config::load_or_default(&self.path)?,
            false => Config::load(&self.path)?,
        };
        apply(&self.flags, &mut config);
        Ok(config)
    }

    /// Sends the configuration, or why there is none, at once and after each change, until nobody receives any more.
    /// `reload` asks for it without a change (SIGHUP). What is sent may equal the last.
    pub async fn follow(self, updates: mpsc::Sender<Result<Config, ConfigError>>, reload: Arc<Notify>) {
        let mut watch = Watch::new(&self.path);
        loop {
            let file = self.clone();
            match tokio::task::spawn_blocking(move || file.load()).await {
                Ok(update) => {
                    if updates.send(update).await.is_err() {
                        return;
                    }
                }
                Err(broken) => error!("{}: reading broke off: {broken}", self.path.display()),
            }
            tokio::select! {
                () = watch.changed() => debug!("{} has changed", self.path.display()),
                () = reload.notified() => debug!("{} is read again on demand", self.path.display()),
                () = updates.closed() => return,
            }
        }
    }
}

/// Puts flanneld's options, as far as any is given, in place of what the file says.
fn apply(flags: &Flags, config: &mut Config) {
    if flags.any() {
        config.source.kind = match (flags.kube_subnet_mgr, config.source.kind) {
            (Some(true), _) | (None, SourceKind::Kubernetes) => SourceKind::Kubernetes,
            _ => SourceKind::Etcd,
        };
    }
    let etcd = &mut config.etcd;
    if let Some(endpoints) = &flags.etcd_endpoints {
        etcd.endpoints = endpoints.join(",");
    }
    if let Some(prefix) = &flags.etcd_prefix {
        etcd.prefix.clone_from(prefix);
    }
    // Go's flags say nothing by an empty text.
    let path = |given: &Option<PathBuf>, into: &mut Option<PathBuf>| {
        if let Some(path) = given.clone().filter(|path| !path.as_os_str().is_empty()) {
            *into = Some(path);
        }
    };
    path(&flags.etcd_keyfile, &mut etcd.key_file);
    path(&flags.etcd_certfile, &mut etcd.cert_file);
    path(&flags.etcd_cafile, &mut etcd.ca_file);
    if let Some(name) = flags.etcd_username.clone().filter(|name| !name.is_empty()) {
        etcd.username = Some(name);
    }
    if let Some(margin) = flags.subnet_lease_renew_margin {
        etcd.renew_margin_min = margin;
    }
    let kubernetes = &mut config.kubernetes;
    if let Some(url) = flags.kube_api_url.clone().filter(|url| !url.is_empty()) {
        kubernetes.api_url = Some(url);
    }
    path(&flags.kubeconfig_file, &mut kubernetes.kubeconfig);
    if let Some(prefix) = &flags.kube_annotation_prefix {
        kubernetes.annotation_prefix.clone_from(prefix);
    }
    if let Some(path) = &flags.net_config_path {
        kubernetes.net_conf.clone_from(path);
    }
    if let Some(set) = flags.set_node_network_unavailable {
        kubernetes.set_network_unavailable = set;
    }
    if flags.iface.is_some() || flags.iface_regex.is_some() || flags.iface_can_reach.is_some() {
        // They choose it.
        config.uplink.interface = None;
    }
    let flannel = &mut config.flannel;
    flannel.public_ip = flags.public_ip.or(flannel.public_ip);
    flannel.public_ipv6 = flags.public_ipv6.or(flannel.public_ipv6);
    if let Some(path) = &flags.subnet_file {
        flannel.subnet_file.clone_from(path);
    }
    if let Some(masq) = flags.ip_masq {
        flannel.ip_masq = masq;
    }
    if let Some(disable) = flags.ip_masq_fully_random_disable {
        flannel.ip_masq_random = !disable;
    }
    if let Some(rules) = flags.iptables_forward_rules {
        flannel.forward_rules = rules;
    }
    if let Some(seconds) = flags.iptables_resync {
        // As the setting has it.
        flannel.resync_s = seconds.clamp(1, 86_400);
    }
    if let Some(route) = flags.ip_blackhole_route {
        flannel.blackhole_route = route;
    }
    if let Some(port) = flags.healthz_port {
        let ip = flags.healthz_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        flannel.healthz = (port != 0).then(|| SocketAddr::new(ip, port));
    }
    if flags.v.is_some_and(|v| v >= 4) {
        config.log.level = LogLevel::Debug;
    }
}

/// Has both files read again without a change. Clones ask for the same.
#[derive(Clone, Debug, Default)]
pub struct Reload {
    pub(crate) cluster: Arc<Notify>,
    pub(crate) config: Arc<Notify>,
}

impl Reload {
    /// Asks for it.
    pub fn ask(&self) {
        self.cluster.notify_one();
        self.config.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_flannel::flags::parse;

    #[test]
    fn flags_go_before_the_file() {
        let mut config = Config::default();
        apply(&Flags::default(), &mut config);
        assert_eq!(config, Config::default());
        config.source.kind = SourceKind::File;
        apply(&parse(["-v=4"]).unwrap(), &mut config);
        assert_eq!((config.source.kind, config.log.level), (SourceKind::File, LogLevel::Debug));
        let flags = parse([
            "--etcd-endpoints=https://a:2379,https://b:2379",
            "-etcd-prefix=/x",
            "--etcd-cafile=",
            "--public-ip=192.0.2.9",
            "-healthz-port=8081",
            "-subnet-lease-renew-margin=5",
            "-v=6",
            "--ip-masq",
            "--ip-masq-fully-random-disable",
            "--iptables-forward-rules=false",
            "--iptables-resync=0",
            "--ip-blackhole-route",
        ])
        .unwrap();
        apply(&flags, &mut config);
        assert_eq!(
            (config.source.kind, config.etcd.endpoints.as_str()),
            (SourceKind::Etcd, "https://a:2379,https://b:2379")
        );
        assert_eq!(
            (config.etcd.prefix.as_str(), config.etcd.ca_file, config.etcd.renew_margin_min),
            ("/x", None, 5)
        );
        assert_eq!(config.flannel.healthz, Some(SocketAddr::from(([0, 0, 0, 0], 8081))));
        assert_eq!(
            (config.flannel.public_ip, config.log.level),
            (Some(Ipv4Addr::new(192, 0, 2, 9)), LogLevel::Debug)
        );
        let flannel = config.flannel;
        assert_eq!((flannel.ip_masq, flannel.ip_masq_random, flannel.forward_rules), (true, false, false));
        assert_eq!((flannel.resync_s, flannel.blackhole_route), (1, true));
    }

    #[test]
    fn flags_choose_the_uplink_before_the_file() {
        let interface = |flag: &str| {
            let mut config = Config::default();
            config.uplink.interface = Some("eth0".to_owned());
            apply(&parse([flag]).unwrap(), &mut config);
            config.uplink.interface
        };
        for flag in ["--iface=eth1", "--iface-regex=^eth1$", "--iface-can-reach=192.0.2.1"] {
            assert_eq!(interface(flag), None, "{flag}");
        }
        assert_eq!(interface("--ip-masq").as_deref(), Some("eth0"));
    }
}
