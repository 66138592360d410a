//! What there is to know of the settings of `cluster.toml`, for their description. All changes of them take effect at
//! once, so that is not said of each.

/// One setting.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    /// Its type, unit and range.
    pub(crate) form: &'static str,
    /// What it is where nothing is set.
    pub(crate) default: &'static str,
    pub(crate) what: &'static str,
    pub(crate) cost: &'static str,
    /// When to change it.
    pub(crate) when: &'static str,
}

/// A section: its heading, what it is about, and its settings.
pub(crate) type Section = (&'static str, &'static str, &'static [Setting]);

const NEEDED: &str = "none, it must be given";
const NONE: &str = "None.";

pub(crate) const SECTIONS: [Section; 4] = [
    (
        "[network]",
        "a network that pods have their addresses of; `[[network]]` several times for several, which must not overlap",
        &[
            Setting {
                name: "name",
                form: "text: letters, digits, `-`, `.`, `_`",
                default: "`\"default\"` for the first, none for the others",
                what: "The network's name, unique.",
                cost: NONE,
                when: "With several networks.",
            },
            Setting {
                name: "ipv4",
                form: "an IPv4 network",
                default: "no IPv4; one of `ipv4` and `ipv6` must be given",
                what: "All IPv4 pod addresses of the network.",
                cost: NONE,
                when: "It is set once, as wide as the cluster may grow.",
            },
            Setting {
                name: "ipv6",
                form: "an IPv6 network",
                default: "no IPv6",
                what: "All IPv6 pod addresses of the network.",
                cost: "20 bytes of each packet's room where some node has `public_ipv6`.",
                when: "For pods with IPv6.",
            },
            Setting {
                name: "vni",
                form: "integer, 0 to 16777215",
                default: "`1`, as flannel, for the first network; none for the others",
                what: "The VXLAN network identifier, unique.",
                cost: "Nodes with another VNI are not understood.",
                when: "Where flannel's `Backend.VNI` is another.",
            },
            Setting {
                name: "port",
                form: "UDP port, 1 to 65535",
                default: "`8472`, as flannel on Linux; `8285` where `encapsulation` is `udp`",
                what: "The UDP port of all tunnels of all networks; given in one of the networks.",
                cost: "Nodes with another port are not understood. A change opens the uplink's sockets anew.",
                when: "Where flannel's `Backend.Port` is another; `4789` is RFC 7348's.",
            },
            Setting {
                name: "encapsulation",
                form: "`\"vxlan\"`, `\"udp\"` or `\"ipip\"`",
                default: "`\"vxlan\"`",
                what: "What the tunnels' packets are in, as flannel's backends of these names have it: VXLAN; UDP datagrams with nothing between; or \
                       IPv4 packets. The last two carry IPv4 of one network, over IPv4, by the kernel's sockets, whatever `uplink.kind` is; given in \
                       one of the networks.",
                cost: "Nodes with another encapsulation are not understood. `udp` and `ipip` send each packet by itself, so large frames are cut before. \
                       `udp` counts two hops more. A change opens the uplink's sockets anew.",
                when: "Where flannel's nodes have such a backend.",
            },
            Setting {
                name: "mtu",
                form: "integer, bytes, 576 (with `ipv6` 1280) to 65535",
                default: "the underlay's MTU less 50, or 70 with `ipv6` and a node with `public_ipv6`; less 28 with `udp` and 20 with `ipip`; all of it where `direct_routing` is `always`",
                what: "The MTU inside pods.",
                cost: "Less costs packets; more than the underlay carries costs fragments or drops.",
                when: "Where the way between nodes carries less than their interfaces say.",
            },
            Setting {
                name: "direct_routing",
                form: "`\"never\"`, `\"on-link\"` or `\"always\"`",
                default: "`\"never\"`",
                what: "Which nodes' pods are reached without the tunnel. `on-link`: those that the kernel reaches without a router, as with flannel's \
                       `DirectRouting`; the others have the tunnel. `always`: all, as with flannel's `host-gw`; those behind a router are not reached, \
                       and `weft status` names them. Pods' packets go through the host port, and the kernel forwards them by routes that weft \
                       makes: `net.ipv4.ip_forward` (`net.ipv6.conf.all.forwarding`, and `accept_ra=2` where the host takes its route from router \
                       advertisements) must be 1. With any of the three, both forms are taken from every node, as far as the kernel lets them by: with \
                       `rp_filter=1` it takes packets without the tunnel only from nodes that it sends them to.",
                cost: "The kernel's forwarding for each packet, its packet filter included. The underlay sees pods' addresses, and must let them \
                       pass. Who is on the underlay's link can send to the pods without the tunnel, so `known_vteps_only` does not keep them off: leave \
                       `rp_filter` on, or filter. With the uplink `af_xdp` weft takes and sends these packets itself, past the host's address translation, \
                       and changing the setting opens the uplink anew. With `always`, pods may have the underlay's whole MTU, and no `[[route]]` leads through pods of other nodes.",
                when: "With flannel's nodes that are set so, where the tunnel's 50 bytes matter, or where the underlay's devices should see the pods.",
            },
        ],
    ),
    (
        "[[node]]",
        "a node of the cluster: all of them, this one too",
        &[
            Setting {
                name: "name",
                form: "text: letters, digits, `-`, `.`, `_`",
                default: NEEDED,
                what: "The node's name, unique; Kubernetes' where there is Kubernetes.",
                cost: NONE,
                when: "When a node comes or goes.",
            },
            Setting {
                name: "subnets",
                form: "list of networks, each inside one `[network]`, of /30 or /126 or wider",
                default: NEEDED,
                what: "The node's pod addresses. The first (`.0`) is the host's, the second (`.1`) the gateway's.",
                cost: "A route for each on every node.",
                when: "When a node comes, or gets more room.",
            },
            Setting {
                name: "public_ip",
                form: "IPv4 address",
                default: "none; needed for IPv4 subnets and where there is no `public_ipv6`",
                what: "The node's address on the underlay.",
                cost: NONE,
                when: "When the node's address changes.",
            },
            Setting {
                name: "public_ipv6",
                form: "IPv6 address",
                default: "none: IPv6 pods are carried over IPv4",
                what: "The node's IPv6 address on the underlay.",
                cost: "20 bytes of each packet's room.",
                when: "On an underlay with IPv6.",
            },
            Setting {
                name: "vtep_mac",
                form: "MAC address, unicast",
                default: "for the own node one that is made and kept; needed of the others, unless `direct_routing` is `always` or `encapsulation` not `vxlan`",
                what: "The MAC address of the node's VTEP in the first network.",
                cost: NONE,
                when: "When a node comes: `weft vtep` says weft's, `ip link show flannel.1` flannel's.",
            },
            Setting {
                name: "vtep_mac_v6",
                form: "MAC address, unicast",
                default: "`vtep_mac`",
                what: "The same on the IPv6 underlay.",
                cost: NONE,
                when: "For flannel's nodes with IPv6, whose `flannel-v6.1` has an address of its own.",
            },
            Setting {
                name: "vtep_macs",
                form: "table: network name = MAC address",
                default: "as for `vtep_mac`",
                what: "The MAC addresses of the node's VTEPs in the further networks.",
                cost: NONE,
                when: "With several networks.",
            },
            Setting {
                name: "vtep_macs_v6",
                form: "table: network name = MAC address",
                default: "`vtep_macs`",
                what: "The same on the IPv6 underlay.",
                cost: NONE,
                when: "As `vtep_mac_v6`.",
            },
        ],
    ),
    (
        "[[pod]]",
        "a pod; those of other nodes may be listed and are theirs to make",
        &[
            Setting {
                name: "name",
                form: "text: `namespace/name`, or a plain name",
                default: NEEDED,
                what: "The pod's name, unique.",
                cost: NONE,
                when: "When a pod comes or goes.",
            },
            Setting {
                name: "node",
                form: "the name of a node",
                default: NEEDED,
                what: "Where it lives.",
                cost: NONE,
                when: "When it moves.",
            },
            Setting {
                name: "addresses",
                form: "list of IP addresses, with or without a mask, each inside a subnet of the node",
                default: NEEDED,
                what: "The pod's addresses. The mask is that of the subnet if none is written; that of one address (/32, /128); or that of the \
                       network: then the pod asks for all of the network's addresses by ARP and ND, and weft answers for those of other nodes.",
                cost: "The network's mask: a neighbour entry in the pod for each pod that it talks to.",
                when: "The network's mask for software that reaches only what is on its link.",
            },
            Setting {
                name: "mac",
                form: "MAC address, unicast",
                default: "derived from the name",
                what: "The pod's MAC address, unique on its node.",
                cost: NONE,
                when: "For virtual machines that have one already.",
            },
            Setting {
                name: "trusted",
                form: "`true` or `false`",
                default: "`false`",
                what: "Whether it may send from any MAC and IP address. What it sends from is learned.",
                cost: "It can take the place of any station that weft does not know, within `bridge.learn_limit` and `bridge.move_rate`.",
                when: "For routers, firewalls, and virtual machines that bridge others.",
            },
            Setting {
                name: "ingress_rate",
                form: "text, bits/s, `\"1k\"` to `\"1P\"`",
                default: "as fast as it can",
                what: "How fast it may receive: bytes on the wire, with Ethernet headers. What exceeds it waits, 50 ms at most or 64 KiB, and is dropped beyond that (`rate_limited`).",
                cost: "A queue in packet buffers, of 1 MiB at most and of 4 MiB for all limited pods of a worker, and a look at the length of each frame.",
                when: "Where a pod must leave room for others, as Kubernetes' annotation `kubernetes.io/ingress-bandwidth` says; that goes before this.",
            },
            Setting {
                name: "ingress_burst",
                form: "integer, bits, from 1",
                default: "what the rate brings in 10 ms, which is the least",
                what: "How much of it at once after a pause.",
                cost: "Its neighbours notice the burst.",
                when: "For answers that are to come at once and are few.",
            },
            Setting {
                name: "egress_rate",
                form: "text, bits/s, `\"1k\"` to `\"1P\"`",
                default: "as fast as it can",
                what: "How fast it may send: bytes on the wire, with Ethernet headers. What exceeds it waits in the pod's own interface or ring.",
                cost: "The pod's interface drops what its queue (`txqueuelen`) does not hold.",
                when: "As `ingress_rate`; Kubernetes' annotation is `kubernetes.io/egress-bandwidth`.",
            },
            Setting {
                name: "egress_burst",
                form: "integer, bits, from 1",
                default: "what the rate brings in 10 ms, which is the least",
                what: "How much of it at once after a pause.",
                cost: "Its neighbours notice the burst.",
                when: "As `ingress_burst`.",
            },
            Setting {
                name: "kind",
                form: "`\"tap\"`, `\"vhost-user\"` or `\"dpdk\"`",
                default: NEEDED,
                what: "How it is joined: an interface in its network namespace, a virtual machine's socket, or a DPDK device.",
                cost: "`tap` costs system calls; the others pass the kernel by. DPDK devices are polled, see `dataplane.poll_beat_us`.",
                when: "As the pod is made.",
            },
            Setting {
                name: "netns",
                form: "absolute path",
                default: "none; needed for `tap`",
                what: "The network namespace's file, such as `/run/netns/web`.",
                cost: NONE,
                when: "As the pod is made.",
            },
            Setting {
                name: "ifname",
                form: "interface name, 1 to 15 bytes",
                default: "`\"eth0\"`",
                what: "For `tap`: the interface's name inside.",
                cost: NONE,
                when: "For a second interface of a pod.",
            },
            Setting {
                name: "socket",
                form: "absolute path, at most 107 bytes",
                default: "none; needed for `vhost-user`",
                what: "The UNIX socket.",
                cost: NONE,
                when: "As the virtual machine is made.",
            },
            Setting {
                name: "mode",
                form: "`\"client\"` or `\"server\"`",
                default: "`\"client\"`",
                what: "For `vhost-user`: `client`, the guest's side makes the socket; `server`, weft does.",
                cost: "With `server` a guest does not survive a restart of weft unless it connects again by itself.",
                when: "For guests that can only connect.",
            },
            Setting {
                name: "devargs",
                form: "text without blanks",
                default: "none; needed for `dpdk`",
                what: "DPDK's device arguments, such as `net_memif0,role=server,socket=/run/weft/memif/x.sock`.",
                cost: NONE,
                when: "As the application is made.",
            },
        ],
    ),
    (
        "[[route]]",
        "a route for pods beside those to the nodes' subnets; the host's own routes stay as they are",
        &[
            Setting {
                name: "to",
                form: "a network, not inside a node's subnet",
                default: NEEDED,
                what: "The destinations. `0.0.0.0/0` and `::/0` are the way of all that is not known otherwise.",
                cost: "A further length of prefixes costs a further look-up for each new destination.",
                when: "For what is behind a pod, and for what pods must not reach.",
            },
            Setting {
                name: "via",
                form: "list of 1 to 64 pods' addresses of the same family",
                default: "none; either `via` or `kind`",
                what: "The pods that route on, of whichever node (of this one alone where `direct_routing` is `always`). Several cost the same: each flow takes one of them. A pod that is not there is left \
                       out.",
                cost: NONE,
                when: "For gateways and VPNs in pods. They must be `trusted` to send from other addresses than theirs.",
            },
            Setting {
                name: "kind",
                form: "`\"unreachable\"`, `\"prohibit\"` or `\"blackhole\"`",
                default: "none; either `via` or `kind`",
                what: "Such packets are dropped: the sender is told that the host is unreachable, that it is forbidden, or nothing.",
                cost: "An ICMP error for each packet, within `router.icmp_rate`; none for `blackhole`.",
                when: "`prohibit` so that applications fail at once, `blackhole` against floods.",
            },
            Setting {
                name: "node",
                form: "the name of a node",
                default: "all nodes",
                what: "The only node that has the route. It goes before one of all nodes to the same destinations.",
                cost: NONE,
                when: "Where nodes have different ways out.",
            },
        ],
    ),
];
