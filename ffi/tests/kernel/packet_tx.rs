//! Sending by packet sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use weft_ffi::kernel::packet::{PacketTx, RxOptions, TX_BATCH, TxOptions, TxReport};

use crate::frames::{GSO_TCP4, NO_OFFLOAD, partial_udp, read_vnet, udp_to_b};
use crate::lab::{Cable, Namespace, name};
use crate::packet_rx::ring_on;

fn tx_at_a(cable: &Cable, options: TxOptions) -> PacketTx {
    cable.a.within(|| PacketTx::open(name("a0"), options)).unwrap()
}

fn socket_at_b(cable: &Cable) -> UdpSocket {
    let socket = cable.b.within(|| UdpSocket::bind("10.9.0.2:5000")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut datagram = vec![0; 65536];
    let len = socket.recv(&mut datagram).expect("a datagram");
    datagram.truncate(len);
    datagram
}

#[test]
fn unfinished_frames_reach_a_socket_finished() {
    let cable = Cable::new();
    let socket = socket_at_b(&cable);
    for bypass_qdisc in [false, true] {
        let mut tx = tx_at_a(&cable, TxOptions { bypass_qdisc, ..TxOptions::default() });
        let small = udp_to_b(4000, 5000, b"small");
        let payload: Vec<u8> = (0..4500u32).map(|n| (n / 1000) as u8).collect();
        let large = udp_to_b(4000, 5000, &payload);
        // In pieces, as a chain of buffers is.
        let frames = [
            (partial_udp(0), vec![&small[..14], &small[14..42], &small[42..]]),
            (partial_udp(1000), large.chunks(700).collect()),
        ];
        let report = tx.send_batch(frames, |at, error| panic!("frame {at}: {error}"));
        assert_eq!(report, TxReport { sent: 2, failed: 0, stop: None });
        assert_eq!(receive(&socket), b"small");
        for segment in payload.chunks(1000) {
            assert_eq!(receive(&socket), segment);
        }
    }
}

#[test]
fn a_bad_frame_does_not_stop_the_others() {
    let cable = Cable::new();
    let socket = socket_at_b(&cable);
    let mut tx = tx_at_a(&cable, TxOptions::default());
    let good: Vec<_> = (0..4u8).map(|n| udp_to_b(4000, 5000, &[n])).collect();
    let too_long = udp_to_b(4000, 5000, &[0; 3000]);
    let mut beyond = partial_udp(0);
    beyond[6..8].copy_from_slice(&6000u16.to_ne_bytes());
    let frames = [
        (NO_OFFLOAD, &too_long[..]),
        (partial_udp(0), &good[0]),
        (beyond, &good[0]),
        (partial_udp(0), &good[1]),
        (partial_udp(0), &good[2]),
        (NO_OFFLOAD, &good[0][..5]),
        (NO_OFFLOAD, &[]),
        (partial_udp(0), &good[3]),
        (NO_OFFLOAD, &too_long[..]),
    ];
    let mut refused = Vec::new();
    let frames = frames.map(|(header, frame)| (header, [frame]));
    let report = tx.send_batch(frames, |at, error| refused.push((at, error.raw_os_error())));
    assert_eq!(report, TxReport { sent: 4, failed: 5, stop: None });
    let expected =
        [(0, libc::EMSGSIZE), (2, libc::EINVAL), (5, libc::EINVAL), (6, libc::EINVAL), (8, libc::EMSGSIZE)];
    assert_eq!(refused, expected.map(|(at, code)| (at, Some(code))));
    for n in 0..4 {
        assert_eq!(receive(&socket), [n]);
    }
}

#[test]
fn more_frames_than_one_call_takes() {
    let cable = Cable::new();
    let socket = socket_at_b(&cable);
    let mut tx = tx_at_a(&cable, TxOptions::default());
    for count in [0, 1, TX_BATCH, 2 * TX_BATCH + 7] {
        let frames: Vec<_> = (0..count).map(|n| udp_to_b(4000, 5000, &n.to_be_bytes())).collect();
        let batch = frames.iter().map(|frame| (partial_udp(0), frame.chunks(9)));
        let report = tx.send_batch(batch, |at, error| panic!("frame {at}: {error}"));
        assert_eq!(report, TxReport { sent: count, failed: 0, stop: None });
        for n in 0..count {
            assert_eq!(receive(&socket), n.to_be_bytes());
        }
    }
}

/// What weft does, in its smallest form: everything that comes in at one interface goes out by the other, with its state.
#[test]
fn tcp_goes_through_a_relay_in_large_frames() {
    const BYTES: usize = 8 << 20;
    let middle = Namespace::new();
    let cable = Cable::through(&middle);
    let stop = AtomicBool::new(false);
    let large_frames = AtomicUsize::new(0);
    let relay = |from: &str, to: &str| {
        let mut rx = ring_on(&middle, from, &RxOptions::default());
        let mut tx = middle.within(|| PacketTx::open(name(to), TxOptions::default())).unwrap();
        let (stop, large_frames) = (&stop, &large_frames);
        move || {
            while !stop.load(Ordering::Relaxed) {
                let Some(frame) = rx.next_frame() else {
                    thread::yield_now();
                    continue;
                };
                let vnet = read_vnet(frame.vnet_hdr());
                if frame.bytes().len() > 1514 && vnet.gso_type == GSO_TCP4 {
                    large_frames.fetch_add(1, Ordering::Relaxed);
                }
                tx.send_batch([(frame.vnet_hdr(), [frame.bytes()])], |_, error| panic!("refused: {error}"));
            }
        }
    };
    let pattern: Vec<u8> = (0..BYTES).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
    thread::scope(|scope| {
        scope.spawn(relay("ma0", "mb0"));
        scope.spawn(relay("mb0", "ma0"));
        let listener = cable.b.within(|| TcpListener::bind("10.9.0.2:5001")).unwrap();
        let receiver = scope.spawn(move || {
            let mut all = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
            all
        });
        let mut stream = cable.a.within(|| TcpStream::connect("10.9.0.2:5001")).unwrap();
        stream.write_all(&pattern).unwrap();
        drop(stream);
        let received = receiver.join();
        stop.store(true, Ordering::Relaxed);
        assert!(received.unwrap() == pattern, "the stream is whole");
    });
    assert!(large_frames.load(Ordering::Relaxed) > 0, "some of it went in large frames");
}
