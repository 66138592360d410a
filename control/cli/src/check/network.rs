//! The underlay, the tunnel's port, and the kernel's settings.

use std::fs;

use weft_api::Status;
use weft_config::config::{Config, SourceKind};
use weft_node::{Uplink, default_uplink, uplink};

use super::{FLANNELS, Line, Machine};

/// What the tunnel adds to a packet over IPv4, in bytes.
const OVERHEAD: u32 = 50;

pub(super) async fn lines(
    machine: &Machine,
    config: &Config,
    status: Option<&Status>,
    port: u16,
) -> Vec<Line> {
    let found = match (&config.uplink.interface, status) {
        (Some(name), _) => uplink(name).await,
        (None, Some(status)) => uplink(&status.uplink.interface).await,
        (None, None) => default_uplink().await,
    };
    let env = config.flannel.subnet_file.to_string_lossy().into_owned();
    let pods = match status {
        Some(status) => Some(status.network.pod_mtu),
        None => machine.read(&env).as_deref().and_then(pod_mtu),
    };
    let mut lines = Vec::new();
    match found {
        Ok(uplink) => {
            lines.push(describe(&uplink));
            lines.push(mtu(&uplink.name, uplink.mtu, pods));
            lines.push(rp_filter(machine, &uplink.name));
        }
        Err(error) => {
            lines.push(Line::problem(
                "uplink",
                error.to_string(),
                "set uplink.interface to the node's interface",
            ));
        }
    }
    lines.push(tunnel_port(machine, port));
    lines.push(forwarding(machine, config));
    lines.push(send_redirects(machine, &config.host_port.name));
    lines.push(bridge_filter(machine));
    lines
}

fn describe(uplink: &Uplink) -> Line {
    let addresses: Vec<_> = uplink.addresses.iter().map(|net| net.addr().to_string()).collect();
    let found = format!("{} with {}, MTU {}", uplink.name, addresses.join(", "), uplink.mtu);
    if !uplink.up {
        Line::problem(
            "uplink",
            format!("{found}; it is down"),
            format!("ip link set {} up; is there a cable?", uplink.name),
        )
    } else if addresses.is_empty() {
        Line::problem(
            "uplink",
            format!("{} has no address", uplink.name),
            "give it one, or set uplink.interface",
        )
    } else {
        Line::ok("uplink", found)
    }
}

/// What flannel has told CNI plugins.
fn pod_mtu(env: &str) -> Option<u32> {
    env.lines().find_map(|line| line.trim().strip_prefix("FLANNEL_MTU="))?.trim_matches('"').parse().ok()
}

fn mtu(name: &str, uplink: u32, pods: Option<u32>) -> Line {
    const CHECK: &str = "mtu";
    let room = uplink.saturating_sub(OVERHEAD);
    let Some(pods) = pods else {
        return Line::ok(
            CHECK,
            format!(
                "{uplink} of {name} leaves {room} for pods; what the other nodes' pods have is not known here"
            ),
        );
    };
    let found = format!("{pods} of pods, {uplink} of {name}");
    if pods <= room {
        Line::ok(CHECK, found)
    } else if pods == uplink {
        Line::ok(CHECK, format!("{found}: as with host-gw, without a tunnel"))
    } else {
        Line::problem(
            CHECK,
            format!(
                "{found}: in the tunnel, packets of that size need {} bytes",
                pods.saturating_add(OVERHEAD)
            ),
            format!(
                "ip link set {name} mtu {}, or set Backend.MTU to {uplink} where the network is configured",
                pods.saturating_add(OVERHEAD)
            ),
        )
    }
}

fn rp_filter(machine: &Machine, uplink: &str) -> Line {
    const CHECK: &str = "rp_filter";
    let of = |name: &str| machine.number(&format!("proc/sys/net/ipv4/conf/{name}/rp_filter")).unwrap_or(0);
    // The larger one holds.
    match of("all").max(of(uplink)) {
        1 => Line::warning(
            CHECK,
            format!("strict on {uplink}: what comes another way than it would be answered is dropped"),
            format!(
                "with DirectRouting, and nodes that choose for themselves: sysctl -w net.ipv4.conf.{uplink}.rp_filter=2"
            ),
        ),
        value => Line::ok(CHECK, format!("{value} on {uplink}")),
    }
}

/// The inodes of the sockets that have a UDP port, by the kernel's list; 0 is a socket of the kernel's own.
fn sockets(list: &str, port: u16) -> Vec<u64> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        (u16::from_str_radix(hex, 16).ok()? == port).then_some(fields.get(9)?.parse().ok()?)
    };
    list.lines().skip(1).filter_map(line).collect()
}

fn tunnel_port(machine: &Machine, port: u16) -> Line {
    const CHECK: &str = "port";
    let lists = ["proc/net/udp", "proc/net/udp6"].map(|path| machine.read(path).unwrap_or_default());
    let mut inodes: Vec<u64> = lists.iter().flat_map(|list| sockets(list, port)).collect();
    inodes.sort_unstable();
    inodes.dedup();
    if inodes.is_empty() {
        return Line::ok(CHECK, format!("UDP {port} is free"));
    }
    if inodes.contains(&0) {
        let links = machine.names("sys/class/net");
        let is_vxlan = |name: &String| {
            let kind = machine.read(&format!("sys/class/net/{name}/uevent")).unwrap_or_default();
            kind.lines().any(|line| line == "DEVTYPE=vxlan")
        };
        let links: Vec<_> = links.into_iter().filter(is_vxlan).collect();
        if !links.is_empty() && links.iter().all(|link| link.starts_with("flannel")) {
            let found = format!("UDP {port} is held by the kernel, for {}", links.join(", "));
            return Line::warning(CHECK, found, FLANNELS);
        }
        let delete: Vec<_> = links.iter().map(|link| format!("ip link delete {link}")).collect();
        return Line::problem(
            CHECK,
            format!("UDP {port} is held by the kernel, for a VXLAN interface ({})", links.join(", ")),
            format!("stop who made it, and then: {}", delete.join("; ")),
        );
    }
    let mut holders: Vec<String> = holders(machine, &inodes);
    holders.sort();
    holders.dedup();
    let others: Vec<_> = holders.iter().filter(|holder| !holder.starts_with("weftd ")).cloned().collect();
    if holders.is_empty() {
        let found = format!("UDP {port} is held by a process that can't be seen from here");
        Line::problem(CHECK, found, "run this as root, on the node itself, to see which")
    } else if others.is_empty() {
        Line::ok(CHECK, format!("UDP {port} is weftd's"))
    } else {
        Line::problem(
            CHECK,
            format!("UDP {port} is held by {}", others.join(", ")),
            "stop it, or give it another port",
        )
    }
}

/// The processes that have one of these sockets.
fn holders(machine: &Machine, inodes: &[u64]) -> Vec<String> {
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let has = |pid: &str| {
        let folder = format!("proc/{pid}/fd");
        machine.names(&folder).iter().any(|fd| {
            let link = fs::read_link(machine.at(&format!("{folder}/{fd}"))).unwrap_or_default();
            link.to_str().is_some_and(|link| links.iter().any(|wanted| wanted == link))
        })
    };
    let processes = machine.processes().into_iter().filter(|(pid, _)| has(pid));
    processes.map(|(pid, name)| format!("{name} (pid {pid})")).collect()
}

fn forwarding(machine: &Machine, config: &Config) -> Line {
    const CHECK: &str = "forwarding";
    let off = |path| machine.number(path) == Some(0);
    match off("proc/sys/net/ipv4/ip_forward") {
        false => Line::ok(CHECK, "the kernel forwards IPv4"),
        true if config.source.kind == SourceKind::File => Line::warning(
            CHECK,
            "the kernel does not forward: pods reach nothing outside of the pod network",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        true => Line::ok(
            CHECK,
            "the kernel does not forward yet; weftd has it do so, but from a container: sysctl -w net.ipv4.ip_forward=1",
        ),
    }
}

/// What kube-proxy translates comes in by the host port and goes out by it.
fn send_redirects(machine: &Machine, host_port: &str) -> Line {
    const CHECK: &str = "redirects";
    let is_on = |name: &&str| {
        machine
            .number(&format!("proc/sys/net/ipv4/conf/{name}/send_redirects"))
            .is_some_and(|value| value != 0)
    };
    // Until weftd makes it, the host port has what is the default then.
    let made = machine.has(&format!("proc/sys/net/ipv4/conf/{host_port}"));
    let own = if made { host_port } else { "default" };
    // The larger one holds.
    let on: Vec<_> = ["all", own].into_iter().filter(is_on).collect();
    if on.is_empty() {
        return Line::ok(CHECK, format!("none by {host_port}"));
    }
    let set: Vec<_> = on.iter().map(|name| format!("net.ipv4.conf.{name}.send_redirects=0")).collect();
    Line::ok(
        CHECK,
        format!(
            "on for {host_port}: weft's routes cause none, but where others lead back by it, pods that ask a service are sent some for \
             nothing; beside kube-proxy: sysctl -w {}",
            set.join(" ")
        ),
    )
}

fn bridge_filter(machine: &Machine) -> Line {
    let found = match machine.has("proc/sys/net/bridge/bridge-nf-call-iptables") {
        true => "loaded; weft does without it",
        false => "not loaded, and not needed",
    };
    Line::ok("br_netfilter", found)
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, machine_with};
    use super::*;

    const UDP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   35: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0
  400: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0
";

    #[test]
    fn the_ports_holder_is_named() {
        assert_eq!(sockets(UDP, 8472), [4711]);
        let with = |vxlan: &str, list: &str, holder: Option<&str>| {
            let (_folder, machine) = machine_with(&[
                ("proc/net/udp", list),
                (&format!("sys/class/net/{vxlan}/uevent"), &format!("DEVTYPE=vxlan\nINTERFACE={vxlan}\n")),
                ("sys/class/net/eth0/uevent", "INTERFACE=eth0\n"),
            ]);
            if let Some(name) = holder {
                fs::create_dir_all(machine.at("proc/12/fd")).unwrap();
                fs::write(machine.at("proc/12/comm"), name).unwrap();
                std::os::unix::fs::symlink("socket:[4711]", machine.at("proc/12/fd/3")).unwrap();
            }
            tunnel_port(&machine, 8472)
        };
        let verdict = |list: &str, holder: Option<&str>| with("flannel.1", list, holder);
        assert_eq!(verdict(&UDP.replace("2118", "2119"), None).verdict, Verdict::Ok);
        assert_eq!(verdict(UDP, Some("weftd\n")).verdict, Verdict::Ok);
        let other = verdict(UDP, Some("nc\n"));
        assert!(other.verdict == Verdict::Problem && other.found.contains("nc (pid 12)"), "{other:?}");
        assert_eq!(verdict(UDP, None).verdict, Verdict::Problem);
        let kernels = UDP.replace("4711", "0");
        let flannels = verdict(&kernels, None);
        assert!(flannels.found.ends_with("for flannel.1"), "{flannels:?}");
        assert_eq!((flannels.verdict, flannels.remedy.as_deref()), (Verdict::Warning, Some(FLANNELS)));
        let other = with("vxlan.calico", &kernels, None);
        assert_eq!(other.verdict, Verdict::Problem);
        assert!(other.remedy.unwrap().ends_with("and then: ip link delete vxlan.calico"));
    }

    #[test]
    fn pods_must_fit_into_the_tunnel() {
        assert_eq!(pod_mtu("FLANNEL_SUBNET=10.1.1.1/24\nFLANNEL_MTU=1450\n"), Some(1450));
        assert_eq!(pod_mtu("FLANNEL_MTU=\n"), None);
        for (uplink, pods, wanted) in [
            (1500, None, Verdict::Ok),
            (1500, Some(1450), Verdict::Ok),
            (1500, Some(1500), Verdict::Ok),
            (1450, Some(1450), Verdict::Ok),
            (1480, Some(1450), Verdict::Problem),
            (1500, Some(8950), Verdict::Problem),
        ] {
            assert_eq!(mtu("eth0", uplink, pods).verdict, wanted, "{uplink} {pods:?}");
        }
    }

    #[test]
    fn settings_of_the_kernel() {
        let all = "proc/sys/net/ipv4/conf/all/rp_filter";
        let (_folder, machine) = machine_with(&[(all, "1\n"), ("proc/sys/net/ipv4/ip_forward", "0\n")]);
        assert_eq!(rp_filter(&machine, "eth0").verdict, Verdict::Warning);
        let mut config = Config::default();
        assert_eq!(forwarding(&machine, &config).verdict, Verdict::Warning);
        config.source.kind = SourceKind::Etcd;
        assert_eq!(forwarding(&machine, &config).verdict, Verdict::Ok);
        fs::create_dir_all(machine.at("proc/sys/net/ipv4/conf/eth0")).unwrap();
        fs::write(machine.at("proc/sys/net/ipv4/conf/eth0/rp_filter"), "2\n").unwrap();
        assert_eq!(rp_filter(&machine, "eth0").verdict, Verdict::Ok);
        assert_eq!(bridge_filter(&machine).verdict, Verdict::Ok);
    }

    #[test]
    fn redirects_are_looked_for_where_the_host_port_has_them() {
        let of = |files: &[(&str, u8)]| {
            let files = files.iter().map(|(name, value)| {
                (format!("proc/sys/net/ipv4/conf/{name}/send_redirects"), format!("{value}\n"))
            });
            let files: Vec<_> = files.collect();
            let files: Vec<_> = files.iter().map(|(path, value)| (path.as_str(), value.as_str())).collect();
            let (_folder, machine) = machine_with(&files);
            send_redirects(&machine, "weft0")
        };
        let off = [
            of(&[]),
            of(&[("all", 0), ("default", 0), ("eth0", 1)]),
            of(&[("all", 0), ("default", 1), ("weft0", 0)]),
        ];
        for line in off {
            assert_eq!((line.verdict, line.found.as_str()), (Verdict::Ok, "none by weft0"));
        }
        for (files, says) in [
            (&[("all", 1), ("default", 0)][..], "-w net.ipv4.conf.all.send_redirects=0"),
            (
                &[("all", 1), ("default", 1)],
                "-w net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0",
            ),
            (&[("all", 0), ("default", 0), ("weft0", 1)], "-w net.ipv4.conf.weft0.send_redirects=0"),
        ] {
            let line = of(files);
            assert!(line.verdict == Verdict::Ok && line.found.ends_with(says), "{line:?}");
        }
    }
}
