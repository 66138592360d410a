//! All settings of `weftd.toml`: from this list they are read, shown, compared and explained (`docs/settings.md`).

use super::setting::{Effect, Form, Setting};
use super::{
    Dataplane, Hugepages, Idle, LogLevel, OuterChecksum, SourceKind, TunnelGso, UplinkKind, Value,
    read::bytes,
};
use crate::model::names::{absolute_path, interface_name, name_part, socket_path};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// As many workers as there may be.
pub(super) const WORKERS_MAX: i64 = 64;

/// The sections in their order, and what they are about.
pub const SECTIONS: [(&str, &str); 14] = [
    ("node", "who this is"),
    ("dataplane", "the workers that move packets"),
    ("uplink", "the way to the other nodes"),
    ("source", "where the desired state comes from"),
    ("etcd", "flannel's keys in etcd, where `source.kind` is `etcd`"),
    ("kubernetes", "flannel's annotations of nodes, where `source.kind` is `kubernetes`"),
    ("flannel", "this node among flannel's, where `source.kind` is `etcd` or `kubernetes`"),
    ("control", "the API"),
    ("state", "what weftd keeps over a restart"),
    ("host_port", "the way to the host"),
    ("bridge", "frames by their MAC address"),
    ("router", "packets by their IP address"),
    ("metrics", "what is measured, for Prometheus and supervisors"),
    ("log", "what goes to standard error"),
];

/// The settings, in the order of the sections.
pub const SETTINGS: &[Setting] = &[
    Setting {
        section: "node",
        name: "name",
        form: Form::Text {
            kind: "a node's name",
            wanted: "the node's name, such as \"worker-1\", or leave it out for the host's name",
            check: name_part,
        },
        otherwise: Some("the host's name, in lower case"),
        example: Some("\"worker-1\""),
        what: "This node's name in the source.",
        cost: "None.",
        when: "Where the cluster knows the node by another name than the host's.",
        effect: Effect::Restart,
        get: |c| Value::of_option(c.node.name.clone()),
        set: |c, v| c.node.name = owned(v),
    },
    Setting {
        section: "dataplane",
        name: "workers",
        form: Form::Integer { unit: "", min: 1, max: WORKERS_MAX },
        otherwise: Some("as many as there are `cores`, or else 1"),
        example: None,
        what: "Worker threads.",
        cost: "A core each under load, and some memory.",
        when: "More when one is busy all the time and there are several flows; one flow stays on one worker.",
        effect: Effect::Restart,
        get: |c| Value::of_number(c.dataplane.workers),
        set: |c, v| c.dataplane.workers = v.number() as usize,
    },
    Setting {
        section: "dataplane",
        name: "cores",
        form: Form::Numbers { min: 0, max: 1023 },
        otherwise: Some("the last ones that weftd may run on"),
        example: Some("[3]"),
        what: "The CPU cores of the workers, one each, no two the same.",
        cost: "None beside the workers' own.",
        when: "Where cores are isolated for it (`isolcpus`), or to stay on the NIC's NUMA node.",
        effect: Effect::Restart,
        get: |c| cores_of(&c.dataplane),
        set: |c, v| set_cores(&mut c.dataplane, v),
    },
    Setting {
        section: "dataplane",
        name: "memory",
        form: Form::Bytes { min: 16 << 20, max: 64 << 30 },
        otherwise: None,
        example: None,
        what: "Memory for packet buffers: an integer, or text with KiB, MiB or GiB. A quarter of it is buffers for large (GSO) frames, at least 2 MiB for each worker but never more than half; when they run out, chains of small ones take their place.",
        cost: "It is taken at the start and kept.",
        when: "More where the counters say that buffers ran out: many ports with deep queues, or jumbo frames.",
        effect: Effect::Restart,
        get: |c| Value::of_bytes(c.dataplane.memory),
        set: |c, v| c.dataplane.memory = bytes(&v).unwrap_or_default(),
    },
    Setting {
        section: "dataplane",
        name: "hugepages",
        form: Form::Choice(words::<Hugepages>),
        otherwise: None,
        example: None,
        what: "Whether packet buffers live in huge pages: `auto`, if enough are free; `never`; `require`, or weftd does not start.",
        cost: "`never` is some percent slower, and vhost-user and physical devices may need huge pages; `require` needs them reserved (`sysctl vm.nr_hugepages=128`).",
        when: "`require` where the speed matters more than the start; `never` where huge pages are others'.",
        effect: Effect::Restart,
        get: |c| c.dataplane.hugepages.value(),
        set: |c, v| set(&mut c.dataplane.hugepages, v),
    },
    Setting {
        section: "dataplane",
        name: "idle",
        form: Form::Choice(words::<Idle>),
        otherwise: None,
        example: None,
        what: "What a worker does when nothing comes: `adaptive` polls for `spin_us` and lets other threads have its core between two polls, then sleeps until a port has something; where others keep the core for long it sleeps at once; `poll` polls always.",
        cost: "`poll` takes a whole core for each worker, always, from pods too.",
        when: "`poll` for the lowest latency on cores that nobody else needs.",
        effect: Effect::Restart,
        get: |c| c.dataplane.idle.value(),
        set: |c, v| set(&mut c.dataplane.idle, v),
    },
    Setting {
        section: "dataplane",
        name: "spin_us",
        form: Form::Integer { unit: "µs", min: 0, max: 10_000 },
        otherwise: None,
        example: None,
        what: "How long a worker polls without work before it sleeps. It lets threads that wait for its core run meanwhile. Without meaning when `idle` is `poll`.",
        cost: "CPU time when there is little traffic.",
        when: "More saves the wake-up, a few microseconds, for packets that come that close behind others.",
        effect: Effect::Restart,
        get: |c| Value::of_number(c.dataplane.spin_us),
        set: |c, v| c.dataplane.spin_us = v.number(),
    },
    Setting {
        section: "dataplane",
        name: "poll_beat_us",
        form: Form::Integer { unit: "µs", min: 10, max: 100_000 },
        otherwise: None,
        example: None,
        what: "How often ports without a file descriptor (DPDK devices, and guests that cannot notify) are polled while the worker sleeps: the most that a first packet from them waits. Without meaning when `idle` is `poll`.",
        cost: "Less costs CPU time while idle.",
        when: "Less where such ports carry what is urgent.",
        effect: Effect::Restart,
        get: |c| Value::of_number(c.dataplane.poll_beat_us),
        set: |c, v| c.dataplane.poll_beat_us = v.number(),
    },
    Setting {
        section: "dataplane",
        name: "pins",
        form: Form::Integer { unit: "", min: 1024, max: 4_194_304 },
        otherwise: None,
        example: None,
        what: "For how many connections there is room whose answers go to the node's kernel, which has translated them: what pods have open to ClusterIPs, and what else kube-proxy translates without masquerading. Rounded up to a power of two. Where there are more, those that would be forgotten first go before their time, and break.",
        cost: "48 bytes each, whether there is a connection or not: 6 MiB.",
        when: "More where the node's `nf_conntrack_max` is raised for that many connections of pods; see `weft_pins` and `weft_pins_evicted`.",
        effect: Effect::Restart,
        get: |c| Value::of_number(c.dataplane.pins),
        set: |c, v| c.dataplane.pins = v.number(),
    },
    Setting {
        section: "uplink",
        name: "kind",
        form: Form::Choice(words::<UplinkKind>),
        otherwise: None,
        example: None,
        what: "How weft is joined to the underlay, whose interface stays the kernel's in any case: `socket`, UDP sockets, so that the kernel makes the outer headers, routes and filters; `af_packet`, a packet socket beside the kernel; `af_xdp`, an XDP program that hands the tunnel's packets to weft before the kernel sees them.",
        cost: "`socket` sends from 16 source ports for each worker and with valid outer checksums always, and takes tunnel packets that the node's filter lets in only. `af_packet` has every packet of the interface looked at by a filter, sends finished packets only, and is not seen by the node's filter. `af_xdp` sends finished packets only, pins memory for each queue of the interface, and needs the place of its one XDP program; where it is not to be had, the default kind takes its place and `weft status` says why.",
        when: "`socket` where the NIC cuts large packets (`tx-udp-segmentation`) or other nodes are on the same machine, and where the node's filter is to see the tunnel; `af_packet` where the source ports of flows must differ more, as for a router that spreads by them; `af_xdp` where the NIC's driver takes XDP programs, and small packets count.",
        effect: Effect::Restart,
        get: |c| c.uplink.kind.value(),
        set: |c, v| set(&mut c.uplink.kind, v),
    },
    Setting {
        section: "uplink",
        name: "interface",
        form: Form::Text {
            kind: "an interface's name",
            wanted: "an interface, such as \"eth0\", or leave it out for the default route's",
            check: interface_name,
        },
        otherwise: Some("that of the default route"),
        example: Some("\"eth0\""),
        what: "The underlay's interface.",
        cost: "None.",
        when: "On a node with several networks.",
        effect: Effect::Restart,
        get: |c| Value::of_option(c.uplink.interface.clone()),
        set: |c, v| c.uplink.interface = owned(v),
    },
    Setting {
        section: "uplink",
        name: "outer_checksum",
        form: Form::Choice(words::<OuterChecksum>),
        otherwise: None,
        example: None,
        what: "The UDP checksum of tunnel packets over IPv4: `zero`, as RFC 7348 asks for, or `valid`. Over IPv6, and where the uplink is `socket`, it is always valid: the kernel fills it in, in what it gets whole (`uplink.tunnel_gso`) too.",
        cost: "`valid` costs a pass over each packet that no device takes over.",
        when: "`valid` for underlays that drop or misread a zero checksum.",
        effect: Effect::Live,
        get: |c| c.uplink.outer_checksum.value(),
        set: |c, v| set(&mut c.uplink.outer_checksum, v),
    },
    Setting {
        section: "uplink",
        name: "tunnel_gso",
        form: Form::Choice(words::<TunnelGso>),
        otherwise: None,
        example: None,
        what: "Whether the kernel gets large frames as one tunnel packet each, which it cuts last of all or not at all, in place of a UDP message that is cut on its way out of the socket: `auto`, where no NIC is behind the interface (other nodes are on the same machine then); `always`; `never`. For `socket`, on Linux 6.17 and newer; elsewhere it has no effect.",
        cost: "Such packets come in by an interface of weft's own (`weft-out0`) and a BPF program sends them on, past the node's output filter, address translation, marks and IPsec, which see but one of them each 100 ms: what they forbid ends after that time, what they change or count they miss. What is lost behind it is in no counter of weft's.",
        when: "`always` where the NIC cuts tunnel packets (`tx-udp_tnl-segmentation`) but no UDP messages (`tx-udp-segmentation`); `never` where rules of the node change tunnel packets.",
        effect: Effect::Restart,
        get: |c| c.uplink.tunnel_gso.value(),
        set: |c, v| set(&mut c.uplink.tunnel_gso, v),
    },
    Setting {
        section: "uplink",
        name: "known_vteps_only",
        form: Form::Boolean,
        otherwise: None,
        example: None,
        what: "Take tunnel packets from the nodes in the source only.",
        cost: "`false` lets anyone who reaches the UDP port send packets to pods.",
        when: "`false` only for tests, and while nodes are missing in the source.",
        effect: Effect::Live,
        get: |c| Value::Boolean(c.uplink.known_vteps_only),
        set: |c, v| c.uplink.known_vteps_only = v == Value::Boolean(true),
    },
    Setting {
        section: "source",
        name: "kind",
        form: Form::Choice(words::<SourceKind>),
        otherwise: None,
        example: None,
        what: "Where the desired state comes from: `file`, the cluster file; `etcd`, the configuration and the leases that flannel's nodes have in etcd; `kubernetes`, the nodes of Kubernetes as flannel annotates them. With the last two weftd takes the place of a node's flanneld.",
        cost: "With the last two, weftd starts when the store answers. Later a lost store changes nothing for traffic, and pods come and go.",
        when: "As the cluster's nodes run flanneld. Any of flanneld's options on the command line means `etcd`, and `--kube-subnet-mgr` means `kubernetes`.",
        effect: Effect::Restart,
        get: |c| c.source.kind.value(),
        set: |c, v| set(&mut c.source.kind, v),
    },
    Setting {
        section: "source",
        name: "path",
        form: Form::Path {
            wanted: "the whole path, such as \"/etc/weft/cluster.toml\"",
            check: absolute_path,
        },
        otherwise: None,
        example: None,
        what: "The cluster file, absolute, for `kind = \"file\"`. It is watched: changes take effect at once.",
        cost: "None.",
        when: "To keep it elsewhere, such as in a mounted ConfigMap.",
        effect: Effect::Restart,
        get: |c| of_path(&c.source.path),
        set: |c, v| set_path(&mut c.source.path, v),
    },
    Setting {
        section: "etcd",
        name: "endpoints",
        form: Form::Text {
            kind: "etcd's members",
            wanted: "addresses with commas, such as \"https://192.0.2.1:2379,https://192.0.2.2:2379\"",
            check: endpoints,
        },
        otherwise: None,
        example: None,
        what: "etcd's members, with commas. One at a time is spoken to; when it does not answer, the next.",
        cost: "None.",
        when: "Always, unless etcd is on every node.",
        effect: Effect::Restart,
        get: |c| Value::of_text(&c.etcd.endpoints),
        set: |c, v| c.etcd.endpoints = owned(v).unwrap_or_default(),
    },
    Setting {
        section: "etcd",
        name: "prefix",
        form: Form::Text {
            kind: "a prefix of keys",
            wanted: "what all keys begin with, such as \"/coreos.com/network\"",
            check: prefix,
        },
        otherwise: None,
        example: None,
        what: "What all keys begin with: the configuration is at `<prefix>/config`, leases are below `<prefix>/subnets`.",
        cost: "None.",
        when: "Where flannel's nodes have another (`--etcd-prefix`).",
        effect: Effect::Restart,
        get: |c| Value::of_text(&c.etcd.prefix),
        set: |c, v| c.etcd.prefix = owned(v).unwrap_or_default(),
    },
    Setting {
        section: "etcd",
        name: "ca_file",
        form: Form::Path {
            wanted: "the whole path, such as \"/etc/weft/etcd-ca.crt\"",
            check: absolute_path,
        },
        otherwise: Some("whom the system trusts"),
        example: Some("\"/etc/weft/etcd-ca.crt\""),
        what: "Who may have signed the members' certificates, as PEM. It is read with every connection, as the two below are.",
        cost: "None.",
        when: "Where etcd's certificates are by an authority of its own.",
        effect: Effect::Restart,
        get: |c| of_optional_path(&c.etcd.ca_file),
        set: |c, v| c.etcd.ca_file = owned(v).map(PathBuf::from),
    },
    Setting {
        section: "etcd",
        name: "cert_file",
        form: Form::Path { wanted: "the whole path, such as \"/etc/weft/etcd.crt\"", check: absolute_path },
        otherwise: Some("none is shown"),
        example: Some("\"/etc/weft/etcd.crt\""),
        what: "The certificate that weftd shows, as PEM.",
        cost: "None.",
        when: "Where etcd asks for one.",
        effect: Effect::Restart,
        get: |c| of_optional_path(&c.etcd.cert_file),
        set: |c, v| c.etcd.cert_file = owned(v).map(PathBuf::from),
    },
    Setting {
        section: "etcd",
        name: "key_file",
        form: Form::Path { wanted: "the whole path, such as \"/etc/weft/etcd.key\"", check: absolute_path },
        otherwise: Some("none"),
        example: Some("\"/etc/weft/etcd.key\""),
        what: "The key of `cert_file`, as PEM.",
        cost: "None.",
        when: "With `cert_file`.",
        effect: Effect::Restart,
        get: |c| of_optional_path(&c.etcd.key_file),
        set: |c, v| c.etcd.key_file = owned(v).map(PathBuf::from),
    },
    Setting {
        section: "etcd",
        name: "username",
        form: Form::Text {
            kind: "a user's name",
            wanted: "a user's name, such as \"weft\"",
            check: not_empty,
        },
        otherwise: Some("none"),
        example: Some("\"weft\""),
        what: "The user name for etcd.",
        cost: "None.",
        when: "Where etcd asks for one.",
        effect: Effect::Restart,
        get: |c| Value::of_option(c.etcd.username.clone()),
        set: |c, v| c.etcd.username = owned(v),
    },
    Setting {
        section: "etcd",
        name: "password_file",
        form: Form::Path {
            wanted: "the whole path, such as \"/etc/weft/etcd-password\"",
            check: absolute_path,
        },
        otherwise: Some("an empty password"),
        example: Some("\"/etc/weft/etcd-password\""),
        what: "The file with the password for etcd; white space at its end does not count.",
        cost: "None.",
        when: "With `username`.",
        effect: Effect::Restart,
        get: |c| of_optional_path(&c.etcd.password_file),
        set: |c, v| c.etcd.password_file = owned(v).map(PathBuf::from),
    },
    Setting {
        section: "etcd",
        name: "renew_margin_min",
        form: Form::Integer { unit: "min", min: 1, max: 1439 },
        otherwise: None,
        example: None,
        what: "How long before its end the node's lease, of a day, is renewed.",
        cost: "More writes to etcd: one each 24 h less this time.",
        when: "More where etcd may be away for longer than an hour.",
        effect: Effect::Restart,
        get: |c| Value::of_number(c.etcd.renew_margin_min),
        set: |c, v| c.etcd.renew_margin_min = v.number(),
    },
    Setting {
        section: "kubernetes",
        name: "api_url",
        form: Form::Text {
            kind: "an address of a server",
            wanted: "the API server, such as \"https://192.0.2.1:6443\"",
            check: server,
        },
        otherwise: Some("that of the kubeconfig, or of the pod's environment"),
        example: Some("\"https://192.0.2.1:6443\""),
        what: "The API server, as flanneld's `--kube-api-url`.",
        cost: "None.",
        when: "Where the kubeconfig's server is not to be used, such as for a proxy on this node.",
        effect: Effect::Restart,
        get: |c| Value::of_option(c.kubernetes.api_url.clone()),
        set: |c, v| c.kubernetes.api_url = owned(v),
    },
    Setting {
        section: "kubernetes",
        name: "kubeconfig",
        form: Form::Path { wanted: "the whole path, such as \"/etc/weft/kubeconfig\"", check: absolute_path },
        otherwise: Some("what the pod that weftd runs in was given"),
        example: Some("\"/etc/weft/kubeconfig\""),
        what: "The API server and weftd's credentials, as flanneld's `--kubeconfig-file`. It is read again when the server refuses them.",
        cost: "None.",
        when: "Where weftd runs in no pod.",
        effect: Effect::Restart,
        get: |c| of_optional_path(&c.kubernetes.kubeconfig),
        set: |c, v| c.kubernetes.kubeconfig = owned(v).map(PathBuf::from),
    },
    Setting {
        section: "kubernetes",
        name: "annotation_prefix",
        form: Form::Text {
            kind: "a prefix of annotations",
            wanted: "a domain name, such as \"flannel.alpha.coreos.com\", or one with a slash and a word",
            check: |text| match text.contains('.') {
                true => Ok(()),
                false => Err(format!("{text:?} has no domain name")),
            },
        },
        otherwise: None,
        example: None,
        what: "What the annotations of nodes begin with, as flanneld's `--kube-annotation-prefix`.",
        cost: "None.",
        when: "Where flannel's nodes have another.",
        effect: Effect::Restart,
        get: |c| Value::of_text(&c.kubernetes.annotation_prefix),
        set: |c, v| c.kubernetes.annotation_prefix = owned(v).unwrap_or_default(),
    },
    Setting {
        section: "kubernetes",
        name: "net_conf",
        form: Form::Path {
            wanted: "the whole path, such as \"/etc/kube-flannel/net-conf.json\"",
            check: absolute_path,
        },
        otherwise: None,
        example: None,
        what: "The network's configuration, as flanneld's `--net-config-path`. It is read once.",
        cost: "None.",
        when: "Where the ConfigMap is mounted elsewhere.",
        effect: Effect::Restart,
        get: |c| of_path(&c.kubernetes.net_conf),
        set: |c, v| set_path(&mut c.kubernetes.net_conf, v),
    },
    Setting {
        section: "kubernetes",
        name: "set_network_unavailable",
        form: Form::Boolean,
        otherwise: None,
        example: None,
        what: "Whether the node's condition `NetworkUnavailable` is set to `False`, as flanneld's `--set-node-network-unavailable`.",
        cost: "None.",
        when: "`false` where another controller sets it.",
        effect: Effect::Restart,
        get: |c| Value::Boolean(c.kubernetes.set_network_unavailable),
        set: |c, v| c.kubernetes.set_network_unavailable = v == Value::Boolean(true),
    },
    Setting {
        section: "flannel",
        name: "public_ip",
        form: Form::Text {
            kind: "an IPv4 address",
            wanted: "an IPv4 address, such as \"192.0.2.1\", or leave it out for the uplink's",
            check: |text| text.parse::<Ipv4Addr>().map(drop).map_err(|error| format!("{text:?}: {error}")),
        },
        otherwise: Some("that of the uplink"),
        example: Some("\"192.0.2.1\""),
        what: "The IPv4 address that peers send to.",
        cost: "None.",
        when: "Behind address translation. Without `uplink.interface` it chooses the interface as well.",
        effect: Effect::Restart,
        get: |c| Value::of_option(c.flannel.public_ip.map(|ip| ip.to_string())),
        set: |c, v| c.flannel.public_ip = v.text().and_then(|text| text.parse().ok()),
    },
    Setting {
        section: "flannel",
        name: "public_ipv6",
        form: Form::Text {
            kind: "an IPv6 address",
            wanted: "an IPv6 address, such as \"2001:db8::1\", or leave it out for the uplink's",
            check: |text| text.parse::<Ipv6Addr>().map(drop).map_err(|error| format!("{text:?}: {error}")),
        },
        otherwise: Some("that of the uplink"),
        example: Some("\"2001:db8::1\""),
        what: "The IPv6 address that peers send to.",
        cost: "None.",
        when: "As `public_ip`.",
        effect: Effect::Restart,
        get: |c| Value::of_option(c.flannel.public_ipv6.map(|ip| ip.to_string())),
        set: |c, v| c.flannel.public_ipv6 = v.text().and_then(|text| text.parse().ok()),
    },
    Setting {
        section: "flannel",
        name: "subnet_file",
        form: Form::Path {
            wanted: "the whole path, such as \"/run/flannel/subnet.env\"",
            check: absolute_path,
        },
        otherwise: None,
        example: None,
        what: "The file that tells CNI plugins this node's subnet and MTU. It is written once traffic flows, and says the subnet to the next start.",
        cost: "None.",
        when: "Where CNI plugins look elsewhere.",
        effect: Effect::Restart,
        get: |c| of_path(&c.flannel.subnet_file),
        set: |c, v| set_path(&mut c.flannel.subnet_file, v),
    },
    Setting {
        section: "flannel",
        name: "ip_masq",
        form: Form::Boolean,
        otherwise: None,
        example: None,
        what: "Whether packets of pods that leave the pod network get the node's address: weftd makes flannel's rules for it, by iptables, or by nftables where the network's configuration has `EnableNFTables`, and `subnet_file` tells CNI plugins to leave it to the node (`FLANNEL_IPMASQ`).",
        cost: "None in weft: the kernel translates such packets, which are its own to forward in any case. It needs `iptables` or `nft` on the node.",
        when: "As flanneld's `--ip-masq`. `false` where the pods' addresses are routed outside, or something else masquerades.",
        effect: Effect::Restart,
        get: |c| Value::Boolean(c.flannel.ip_masq),
        set: |c, v| c.flannel.ip_masq = v == Value::Boolean(true),
    },
    Setting {
        section: "flannel",
        name: "ip_masq_random",
        form: Form::Boolean,
        otherwise: None,
        example: None,
        what: "Whether the port of a masqueraded packet is chosen at random: two connections that begin at once do not take the same then.",
        cost: "None.",
        when: "`false` as flanneld's `--ip-masq-fully-random-disable`: where somebody needs ports to be kept.",
        effect: Effect::Restart,
        get: |c| Value::Boolean(c.flannel.ip_masq_random),
        set: |c, v| c.flannel.ip_masq_random = v == Value::Boolean(true),
    },
    Setting {
        section: "flannel",
        name: "forward_rules",
        form: Form::Boolean,
        otherwise: None,
        example: None,
        what: "Whether weftd's rules have the node's filter let through what the kernel forwards from and to pods.",
        cost: "As `ip_masq`.",
        when: "`false` as flanneld's `--iptables-forward-rules=false`: where the node's filter is to decide.",
        effect: Effect::Restart,
        get: |c| Value::Boolean(c.flannel.forward_rules),
        set: |c, v| c.flannel.forward_rules = v == Value::Boolean(true),
    },
    Setting {
        section: "flannel",
        name: "resync_s",
        form: Form::Integer { unit: "s", min: 1, max: 86_400 },
        otherwise: None,
        example: None,
        what: "How often the rules and the blackhole routes are looked at, by nftables as well, and made again where somebody has changed them.",
        cost: "A handful of short programs each time.",
        when: "As flanneld's `--iptables-resync`: less often where each look takes long, on nodes with very many rules of the older iptables.",
        effect: Effect::Restart,
        get: |c| Value::of_number(c.flannel.resync_s),
        set: |c, v| c.flannel.resync_s = v.number(),
    },
    Setting {
        section: "flannel",
        name: "blackhole_route",
        form: Form::Boolean,
        otherwise: None,
        example: None,
        what: "Whether there is a route to nowhere for the node's own subnets, behind the one to its pods: while the host port is not there, their packets are not sent elsewhere.",
        cost: "None.",
        when: "As flanneld's `--ip-blackhole-route`: where the node's default route would send packets for its pods back to it.",
        effect: Effect::Restart,
        get: |c| Value::Boolean(c.flannel.blackhole_route),
        set: |c, v| c.flannel.blackhole_route = v == Value::Boolean(true),
    },
    Setting {
        section: "flannel",
        name: "healthz",
        form: Form::Address,
        otherwise: None,
        example: None,
        what: "Where `/healthz` and `/readyz` are served beside `metrics.listen`: an IP address and a TCP port, as flanneld's `--healthz-ip` and `--healthz-port`. `\"\"`: nowhere.",
        cost: "As `metrics.listen`.",
        when: "Where a manifest's probes ask there: `\"0.0.0.0:8081\"`.",
        effect: Effect::Restart,
        get: |c| Value::of_text(c.flannel.healthz.map_or_else(String::new, |at| at.to_string())),
        set: |c, v| c.flannel.healthz = v.text().and_then(|text| text.parse().ok()),
    },
    Setting {
        section: "control",
        name: "socket",
        form: Form::Path {
            wanted: "the whole path, such as \"/run/weft/weftd.sock\", of 107 bytes at most",
            check: socket_path,
        },
        otherwise: None,
        example: None,
        what: "The UNIX socket of the API, absolute, at most 107 bytes.",
        cost: "None.",
        when: "For a second weftd on the node. `weft` and `weft-cni` must be told.",
        effect: Effect::Restart,
        get: |c| of_path(&c.control.socket),
        set: |c, v| set_path(&mut c.control.socket, v),
    },
    Setting {
        section: "control",
        name: "group",
        form: Form::Text {
            kind: "a group's name",
            wanted: "a group's name, such as \"weft\"",
            check: name_part,
        },
        otherwise: Some("the daemon's own group"),
        example: Some("\"weft\""),
        what: "The group that may use the socket, whose mode is 0660.",
        cost: "Whoever is in it can change every port of the node.",
        when: "To let operators use `weft` without root.",
        effect: Effect::Restart,
        get: |c| Value::of_option(c.control.group.clone()),
        set: |c, v| c.control.group = owned(v),
    },
    Setting {
        section: "state",
        name: "dir",
        form: Form::Path { wanted: "the whole path, such as \"/var/lib/weft\"", check: absolute_path },
        otherwise: None,
        example: None,
        what: "The folder of what weftd keeps over a restart, absolute; made if it is missing.",
        cost: "A few kilobytes, written when pods come and go.",
        when: "Put it on a file system that outlives a reboot, or the VTEPs' MAC addresses change with each.",
        effect: Effect::Restart,
        get: |c| of_path(&c.state.dir),
        set: |c, v| set_path(&mut c.state.dir, v),
    },
    Setting {
        section: "host_port",
        name: "name",
        form: Form::Text {
            kind: "an interface's name",
            wanted: "an interface's name, such as \"weft0\"",
            check: interface_name,
        },
        otherwise: None,
        example: None,
        what: "The TAP interface between the host and its pods, at most 15 bytes.",
        cost: "None.",
        when: "If the host has one of that name, or has firewall rules for another.",
        effect: Effect::Restart,
        get: |c| Value::of_text(&c.host_port.name),
        set: |c, v| c.host_port.name = owned(v).unwrap_or_default(),
    },
    Setting {
        section: "bridge",
        name: "ageing_s",
        form: Form::Integer { unit: "s", min: 10, max: 1_000_000 },
        otherwise: None,
        example: None,
        what: "After how long a MAC address that was learned behind a trusted pod, and that sends nothing, is forgotten (IEEE 802.1Q).",
        cost: "Longer keeps stations in the table that are gone; frames for them go to the old port.",
        when: "Less where stations move between pods without a word; more where they are silent for long, and frames for them shall not be flooded.",
        effect: Effect::Live,
        get: |c| Value::of_number(c.bridge.ageing_s),
        set: |c, v| c.bridge.ageing_s = v.number(),
    },
    Setting {
        section: "bridge",
        name: "learn_limit",
        form: Form::Integer { unit: "addresses", min: 0, max: 65_536 },
        otherwise: None,
        example: None,
        what: "How many MAC addresses are learned behind one trusted pod at most. 0: none.",
        cost: "Memory of the table, and one pod can fill it for the others.",
        when: "More behind a pod that bridges a large network.",
        effect: Effect::Live,
        get: |c| Value::of_number(c.bridge.learn_limit),
        set: |c, v| c.bridge.learn_limit = v.number(),
    },
    Setting {
        section: "bridge",
        name: "flood_rate",
        form: Form::Integer { unit: "copies/s", min: 0, max: 1_000_000 },
        otherwise: None,
        example: None,
        what: "How many copies of broadcasts, multicasts and frames to unknown stations are made for each port that sends them, on average: a broadcast is one for every pod of the node. A tenth of it at once, and at least one frame to all. 0: none. Questions about addresses that weft knows are answered, not flooded, and don't count.",
        cost: "Each copy is a buffer, and work for the pod that gets it. The default is 40 broadcasts a second with 250 pods.",
        when: "Less where one pod's broadcasts burden the others, more for multicast applications.",
        effect: Effect::Live,
        get: |c| Value::of_number(c.bridge.flood_rate),
        set: |c, v| c.bridge.flood_rate = v.number(),
    },
    Setting {
        section: "bridge",
        name: "move_rate",
        form: Form::Integer { unit: "moves/s", min: 0, max: 1_000_000 },
        otherwise: None,
        example: None,
        what: "How many learned MAC addresses may move to a port. 0: none.",
        cost: "A loop between two trusted pods moves addresses as fast as it may.",
        when: "More where many stations fail over at once.",
        effect: Effect::Live,
        get: |c| Value::of_number(c.bridge.move_rate),
        set: |c, v| c.bridge.move_rate = v.number(),
    },
    Setting {
        section: "router",
        name: "icmp_rate",
        form: Form::Integer { unit: "messages/s", min: 0, max: 1_000_000 },
        otherwise: None,
        example: None,
        what: "How many ICMP errors (unreachable, packet too big, time exceeded) are sent about packets from one port; a twentieth of it at once. 0: none, and path MTU discovery and traceroute stop working (RFC 1812, 4.3.2.8; RFC 4443, 2.4(f)).",
        cost: "Each is a packet of up to 576 (IPv4) or 1280 (IPv6) bytes.",
        when: "More for a node whose pods probe many destinations; less where they are scanned.",
        effect: Effect::Live,
        get: |c| Value::of_number(c.router.icmp_rate),
        set: |c, v| c.router.icmp_rate = v.number(),
    },
    Setting {
        section: "metrics",
        name: "listen",
        form: Form::Address,
        otherwise: None,
        example: None,
        what: "Where `/metrics`, `/healthz` and `/readyz` are served over HTTP: an IP address and a TCP port. `\"\"`: nowhere.",
        cost: "A connection now and then. Whoever reaches it may read it.",
        when: "The node's address, where Prometheus runs elsewhere; another port for a second weftd.",
        effect: Effect::Live,
        get: |c| Value::of_text(c.metrics.listen.map_or_else(String::new, |at| at.to_string())),
        set: |c, v| c.metrics.listen = v.text().and_then(|text| text.parse().ok()),
    },
    Setting {
        section: "log",
        name: "level",
        form: Form::Choice(words::<LogLevel>),
        otherwise: None,
        example: None,
        what: "The least important level that is logged to standard error. The environment's `WEFT_LOG` goes before it. Packets are never logged at any level.",
        cost: "`debug` and `trace` write a line for each step of the control side.",
        when: "`debug` to see why something is done.",
        effect: Effect::Live,
        get: |c| c.log.level.value(),
        set: |c, v| set(&mut c.log.level, v),
    },
];

/// A type with a word for each of its values.
trait Words: Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn value(self) -> Value {
        let word = Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word);
        Value::of_text(word)
    }
}

impl Words for Hugepages {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("never", Self::Never), ("require", Self::Require)];
}

impl Words for Idle {
    const WORDS: &'static [(&'static str, Self)] = &[("adaptive", Self::Adaptive), ("poll", Self::Poll)];
}

impl UplinkKind {
    /// As it is written in the file.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

impl Words for UplinkKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("socket", Self::Socket), ("af_packet", Self::AfPacket), ("af_xdp", Self::AfXdp)];
}

impl SourceKind {
    /// As it is written in the file.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

impl Words for SourceKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("file", Self::File), ("etcd", Self::Etcd), ("kubernetes", Self::Kubernetes)];
}

impl Words for OuterChecksum {
    const WORDS: &'static [(&'static str, Self)] = &[("zero", Self::Zero), ("valid", Self::Valid)];
}

impl Words for TunnelGso {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("always", Self::Always), ("never", Self::Never)];
}

impl Words for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

fn words<T: Words>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(word, _)| *word).collect()
}

fn set<T: Words>(into: &mut T, value: Value) {
    if let Some((_, chosen)) = T::WORDS.iter().find(|(word, _)| Some(*word) == value.text()) {
        *into = *chosen;
    }
}

fn owned(value: Value) -> Option<String> {
    value.text().map(str::to_owned)
}

fn of_path(path: &Path) -> Value {
    Value::of_text(path.to_string_lossy())
}

fn set_path(into: &mut PathBuf, value: Value) {
    if let Some(path) = owned(value) {
        *into = path.into();
    }
}

fn of_optional_path(path: &Option<PathBuf>) -> Value {
    Value::of_option(path.as_ref().map(|path| path.to_string_lossy().into_owned()))
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(()) }
}

fn endpoints(text: &str) -> Result<(), String> {
    for endpoint in text.split(',') {
        let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
        if host.is_empty() || endpoint.contains(char::is_whitespace) {
            return Err(format!("{endpoint:?} is no address of a member"));
        }
    }
    Ok(())
}

fn server(text: &str) -> Result<(), String> {
    match text.strip_prefix("https://").or(text.strip_prefix("http://")) {
        Some(host) if !host.is_empty() && !text.contains(char::is_whitespace) => Ok(()),
        _ => Err(format!("{text:?} is no address of a server")),
    }
}

fn prefix(text: &str) -> Result<(), String> {
    if text.starts_with('/') && text.len() > 1 {
        Ok(())
    } else {
        Err(format!("{text:?} does not begin with / and a name"))
    }
}

/// Cores that weftd chooses itself are unset.
fn cores_of(dataplane: &Dataplane) -> Value {
    match dataplane.cores.is_empty() {
        true => Value::Unset,
        false => Value::List(dataplane.cores.iter().map(|core| *core as i64).collect()),
    }
}

fn set_cores(dataplane: &mut Dataplane, value: Value) {
    dataplane.cores = match value {
        Value::List(cores) => cores.into_iter().filter_map(|core| usize::try_from(core).ok()).collect(),
        _ => Vec::new(),
    };
}
