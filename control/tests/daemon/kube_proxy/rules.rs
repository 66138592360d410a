//! The packet filter's rules as kube-proxy writes them, in both of its modes, with a pod network of 10.244.0.0/16 and fd00:10:244::/48; those of the
//! CNI plugin `portmap` for a host port; and flannel's masquerading. Names, order and marks are theirs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use crate::lab::Namespace;

/// Who gets what comes for a node port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// Any pod that serves; the sender is masqueraded.
    Cluster,
    /// A pod of the same node, with the sender's address.
    Local,
}

/// A service with one pod behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Service {
    pub(super) name: &'static str,
    /// What kube-proxy makes of namespace, name, port and protocol: any 16 letters and digits.
    pub(super) hash: &'static str,
    pub(super) protocol: &'static str,
    pub(super) at: (IpAddr, u16),
    pub(super) served: SocketAddr,
    pub(super) node_port: Option<(u16, Policy)>,
}

/// How kube-proxy is told to write its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Nftables,
    Iptables,
}

impl Mode {
    /// Has the node's kernel translate for these services, which are of one family. `node`: the address for node ports.
    pub(super) fn apply(self, namespace: &Namespace, node: IpAddr, services: &[Service]) {
        match self {
            Self::Nftables => restore(namespace, &["nft", "-f", "-"], &nftables(node, services)),
            Self::Iptables if node.is_ipv4() => {
                restore(namespace, &["iptables-restore", "--noflush"], &iptables(services));
            }
            Self::Iptables => restore(namespace, &["ip6tables-restore", "--noflush"], &iptables(services)),
        }
    }
}

fn pods(is_v4: bool) -> &'static str {
    if is_v4 { "10.244.0.0/16" } else { "fd00:10:244::/48" }
}

/// Gives a program these rules to read.
fn restore(namespace: &Namespace, words: &[&str], rules: &str) {
    let mut command = namespace.command(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut program = command.spawn().expect("iproute2 is installed");
    let mut stdin = program.stdin.take().expect("a pipe");
    stdin.write_all(rules.as_bytes()).expect("the rules are read");
    drop(stdin);
    let output = program.wait_with_output().expect("its end");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{words:?} failed (iptables and nftables are needed): {complaint}\n{rules}"
    );
}

/// Mode nftables: sets and verdict maps lead to a chain for each service and endpoint.
fn nftables(node: IpAddr, services: &[Service]) -> String {
    let (ip, kind) = if node.is_ipv4() { ("ip", "ipv4_addr") } else { ("ip6", "ipv6_addr") };
    let (pods, all) = (pods(node.is_ipv4()), if node.is_ipv4() { "10.96.0.0/16" } else { "fd00:96::/112" });
    let table = format!("{ip} kube-proxy");
    let mut text = format!("add table {table} {{ comment \"rules for kube-proxy\" ; }}\n");
    for (set, comment) in
        [("cluster-ips", "Active ClusterIPs"), ("nodeport-ips", "IPs that accept NodePort traffic")]
    {
        let _ = writeln!(text, "add set {table} {set} {{ type {kind} ; comment \"{comment}\" ; }}");
    }
    let by_address = format!("{kind} . inet_proto . inet_service : verdict");
    for (map, of) in [
        ("firewall-ips", by_address.as_str()),
        ("no-endpoint-nodeports", "inet_proto . inet_service : verdict"),
        ("no-endpoint-services", &by_address),
        ("service-ips", &by_address),
        ("service-nodeports", "inet_proto . inet_service : verdict"),
    ] {
        let _ = writeln!(text, "add map {table} {map} {{ type {of} ; }}");
    }
    for chain in [
        "cluster-ips-check",
        "firewall-check",
        "mark-for-masquerade",
        "masquerading",
        "nodeport-endpoints-check",
        "services",
        "service-endpoints-check",
        "reject-chain { comment \"helper for @no-endpoint-services / @no-endpoint-nodeports\" ; }",
        "filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }",
        "filter-output-pre-dnat { type filter hook output priority -110 ; }",
        "filter-forward { type filter hook forward priority 0 ; }",
        "filter-input { type filter hook input priority 0 ; }",
        "filter-output { type filter hook output priority 0 ; }",
        "nat-output { type nat hook output priority -100 ; }",
        "nat-postrouting { type nat hook postrouting priority 100 ; }",
        "nat-prerouting { type nat hook prerouting priority -100 ; }",
    ] {
        let _ = writeln!(text, "add chain {table} {chain}");
    }
    for rule in [
        format!(
            "cluster-ips-check {ip} daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\""
        ),
        format!(
            "cluster-ips-check {ip} daddr {{ {all} }} drop comment \"Drop traffic to unallocated ClusterIPs\""
        ),
        "filter-prerouting-pre-dnat ct state new jump firewall-check".to_owned(),
        "filter-forward ct state new jump service-endpoints-check".to_owned(),
        "filter-forward ct state new jump cluster-ips-check".to_owned(),
        "filter-input ct state new jump nodeport-endpoints-check".to_owned(),
        "filter-input ct state new jump service-endpoints-check".to_owned(),
        "filter-output ct state new jump service-endpoints-check".to_owned(),
        "filter-output-pre-dnat ct state new jump firewall-check".to_owned(),
        "filter-output ct state new jump cluster-ips-check".to_owned(),
        "reject-chain reject".to_owned(),
        format!("firewall-check {ip} daddr . meta l4proto . th dport vmap @firewall-ips"),
        "mark-for-masquerade mark set mark or 0x4000".to_owned(),
        "masquerading mark and 0x4000 == 0 return".to_owned(),
        "masquerading mark set mark xor 0x4000".to_owned(),
        "masquerading masquerade fully-random".to_owned(),
        "nat-output jump services".to_owned(),
        "nat-postrouting jump masquerading".to_owned(),
        "nat-prerouting jump services".to_owned(),
        format!(
            "nodeport-endpoints-check {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"
        ),
        format!("services {ip} daddr . meta l4proto . th dport vmap @service-ips"),
        format!("services {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
        format!("service-endpoints-check {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services"),
    ] {
        let _ = writeln!(text, "add rule {table} {rule}");
    }
    let _ = writeln!(text, "add element {table} nodeport-ips {{ {node} }}");
    for Service { name, hash, protocol, at: (address, port), served, node_port } in services {
        let hash = &hash[..8];
        let of = format!("{hash}-default/{name}/{protocol}/p{port}");
        // An address has no colons in a chain's name.
        let endpoint =
            format!("endpoint-{of}__{}/{}", served.ip().to_string().replace(':', "."), served.port());
        for chain in [format!("service-{of}"), endpoint.clone()] {
            let _ = writeln!(text, "add chain {table} {chain}");
        }
        for rule in [
            format!("service-{of} {ip} daddr {address} {ip} saddr != {pods} jump mark-for-masquerade"),
            format!("service-{of} numgen random mod 1 vmap {{ 0 : goto {endpoint} }}"),
            format!("{endpoint} {ip} saddr {} jump mark-for-masquerade", served.ip()),
            format!("{endpoint} meta l4proto {protocol} dnat to {served}"),
        ] {
            let _ = writeln!(text, "add rule {table} {rule}");
        }
        let _ = writeln!(text, "add element {table} cluster-ips {{ {address} }}");
        let _ = writeln!(
            text,
            "add element {table} service-ips {{ {address} . {protocol} . {port} : goto service-{of} }}"
        );
        let Some((node_port, policy)) = node_port else { continue };
        let _ = writeln!(text, "add chain {table} external-{of}");
        let rules = match policy {
            Policy::Cluster => {
                vec!["jump mark-for-masquerade".to_owned(), format!("goto service-{of}")]
            }
            Policy::Local => vec![
                format!("{ip} saddr {pods} goto service-{of} comment \"short-circuit pod traffic\""),
                "fib saddr type local jump mark-for-masquerade comment \"masquerade local traffic\""
                    .to_owned(),
                format!("fib saddr type local goto service-{of} comment \"short-circuit local traffic\""),
                format!("numgen random mod 1 vmap {{ 0 : goto {endpoint} }}"),
            ],
        };
        for rule in rules {
            let _ = writeln!(text, "add rule {table} external-{of} {rule}");
        }
        let _ = writeln!(
            text,
            "add element {table} service-nodeports {{ {protocol} . {node_port} : goto external-{of} }}"
        );
    }
    text
}

/// Mode iptables: `KUBE-SERVICES` leads to a `KUBE-SVC-` for each service, that to a `KUBE-SEP-` for each endpoint.
fn iptables(services: &[Service]) -> String {
    let pods = pods(services.iter().all(|service| service.at.0.is_ipv4()));
    let (mut chains, mut rules, mut last) = (String::new(), String::new(), String::new());
    for chain in ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"] {
        let _ = writeln!(chains, ":{chain} - [0:0]");
    }
    for Service { name, hash, protocol, at: (address, port), served, node_port } in services {
        let of = format!("default/{name}:p{port}");
        let matches = format!("-m {protocol} -p {protocol}");
        let at = format!("-m comment --comment \"{of} cluster IP\" {matches} -d {address} --dport {port}");
        for chain in ["SVC", "SEP"] {
            let _ = writeln!(chains, ":KUBE-{chain}-{hash} - [0:0]");
        }
        for rule in [
            format!("KUBE-SERVICES {at} -j KUBE-SVC-{hash}"),
            format!("KUBE-SVC-{hash} {at} ! -s {pods} -j KUBE-MARK-MASQ"),
            format!("KUBE-SVC-{hash} -m comment --comment \"{of} -> {served}\" -j KUBE-SEP-{hash}"),
            format!("KUBE-SEP-{hash} -m comment --comment {of} -s {} -j KUBE-MARK-MASQ", served.ip()),
            format!("KUBE-SEP-{hash} -m comment --comment {of} {matches} -j DNAT --to-destination {served}"),
        ] {
            let _ = writeln!(rules, "-A {rule}");
        }
        let Some((node_port, policy)) = node_port else { continue };
        let _ = writeln!(chains, ":KUBE-EXT-{hash} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-NODEPORTS -m comment --comment {of} {matches} --dport {node_port} -j KUBE-EXT-{hash}"
        );
        let external = format!("-A KUBE-EXT-{hash}");
        match policy {
            Policy::Cluster => {
                let _ = writeln!(
                    rules,
                    "{external} -m comment --comment \"masquerade traffic for {of} external destinations\" -j KUBE-MARK-MASQ\n\
                     {external} -j KUBE-SVC-{hash}"
                );
            }
            Policy::Local => {
                let _ = writeln!(chains, ":KUBE-SVL-{hash} - [0:0]");
                let _ = writeln!(
                    rules,
                    "{external} -m comment --comment \"pod traffic for {of} external destinations\" -s {pods} -j KUBE-SVC-{hash}\n\
                     {external} -m comment --comment \"masquerade LOCAL traffic for {of} external destinations\" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ\n\
                     {external} -m comment --comment \"route LOCAL traffic for {of} external destinations\" -m addrtype --src-type LOCAL -j KUBE-SVC-{hash}\n\
                     {external} -j KUBE-SVL-{hash}\n\
                     -A KUBE-SVL-{hash} -m comment --comment \"{of} -> {served}\" -j KUBE-SEP-{hash}"
                );
            }
        }
    }
    for rule in [
        "KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
        "KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        "KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully",
        "KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        "PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
        "OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
        "POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING",
    ] {
        let _ = writeln!(last, "-A {rule}");
    }
    format!(
        "*nat\n{chains}{rules}{last}COMMIT\n\
         *filter\n:KUBE-FORWARD - [0:0]\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n"
    )
}

/// A host port as the CNI plugin `portmap` makes it: pods of this node, and the node itself, are masqueraded.
pub(super) fn host_port(namespace: &Namespace, port: u16, pod: SocketAddr, subnet: &str) {
    let rules = format!(
        "*nat\n\
         :CNI-HOSTPORT-DNAT - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n:CNI-HOSTPORT-SETMARK - [0:0]\n:CNI-DN-0123456789abcdef01234 - [0:0]\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ\n\
         -A CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark 0x2000/0x2000\n\
         -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\n\
         -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: cbr0\" -m tcp --dport {port} -j CNI-DN-0123456789abcdef01234\n\
         -A CNI-DN-0123456789abcdef01234 -s {subnet} -p tcp -m tcp --dport {port} -j CNI-HOSTPORT-SETMARK\n\
         -A CNI-DN-0123456789abcdef01234 -s 127.0.0.1/32 -p tcp -m tcp --dport {port} -j CNI-HOSTPORT-SETMARK\n\
         -A CNI-DN-0123456789abcdef01234 -p tcp -m tcp --dport {port} -j DNAT --to-destination {pod}\n\
         COMMIT\n"
    );
    restore(namespace, &["iptables-restore", "--noflush"], &rules);
}

/// flannel's, for what leaves the cluster.
pub(super) fn masquerade(namespace: &Namespace) {
    let comment = "-m comment --comment \"flanneld masq\"";
    let rules = format!(
        "*nat\n:FLANNEL-POSTRTG - [0:0]\n\
         -A POSTROUTING {comment} -j FLANNEL-POSTRTG\n\
         -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {comment} -j RETURN\n\
         -A FLANNEL-POSTRTG -s 10.244.0.0/24 -d 10.244.0.0/16 {comment} -j RETURN\n\
         -A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.0.0/24 {comment} -j RETURN\n\
         -A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/24 {comment} -j RETURN\n\
         -A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 {comment} -j MASQUERADE --random-fully\n\
         -A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 {comment} -j MASQUERADE --random-fully\n\
         COMMIT\n"
    );
    restore(namespace, &["iptables-restore", "--noflush"], &rules);
}
