//! AF_XDP on a veth: what is taken, what the kernel keeps, and what is left when a port is closed.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use weft_ffi::kernel::event::{Epoll, Events, Interest};
use weft_ffi::kernel::packet::{PacketTx, RxOptions, TxOptions};
use weft_ffi::kernel::xdp::{Attach, XdpError, XdpOptions, XdpPort, XskRx};

use crate::frames::{NO_OFFLOAD, UDP_HEADERS, from_port, partial_udp, udp_to_b};
use crate::lab::{Cable, MAC_B, Namespace, eventually, name, wait_ready};
use crate::packet_rx::ring_on;

fn open(namespace: &Namespace, interface: &str, options: XdpOptions) -> Result<XdpPort, XdpError> {
    let port = namespace.within(|| XdpPort::open(name(interface), &options))?;
    port.steering.set_own([[10, 9, 0, 2].into()]).unwrap();
    Ok(port)
}

fn on_b(cable: &Cable) -> XdpPort {
    open(&cable.b, "b0", XdpOptions::default()).unwrap()
}

/// Frames that are finished but for the UDP checksum, out of A's end of the cable.
fn send_from_a(cable: &Cable, frames: &[Vec<u8>]) {
    let mut tx = cable.a.within(|| PacketTx::open(name("a0"), TxOptions::default())).unwrap();
    let batch = frames.iter().map(|frame| (partial_udp(0), [frame.as_slice()]));
    let report = tx.send_batch(batch, |at, error| panic!("frame {at}: {error}"));
    assert_eq!(report.sent, frames.len());
}

/// The payloads that are there now.
fn payloads(rx: &mut XskRx) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(frame) = rx.next_frame() {
        let whole: Vec<u8> = frame.pieces().flatten().copied().collect();
        assert_eq!(whole.len(), frame.len());
        found.push(whole[UDP_HEADERS..].to_vec());
    }
    rx.end_burst();
    found
}

fn has_program(namespace: &Namespace, interface: &str) -> bool {
    namespace.ip(&format!("link show dev {interface}")).contains("xdp")
}

#[test]
fn takes_the_tunnels_packets_and_leaves_the_kernel_the_rest() {
    let cable = Cable::new();
    let mut port = on_b(&cable);
    assert_eq!(port.mode.attach, Attach::Native, "{:?}", port.not_native);
    assert!(has_program(&cable.b, "b0"));
    let (rx, _) = &mut port.queues[0];
    let tunnel = cable.b.within(|| UdpSocket::bind("10.9.0.2:8472")).unwrap();
    let other = cable.b.within(|| UdpSocket::bind("10.9.0.2:5000")).unwrap();
    let at_a = cable.a.within(|| UdpSocket::bind("10.9.0.1:4000")).unwrap();
    let (epoll, mut events) = (Epoll::new().unwrap(), Events::with_capacity(4));
    epoll.add(rx.as_fd(), 1, Interest::Read).unwrap();
    epoll.wait(Some(Duration::ZERO), &mut events).unwrap();
    assert!(events.is_empty(), "nothing has come in");

    at_a.send_to(b"host", "10.9.0.2:5000").unwrap();
    let mut buffer = [0; 16];
    other.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(other.recv(&mut buffer).unwrap(), 4, "the kernel's own");
    assert_eq!(payloads(rx), Vec::<Vec<u8>>::new());

    for round in 0..3 {
        at_a.send_to(b"tunnel", "10.9.0.2:8472").unwrap();
        let seen = wait_ready(&epoll);
        assert!(seen.iter().all(|ready| ready.readable && !ready.error), "{round}: {seen:?}");
        assert_eq!(payloads(rx), [b"tunnel"]);
        epoll.wait(Some(Duration::ZERO), &mut events).unwrap();
        assert!(events.is_empty(), "the ring has been emptied");
    }
    tunnel.set_nonblocking(true).unwrap();
    assert!(tunnel.recv(&mut buffer).is_err(), "the kernel has seen nothing of it");
    assert_eq!(rx.lost().unwrap(), 0);
    drop(port);
    eventually("the program to be detached", || (!has_program(&cable.b, "b0")).then_some(()));
    at_a.send_to(b"tunnel", "10.9.0.2:8472").unwrap();
    tunnel.set_nonblocking(false).unwrap();
    tunnel.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(tunnel.recv(&mut buffer).unwrap(), 6, "the kernel's again");
}

#[test]
fn sends_whole_frames_made_of_pieces_many_times_around_the_ring() {
    const EACH: usize = 100;
    let cable = Cable::new();
    let mut port = open(&cable.b, "b0", XdpOptions { tx_buffers: 64, ..XdpOptions::default() }).unwrap();
    let mut ring = ring_on(&cable.a, "a0", &RxOptions::default());
    let (_, tx) = &mut port.queues[0];
    let frame = |n: usize| {
        let mut frame = udp_to_b(n as u16, 9, &vec![n as u8; n % 1400]);
        frame[24] ^= 1;
        frame
    };
    for round in 0..10 {
        let mut taken = Vec::new();
        for n in round * EACH..(round + 1) * EACH {
            let frame = frame(n);
            let (a, b) = frame.split_at(frame.len() / 3);
            if tx.push(frame.len(), [a, &[], b]) {
                taken.push(frame);
            } else {
                tx.flush().unwrap();
                assert!(tx.push(frame.len(), [a, b]), "flushing has made room");
                taken.push(frame);
            }
        }
        tx.flush().unwrap();
        let mut seen = Vec::new();
        eventually("the frames", || {
            while let Some(frame) = ring.next_frame() {
                seen.push(frame.bytes().to_vec());
            }
            (seen.len() >= EACH).then_some(())
        });
        assert_eq!(seen, taken, "as they were, in order");
    }
    assert!(!tx.push(tx.longest() + 1, [&[0; 64][..]]), "too long");
    assert!(!tx.push(0, [&[][..]]), "nothing");
}

#[test]
fn long_frames_take_several_buffers_both_ways() {
    let cable = Cable::new();
    for (namespace, interface) in [(&cable.a, "a0"), (&cable.b, "b0")] {
        namespace.ip(&format!("link set {interface} mtu 9000"));
    }
    let mut port = on_b(&cable);
    assert!(port.mode.multi_buffer, "{}", port.mode);
    let (rx, tx) = &mut port.queues[0];
    let payload: Vec<u8> = (0..8900).map(|n: u32| (n * 7) as u8).collect();
    for len in [1, 3000, 4000, 8900] {
        send_from_a(&cable, &[udp_to_b(1, 8472, &payload[..len])]);
        let found = eventually("the frame", || Some(payloads(rx)).filter(|found| !found.is_empty()));
        assert_eq!(found, [&payload[..len]]);
    }
    let mut ring = ring_on(&cable.a, "a0", &RxOptions::default());
    let frame = udp_to_b(1, 9, &payload);
    assert!(tx.push(frame.len(), [&frame[..5000], &frame[5000..]]));
    tx.flush().unwrap();
    eventually("the long frame", || Some(ring.next_frame()?.bytes() == frame).inspect(|same| assert!(same)));
    assert_eq!(rx.lost().unwrap(), 0);
}

#[test]
fn what_finds_no_buffer_is_counted_and_the_rest_goes_on() {
    let cable = Cable::new();
    let mut port = open(&cable.b, "b0", XdpOptions { rx_buffers: 16, ..XdpOptions::default() }).unwrap();
    let (rx, _) = &mut port.queues[0];
    let numbered = |range: std::ops::Range<u16>| range.map(|n| udp_to_b(1, 8472, &n.to_be_bytes()));
    send_from_a(&cable, &numbered(0..40).collect::<Vec<_>>());
    let mut lost = 0;
    eventually("the losses", || {
        lost += rx.lost().unwrap();
        (lost >= 24).then_some(())
    });
    assert_eq!(lost, 24, "each once");
    let expected = |range: std::ops::Range<u16>| range.map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(payloads(rx), expected(0..16), "the oldest are kept");
    for round in 0..5 {
        let range = 100 + round * 11..111 + round * 11;
        send_from_a(&cable, &numbered(range.clone()).collect::<Vec<_>>());
        let mut found = Vec::new();
        eventually("the next frames", || {
            found.append(&mut payloads(rx));
            (found.len() >= 11).then_some(())
        });
        assert_eq!(found, expected(range));
    }
    assert_eq!(rx.lost().unwrap(), 0);
}

#[test]
fn several_queues_share_the_flows() {
    const FLOWS: u16 = 64;
    let (a, b) = (Namespace::new(), Namespace::new());
    b.ip("link add b0 numrxqueues 2 numtxqueues 2 type veth peer name a0 numrxqueues 2 numtxqueues 2");
    b.ip(&format!("link set b0 address {} up", MAC_B.map(|byte| format!("{byte:02x}")).join(":")));
    b.ip(&format!("link set a0 netns {}", a.path().display()));
    a.ip("link set a0 up");
    a.ip("addr add 10.9.0.1/24 dev a0");
    a.ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:0b dev a0 nud permanent");
    let mut port = open(&b, "b0", XdpOptions { senders: 1, ..XdpOptions::default() }).unwrap();
    assert_eq!(port.queues.len(), 2);
    let sockets: Vec<_> =
        (0..FLOWS).map(|n| a.within(|| UdpSocket::bind(("10.9.0.1", 4000 + n))).unwrap()).collect();
    for _ in 0..3 {
        for socket in &sockets {
            socket.send_to(b"x", "10.9.0.2:8472").unwrap();
        }
    }
    let mut flows = [Vec::new(), Vec::new()];
    eventually("all frames", || {
        for ((rx, _), flows) in port.queues.iter_mut().zip(&mut flows) {
            while let Some(frame) = rx.next_frame() {
                flows.extend(frame.pieces().next().map(from_port));
            }
            rx.end_burst();
        }
        (flows.iter().map(Vec::len).sum::<usize>() >= 3 * usize::from(FLOWS)).then_some(())
    });
    assert_eq!(flows.iter().map(Vec::len).sum::<usize>(), 3 * usize::from(FLOWS), "each frame once");
}

#[test]
fn another_program_is_left_alone_and_named() {
    let cable = Cable::new();
    let first = on_b(&cable);
    let error = open(&cable.b, "b0", XdpOptions::default()).unwrap_err();
    assert!(matches!(error, XdpError::Taken { .. }), "{error:?}");
    assert!(error.to_string().contains("b0"), "{error}");
    assert!(has_program(&cable.b, "b0"));
    drop(first);
    let again = on_b(&cable);
    drop(again);
    let error = open(&cable.b, "nosuch0", XdpOptions::default()).unwrap_err();
    assert!(matches!(error, XdpError::NoInterface { .. }), "{error:?}");
}

#[test]
fn a_driver_without_xdp_gets_the_program_in_the_stack() {
    let namespace = Namespace::new();
    namespace.ip("link add br0 address 02:00:00:00:00:0b type bridge");
    namespace.ip("link set br0 up");
    let port = open(&namespace, "br0", XdpOptions::default()).unwrap();
    assert_eq!(port.mode.attach, Attach::Generic);
    assert!(port.not_native.is_some());
    assert!(namespace.ip("link show dev br0").contains("xdpgeneric"));
    drop(port);
    eventually("the program to be detached", || (!has_program(&namespace, "br0")).then_some(()));
}

#[test]
fn an_interface_that_is_down_comes_back_and_one_that_is_gone_can_be_closed() {
    let cable = Cable::new();
    let mut port = on_b(&cable);
    let mut ring = ring_on(&cable.a, "a0", &RxOptions::default());
    let (_, tx) = &mut port.queues[0];
    let frame = udp_to_b(1, 9, b"hello");
    cable.b.ip("link set b0 down");
    assert!(tx.push(frame.len(), [&frame[..]]));
    assert_eq!(tx.flush().unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
    assert!(!tx.push(frame.len(), [&frame[..]]), "nothing is taken meanwhile");
    cable.b.ip("link set b0 up");
    eventually("a frame after the interface came back", || {
        tx.retry();
        if tx.push(frame.len(), [&frame[..]]) {
            let _ = tx.flush();
        }
        (&ring.next_frame()?.bytes()[UDP_HEADERS..] == b"hello").then_some(())
    });
    cable.b.ip("link del b0");
    let _ = tx.push(frame.len(), [&frame[..]]);
    assert!(tx.flush().is_err());
    drop(port);
}

#[test]
fn the_two_sides_of_a_queue_work_on_their_own_threads() {
    const FRAMES: u16 = 500;
    let cable = Cable::new();
    let mut port = on_b(&cable);
    let (mut rx, mut tx) = port.queues.pop().unwrap();
    drop(port);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let frame = udp_to_b(1, 9, &[5; 600]);
            while !done.load(Ordering::Relaxed) {
                tx.push(frame.len(), [&frame[..]]);
                let _ = tx.flush();
            }
        });
        let mut sender = cable.a.within(|| PacketTx::open(name("a0"), TxOptions::default())).unwrap();
        let mut got = 0;
        for n in 0..FRAMES {
            let frame = udp_to_b(n, 8472, &n.to_be_bytes());
            let report = sender.send_batch([(NO_OFFLOAD, [&frame[..]])], |_, error| panic!("{error}"));
            assert_eq!(report.sent, 1);
            eventually("the frame", || {
                let found = payloads(&mut rx);
                assert!(found.iter().all(|payload| *payload == n.to_be_bytes()), "{n}: {found:?}");
                got += found.len();
                (!found.is_empty()).then_some(())
            });
        }
        assert_eq!(got, usize::from(FRAMES));
        done.store(true, Ordering::Relaxed);
    });
}
