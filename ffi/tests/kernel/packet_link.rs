//! Packet sockets whose interface goes down, comes back, or is deleted.

use std::os::fd::AsFd;
use std::time::Duration;

use weft_ffi::kernel::event::{Epoll, Events, Interest};
use weft_ffi::kernel::packet::{LinkState, PacketTx, RxOptions, TxOptions, TxReport, TxStop};

use crate::frames::{UDP_HEADERS, partial_udp, udp_to_b};
use crate::lab::{Cable, eventually, name, wait_ready};
use crate::packet_rx::ring_on;

#[test]
fn an_interface_that_is_down_comes_back_and_one_that_is_gone_does_not() {
    let cable = Cable::new();
    let mut ring = ring_on(&cable.b, "b0", &RxOptions::default());
    let mut tx = cable.a.within(|| PacketTx::open(name("a0"), TxOptions::default())).unwrap();
    let frame = udp_to_b(1, 9, b"hello");
    let mut send = || {
        let batch = [(partial_udp(0), [&frame[..]]), (partial_udp(0), [&frame[..]])];
        tx.send_batch(batch, |at, error| panic!("frame {at}: {error}"))
    };
    let sent = TxReport { sent: 2, failed: 0, stop: None };
    let stopped = |stop| TxReport { sent: 0, failed: 0, stop: Some(stop) };
    let (epoll, mut events) = (Epoll::new().unwrap(), Events::with_capacity(4));
    epoll.add(ring.as_fd(), 1, Interest::Read).unwrap();
    assert_eq!(ring.link_state().unwrap(), LinkState::Up);

    cable.b.ip("link set b0 down");
    cable.a.ip("link set a0 down");
    assert!(wait_ready(&epoll).iter().any(|ready| ready.error), "epoll tells of it");
    assert_eq!(ring.link_state().unwrap(), LinkState::Down);
    epoll.wait(Some(Duration::ZERO), &mut events).unwrap();
    assert!(!events.iter().any(|ready| ready.error), "once");
    assert_eq!(send(), stopped(TxStop::Down));

    cable.b.ip("link set b0 up");
    cable.a.ip("link set a0 up");
    assert_eq!(send(), sent);
    eventually("a frame after the interface came back", || {
        let frame = ring.next_frame()?;
        assert_eq!(&frame.bytes()[UDP_HEADERS..], b"hello");
        Some(())
    });

    // Deleting one end of a veth deletes the other.
    cable.a.ip("link del a0");
    assert_eq!(send(), stopped(TxStop::Gone));
    eventually("the ring to know that its interface is gone", || {
        (ring.link_state().unwrap() == LinkState::Gone).then_some(())
    });
}
