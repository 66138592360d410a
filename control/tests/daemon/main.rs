//! weftd from outside: the real program in network namespaces of its own, with the kernel's tools and stack as judges.
//!
//! Needs root, `/dev/net/tun`, iproute2, ping and util-linux, for `cni` the reference plugins, for `etcd` and `masquerade` etcd, iptables and nftables; without them the tests fail.

mod bandwidth;
mod bridge;
mod cni;
mod direct;
mod etcd;
mod faults;
mod guests;
mod ip_tunnel;
mod kube_proxy;
mod kubernetes;
mod lab;
mod lifecycle;
mod masquerade;
mod metrics;
mod mtu;
mod neighbours;
mod offload_tap;
mod ports;
mod refusals;
mod requests;
mod router;
mod settings;
mod socket;
mod source;
mod supervisor;
mod tunnel;
mod uplink_socket;
mod uplink_whole;
mod uplink_xdp;
mod wire;
