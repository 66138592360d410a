//! `subnet.env`: what CNI plugins learn of a node, and a restarted node of itself. Byte for byte as flanneld writes it.

use crate::lease::Subnets;
use ipnet::{Ipv4Net, Ipv6Net};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Where flanneld has it.
pub const DEFAULT_PATH: &str = "/run/flannel/subnet.env";

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubnetEnv {
    /// `FLANNEL_NETWORK`: all IPv4 pod addresses of the cluster. Readers are to expect several.
    pub networks: Vec<Ipv4Net>,
    /// `FLANNEL_IPV6_NETWORK`.
    pub ipv6_networks: Vec<Ipv6Net>,
    /// `FLANNEL_SUBNET` and `FLANNEL_IPV6_SUBNET`, without host bits; the file has the first usable address.
    pub subnets: Subnets,
    /// `FLANNEL_MTU`: of pods' interfaces, in bytes.
    pub mtu: u32,
    /// `FLANNEL_IPMASQ`: whether flannel masquerades, so that nobody else must.
    pub ip_masq: bool,
}

impl SubnetEnv {
    /// The text.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let list = |nets: Vec<String>| nets.join(",");
        if let Some(subnet) = self.subnets.v4 {
            let networks = list(self.networks.iter().map(ToString::to_string).collect());
            let first = Ipv4Addr::from_bits(subnet.network().to_bits().saturating_add(1));
            text += &format!("FLANNEL_NETWORK={networks}\nFLANNEL_SUBNET={first}/{}\n", subnet.prefix_len());
        }
        if let Some(subnet) = self.subnets.v6 {
            let networks = list(self.ipv6_networks.iter().map(ToString::to_string).collect());
            let first = Ipv6Addr::from_bits(subnet.network().to_bits().saturating_add(1));
            text += &format!(
                "FLANNEL_IPV6_NETWORK={networks}\nFLANNEL_IPV6_SUBNET={first}/{}\n",
                subnet.prefix_len()
            );
        }
        text += &format!("FLANNEL_MTU={}\nFLANNEL_IPMASQ={}\n", self.mtu, self.ip_masq);
        text
    }

    /// Reads the text. What is not there or can't be understood is left out: it is what a restart begins with, and others
    /// may have written it.
    pub fn parse(text: &str) -> Self {
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))
                .unwrap_or_default()
        };
        let unquoted = |name: &str| value(name).trim_matches(['"', '\'']).to_owned();
        let v4 = unquoted("FLANNEL_SUBNET").parse::<Ipv4Net>().ok().map(|net| net.trunc());
        let v6 = unquoted("FLANNEL_IPV6_SUBNET").parse::<Ipv6Net>().ok().map(|net| net.trunc());
        Self {
            networks: unquoted("FLANNEL_NETWORK")
                .split(',')
                .filter_map(|net| net.trim().parse().ok())
                .collect(),
            ipv6_networks: unquoted("FLANNEL_IPV6_NETWORK")
                .split(',')
                .filter_map(|net| net.trim().parse().ok())
                .collect(),
            subnets: Subnets { v4, v6 },
            mtu: unquoted("FLANNEL_MTU").parse().unwrap_or(0),
            ip_masq: unquoted("FLANNEL_IPMASQ") == "true",
        }
    }

    /// Reads the file; none where there is none.
    ///
    /// # Errors
    /// It is there and can't be read.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(Self::parse(&String::from_utf8_lossy(&bytes)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the file: whoever reads it sees the old one or this one, whole. Its folder is made if it is missing.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let new = folder.join(format!(".{}", name.to_string_lossy()));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
        file.write_all(self.to_text().as_bytes())?;
        file.sync_all()?;
        fs::rename(new, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUAL: &str = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\n\
        FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    #[test]
    fn the_bytes_are_flannels() {
        let env = SubnetEnv {
            networks: vec!["10.42.0.0/16".parse().unwrap()],
            ipv6_networks: vec!["2001:cafe:42::/56".parse().unwrap()],
            subnets: Subnets {
                v4: Some("10.42.0.0/24".parse().unwrap()),
                v6: Some("2001:cafe:42::/64".parse().unwrap()),
            },
            mtu: 1450,
            ip_masq: true,
        };
        assert_eq!(env.to_text(), DUAL);
        assert_eq!(SubnetEnv::parse(DUAL), env);
        let single = SubnetEnv { subnets: Subnets { v6: None, ..env.subnets }, ip_masq: false, ..env };
        let text = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        assert_eq!(single.to_text(), text);
    }

    #[test]
    fn others_files_are_read_as_far_as_they_are_understood() {
        let env = SubnetEnv::parse(
            "# x\nFLANNEL_NETWORK=10.1.0.0/16,10.2.0.0/16\nFLANNEL_SUBNET=\"10.1.3.1/24\"\nFLANNEL_MTU=\n",
        );
        assert_eq!((env.networks.len(), env.mtu, env.ip_masq), (2, 0, false));
        assert_eq!(env.subnets.to_string(), "10.1.3.0/24");
        assert_eq!(SubnetEnv::parse("\u{0}garbage"), SubnetEnv::default());
    }

    #[test]
    fn the_file_is_replaced_whole() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/flannel/subnet.env");
        assert_eq!(SubnetEnv::read(&path).unwrap(), None);
        let env = SubnetEnv::parse(DUAL);
        for _ in 0..2 {
            env.write(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), DUAL);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        assert_eq!(SubnetEnv::read(&path).unwrap(), Some(env));
    }
}
