//! The tunnel, with the kernel's own VTEP as flannel sets it up at the other end.
//!
//! | | |
//! |---|---|
//! | `kernels` | whole kernels at both ends |
//! | `sends` | what weft puts on the wire, byte by byte, and that the kernel takes it |
//! | `takes` | what weft takes from the wire: the kernel's packets, and some that it would not make |
//! | `refuses` | what weft drops, and for which reason; the kernel drops it too |
//! | `congestion` | ECN, both ways |
//! | `fragments` | outer packets in pieces |
//! | `follows` | peers that change |
//! | `networks` | two of them at once |
//! | `mtu` | underlays of several sizes |
//! | `underlay6` | the tunnel over IPv6 |
//!
//! [`Pair`] is what most of them stand on.

mod congestion;
mod follows;
mod fragments;
pub(crate) mod kernels;
mod mtu;
mod networks;
mod pair;
mod refuses;
mod sends;
mod takes;
mod underlay6;

use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::lab::{Lab, Namespace, VTEP_MACS, once_free};

pub(crate) use pair::{GATEWAY, Inside, Pair, Setup, To};

/// b as flannel and the bridge plugin leave a node, with a pod. The underlay has 50 bytes more than `mtu`.
pub(crate) fn kernel_node(lab: &Lab, mtu: u32) -> Namespace {
    let (b, pod) = (&lab.peer, Namespace::new("far"));
    b.must("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    let [near, own] = VTEP_MACS;
    b.ip(&format!(
        "link add flannel.1 address {own} mtu {mtu} type vxlan id 1 local 172.16.0.2 dev up0 dstport 8472 nolearning"
    ));
    b.ip("addr add 10.244.1.0/32 dev flannel.1");
    b.ip("addr add fd00:10:244:1::/128 dev flannel.1");
    b.ip("link set flannel.1 up");
    for (via, subnet) in [("10.244.0.0", "10.244.0.0/24"), ("fd00:10:244::", "fd00:10:244::/64")] {
        b.ip(&format!("neigh add {via} lladdr {near} dev flannel.1 nud permanent"));
        b.ip(&format!("route add {subnet} via {via} dev flannel.1 onlink"));
    }
    b.must(&format!("bridge fdb append {near} dev flannel.1 dst 172.16.0.1 self permanent"));
    b.ip(&format!("link add cni0 mtu {mtu} type bridge forward_delay 0"));
    b.ip("addr add 10.244.1.1/24 dev cni0");
    b.ip("addr add fd00:10:244:1::1/64 dev cni0 nodad");
    b.ip("link set cni0 up");
    b.ip(&format!("link add pod mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}", pod.name()));
    b.ip("link set pod master cni0 up");
    pod.ip("addr add 10.244.1.2/24 dev eth0");
    pod.ip("addr add fd00:10:244:1::2/64 dev eth0 nodad");
    pod.ip("link set eth0 up");
    pod.ip("route add default via 10.244.1.1");
    pod.ip("route add default via fd00:10:244:1::1");
    pod
}

/// Sends some MiB by TCP from one namespace to an address of another, and compares what arrives.
pub(crate) fn stream(from: &Namespace, to: &Namespace, address: &str) {
    let listen = SocketAddr::new(address.parse().expect("an address"), 5201);
    let listener = to.enter(move || once_free(|| TcpListener::bind(listen))).join().expect("a listener");
    let receiver = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("a connection");
        connection.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        let (mut hash, mut length, mut buffer) = (DefaultHasher::new(), 0, vec![0; 1 << 16]);
        loop {
            match connection.read(&mut buffer).expect("no gap of 20 s") {
                0 => return (length, hash.finish()),
                read => {
                    hash.write(&buffer[..read]);
                    length += read;
                }
            }
        }
    });
    let sender = from.enter(move || {
        let mut connection =
            TcpStream::connect_timeout(&listen, Duration::from_secs(20)).expect("a connection");
        let mut hash = DefaultHasher::new();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..128 {
            let words = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            let block: Vec<u8> = words.take(4096).flatten().collect();
            hash.write(&block);
            connection.write_all(&block).expect("the other end takes it");
        }
        connection.shutdown(Shutdown::Write).expect("an end");
        (128 * 4096 * 8, hash.finish())
    });
    // A panic of the receiver alone would leave the test waiting for a connection: the sender is asked first.
    let sent = sender.join().expect("the sender");
    assert_eq!(receiver.join().expect("the receiver"), sent, "{} to {address}", from.name());
}
