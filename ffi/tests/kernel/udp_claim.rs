//! A claimed UDP port: silent, empty, and one's own.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use weft_ffi::kernel::udp_claim::{ClaimError, UdpClaim};

use crate::lab::{Cable, Namespace, eventually};

#[test]
fn the_kernel_sends_no_port_unreachable_for_a_claimed_port() {
    let cable = Cable::new();
    let connect = |port: u16| {
        let socket = cable.a.within(|| UdpSocket::bind("10.9.0.1:0")).unwrap();
        socket.connect(("10.9.0.2", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        socket
    };
    let refused = |socket: &UdpSocket| matches!(socket.recv(&mut [0; 16]), Err(error) if error.kind() == ErrorKind::ConnectionRefused);
    let to_port = connect(8472);
    to_port.send(b"without a claim").unwrap();
    eventually("port unreachable", || refused(&to_port).then_some(()));

    let claim = cable.b.within(|| UdpClaim::bind(8472)).unwrap();
    assert_eq!(claim.port(), 8472);
    assert!(claim.has_ipv6());
    for _ in 0..100 {
        to_port.send(&[0; 1000]).unwrap();
    }
    // The answer for a port next to it comes after every answer for this one would have come.
    let to_neighbour = connect(8473);
    to_neighbour.send(b"not claimed").unwrap();
    eventually("port unreachable for the port next to it", || refused(&to_neighbour).then_some(()));
    assert!(!refused(&to_port), "no answer for the claimed port");

    // Nothing is queued: the fifth column of the table is "tx_queue:rx_queue".
    for (table, port) in [("/proc/thread-self/net/udp", ":2118 "), ("/proc/thread-self/net/udp6", ":2118 ")] {
        let text = cable.b.within(|| std::fs::read_to_string(table)).unwrap();
        let line = text.lines().find(|line| line.contains(port)).expect(table);
        assert_eq!(line.split_whitespace().nth(4), Some("00000000:00000000"), "{line}");
    }

    drop(claim);
    eventually("port unreachable again", || {
        let _maybe_refused = to_port.send(b"after the claim");
        refused(&to_port).then_some(())
    });
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let namespace = Namespace::new();
    namespace.within(|| {
        let first = UdpClaim::bind(8472).unwrap();
        let error = UdpClaim::bind(8472).unwrap_err();
        assert!(matches!(error, ClaimError::InUse { port: 8472, .. }), "{error:?}");
        drop(first);
        assert!(matches!(UdpClaim::bind(0).unwrap_err(), ClaimError::Step { .. }));
    });
    // A kernel VXLAN device, as flanneld makes it.
    namespace.ip("link add flannel.1 type vxlan id 1 local 127.0.0.1 dstport 8472 nolearning");
    namespace.ip("link set flannel.1 up");
    let error = namespace.within(|| UdpClaim::bind(8472)).unwrap_err();
    assert!(matches!(error, ClaimError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("8472") && error.to_string().contains("flannel.1"), "{error}");
    namespace.ip("link del flannel.1");
    eventually("the port to be free", || namespace.within(|| UdpClaim::bind(8472)).ok());
}
