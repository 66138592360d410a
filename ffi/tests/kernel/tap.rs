//! TAP devices in a pod's namespace.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use weft_ffi::kernel::VnetHdr;
use weft_ffi::kernel::event::{Epoll, Events, Interest};
use weft_ffi::kernel::interface;
use weft_ffi::kernel::tap::{Tap, TapError, TapExisted, TapOptions};

use crate::frames::{GSO_UDP, IP_A, IP_B, NO_OFFLOAD, UDP_HEADERS, partial_udp, read_vnet, udp};
use crate::lab::{MAC_A, MAC_B, Namespace, eventually, name, wait_ready};

fn open(namespace: &Namespace, device: &str, options: TapOptions) -> Result<(Tap, TapExisted), TapError> {
    Tap::open(Some(namespace.path()), name(device), options)
}

/// Takes up a device that has just been let go. Another test may be starting a program: between its fork and its
/// exec the new process holds every descriptor of this one, and the device is still busy.
fn take_up(namespace: &Namespace, device: &str, options: TapOptions) -> Tap {
    let (tap, existed) = eventually("the device to be free", || match open(namespace, device, options) {
        Err(TapError::Busy { .. }) => None,
        other => Some(other.unwrap()),
    });
    assert_eq!(existed, TapExisted::TakenUp);
    tap
}

/// Waits until a device that has been let go is gone, for the same reason.
fn gone(namespace: &Namespace, device: &str) {
    eventually("the device to be gone", || {
        namespace.within(|| interface::index(name(device))).is_err().then_some(())
    });
}

/// The next frame, read into buffers of odd sizes.
fn next_frame(tap: &Tap) -> (VnetHdr, Vec<u8>) {
    let mut header = [0xff; 10];
    let mut bytes = vec![0; 3000];
    let len = eventually("a frame from the TAP", || {
        let (first, rest) = bytes.split_at_mut(61);
        let (second, third) = rest.split_at_mut(100);
        tap.recv(&mut header, &mut [IoSliceMut::new(first), IoSliceMut::new(second), IoSliceMut::new(third)])
            .expect("the device is there")
    });
    bytes.truncate(len);
    (header, bytes)
}

#[test]
fn frames_go_both_ways() {
    let pod = Namespace::new();
    let options = TapOptions { mac: Some(MAC_A), queue_len: Some(777), ..TapOptions::default() };
    let (tap, existed) = open(&pod, "pod0", options).unwrap();
    assert_eq!(existed, TapExisted::Created);
    assert_eq!(tap.mac().unwrap(), MAC_A);
    assert_eq!(tap.index(), pod.within(|| interface::index(name("pod0"))).unwrap());
    assert!(interface::index(name("pod0")).is_err(), "not in the test's own namespace");
    assert!(pod.ip("link show pod0").contains("qlen 777"));

    // Nothing there yet, and epoll says so.
    let (epoll, mut events) = (Epoll::new().unwrap(), Events::with_capacity(4));
    epoll.add(tap.as_fd(), 3, Interest::Read).unwrap();
    epoll.wait(Some(Duration::ZERO), &mut events).unwrap();
    assert!(events.is_empty());
    assert_eq!(tap.recv(&mut [0; 10], &mut [IoSliceMut::new(&mut [0; 64])]).unwrap(), None);

    pod.ip("link set pod0 up");
    pod.ip("addr add 10.9.0.1/24 dev pod0");
    let socket = pod.within(|| UdpSocket::bind("10.9.0.1:4000")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.send_to(b"are you there?", "10.9.0.2:5000").unwrap();

    assert!(wait_ready(&epoll).iter().all(|ready| ready.token == 3 && ready.readable));
    let (header, arp) = next_frame(&tap);
    assert_eq!(header, NO_OFFLOAD);
    assert_eq!(arp[..14], [&[0xff; 6][..], &MAC_A, &[0x08, 0x06]].concat());
    let mut answer = [&MAC_A[..], &MAC_B, &arp[12..20], &[0, 2], &MAC_B, &IP_B, &MAC_A, &IP_A].concat();
    answer.resize(60, 0);
    assert!(tap.send(&NO_OFFLOAD, &[IoSlice::new(&answer[..20]), IoSlice::new(&answer[20..])]).unwrap());

    let (header, datagram) = next_frame(&tap);
    assert_eq!(header, NO_OFFLOAD, "no offloads were asked for, so the frame is finished");
    assert_eq!(&datagram[UDP_HEADERS..], b"are you there?");

    // The kernel fills in a checksum that it is told of.
    let reply = udp((MAC_B, IP_B, 5000), (MAC_A, IP_A, 4000), b"yes");
    assert!(tap.send(&partial_udp(0), &[IoSlice::new(&reply)]).unwrap());
    // The same without a word of it is a wrong checksum, and not received.
    let wrong = udp((MAC_B, IP_B, 5000), (MAC_A, IP_A, 4000), b"no!");
    assert!(tap.send(&NO_OFFLOAD, &[IoSlice::new(&wrong)]).unwrap());
    let last = udp((MAC_B, IP_B, 5000), (MAC_A, IP_A, 4000), b"last");
    assert!(tap.send(&partial_udp(0), &[IoSlice::new(&last)]).unwrap());
    for expected in [&b"yes"[..], b"last"] {
        let mut received = [0; 64];
        let len = socket.recv(&mut received).unwrap();
        assert_eq!(&received[..len], expected);
    }
}

#[test]
fn errors_of_a_frame_and_of_the_device() {
    let pod = Namespace::new();
    let (tap, _) = open(&pod, "pod0", TapOptions::default()).unwrap();
    let frame = udp((MAC_B, IP_B, 1), (MAC_A, IP_A, 2), b"frame");
    let error = |header, frame: &[u8]| tap.send(&header, &[IoSlice::new(frame)]).unwrap_err().raw_os_error();
    assert_eq!(error(NO_OFFLOAD, &frame), Some(libc::EIO), "down");
    pod.ip("link set pod0 up");
    assert!(tap.send(&NO_OFFLOAD, &[IoSlice::new(&frame)]).unwrap());
    assert_eq!(error(NO_OFFLOAD, &frame[..10]), Some(libc::EINVAL), "short");
    let mut beyond = partial_udp(0);
    beyond[6..8].copy_from_slice(&6000u16.to_ne_bytes());
    assert_eq!(error(beyond, &frame), Some(libc::EINVAL), "a checksum outside of the frame");
    let many = vec![IoSlice::new(&frame); 65];
    assert_eq!(tap.send(&NO_OFFLOAD, &many).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);

    pod.ip("link del pod0");
    let mut buffer = [0; 64];
    let gone = tap.recv(&mut [0; 10], &mut [IoSliceMut::new(&mut buffer)]).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::EBADFD));
    assert_eq!(error(NO_OFFLOAD, &frame), Some(libc::EBADFD));
}

#[test]
fn a_persistent_device_is_taken_up_with_what_it_has() {
    for made_multi_queue in [false, true] {
        let pod = Namespace::new();
        let options = TapOptions { mac: Some(MAC_A), multi_queue: made_multi_queue, ..TapOptions::default() };
        let (tap, _) = open(&pod, "pod0", options).unwrap();
        let index = tap.index();
        pod.ip("link set pod0 up");
        pod.ip("addr add 10.9.0.1/24 dev pod0");
        drop(tap);

        // With another wish for queues: a device keeps what it was made with. And another MAC: it keeps its own.
        let options =
            TapOptions { mac: Some(MAC_B), multi_queue: !made_multi_queue, ..TapOptions::default() };
        let tap = take_up(&pod, "pod0", options);
        assert_eq!(tap.multi_queue(), made_multi_queue);
        assert_eq!(tap.index(), index);
        assert_eq!(tap.mac().unwrap(), MAC_A);
        tap.set_mac(MAC_B).unwrap();
        assert_eq!(tap.mac().unwrap(), MAC_B);
        assert!(pod.ip("addr show dev pod0").contains("10.9.0.1/24"));

        let socket = pod.within(|| UdpSocket::bind("10.9.0.1:0")).unwrap();
        socket.send_to(b"x", "10.9.0.2:9").unwrap();
        assert_eq!(next_frame(&tap).1[12..14], [0x08, 0x06], "it works");

        tap.delete().unwrap();
        gone(&pod, "pod0");
    }
}

#[test]
fn a_device_that_does_not_persist_goes_with_its_owner() {
    let pod = Namespace::new();
    let passing = TapOptions { persist: false, ..TapOptions::default() };
    let (tap, _) = open(&pod, "pod0", passing).unwrap();
    drop(tap);
    gone(&pod, "pod0");
    // Taken up, it does as it is now told.
    drop(open(&pod, "pod0", TapOptions::default()).unwrap());
    drop(take_up(&pod, "pod0", passing));
    gone(&pod, "pod0");
}

#[test]
fn a_device_belongs_to_one() {
    let pod = Namespace::new();
    for multi_queue in [false, true] {
        let options = TapOptions { multi_queue, persist: false, ..TapOptions::default() };
        let (tap, _) = open(&pod, "pod0", options).unwrap();
        let error = open(&pod, "pod0", options).unwrap_err();
        assert!(matches!(error, TapError::Busy { .. }), "{error:?}");
        assert!(error.to_string().contains("pod0"), "{error}");
        assert!(error.to_string().contains(pod.path().to_str().unwrap()), "{error}");
        drop(tap);
        gone(&pod, "pod0");
    }
}

#[test]
fn other_kinds_of_device_are_left_alone() {
    let pod = Namespace::new();
    pod.ip("link add veth7 type veth peer name veth8");
    pod.ip("tuntap add dev tun7 mode tun");
    for (device, kind) in [("veth7", "a veth"), ("tun7", "a TUN"), ("lo", "a device of its own")] {
        let error = open(&pod, device, TapOptions::default()).unwrap_err();
        assert!(matches!(error, TapError::NotATap { .. }), "{error:?}");
        assert!(error.to_string().contains(kind) && error.to_string().contains(device), "{error}");
    }
    let missing = pod.path().with_extension("missing");
    let error = Tap::open(Some(&missing), name("pod0"), TapOptions::default()).unwrap_err();
    assert!(matches!(error, TapError::Netns { .. }), "{error:?}");
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
}

/// What the kernel may leave to the device: checksums, scatter and gather, TCP segmentation, and segmentation at all.
fn features(namespace: &Namespace, device: &str) -> [bool; 4] {
    // linux/ethtool.h: ETHTOOL_GTXCSUM, _GSG, _GTSO, _GGSO, each with a value behind the command.
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let ask = |command: u32| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut question = [command, 0];
        // SAFETY: all zeroes are a value of this C struct.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = question.as_mut_ptr().cast();
        // SAFETY: the request names two live integers, which is what these commands read and write.
        let asked = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        assert_eq!(asked, 0, "{}", std::io::Error::last_os_error());
        question[1] != 0
    };
    namespace.within(|| [0x16, 0x18, 0x1e, 0x23].map(ask))
}

#[test]
fn offloads_are_as_asked() {
    let pod = Namespace::new();
    let options = TapOptions { mac: Some(MAC_A), offloads: true, ..TapOptions::default() };
    let (tap, _) = open(&pod, "pod0", options).unwrap();
    assert_eq!(features(&pod, "pod0"), [true; 4]);
    pod.ip("link set pod0 up");
    pod.ip("addr add 10.9.0.1/24 dev pod0");
    pod.ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:0b dev pod0 nud permanent");
    let socket = pod.within(|| UdpSocket::bind("10.9.0.1:4000")).unwrap();
    socket.send_to(b"who fills in my checksum?", "10.9.0.2:5000").unwrap();
    let (header, _) = next_frame(&tap);
    let state = read_vnet(header);
    assert_eq!((state.needs_checksum, state.csum_start, state.csum_offset), (true, 34, 6));

    // What is too long for the link comes whole, if the kernel is one that can.
    const UDP_SEGMENT: libc::c_int = 103;
    let size: libc::c_int = 700;
    // SAFETY: the kernel reads one int, which lives.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, UDP_SEGMENT, (&raw const size).cast(), 4)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    socket.send_to(&[7; 2100], "10.9.0.2:5000").unwrap();
    let (header, frame) = next_frame(&tap);
    let state = read_vnet(header);
    if tap.takes_gso_udp() {
        assert_eq!((frame.len(), state.gso_type, state.gso_size), (UDP_HEADERS + 2100, GSO_UDP, 700));
    } else {
        assert_eq!((frame.len(), state.gso_type), (UDP_HEADERS + 700, 0));
    }

    drop(tap);
    let tap = take_up(&pod, "pod0", TapOptions::default());
    assert!(!features(&pod, "pod0")[0] && !features(&pod, "pod0")[2], "what its last user took is gone");
    assert!(!tap.takes_gso_udp());
}

fn open_queues(namespace: &Namespace, device: &str) -> usize {
    let shown = namespace.ip(&format!("-d link show {device}"));
    let count = shown.split_once("numqueues ").expect("it has several").1;
    count.split(' ').next().and_then(|count| count.parse().ok()).expect("a number")
}

#[test]
fn further_queues_take_their_share() {
    let pod = Namespace::new();
    let single = TapOptions { persist: false, ..TapOptions::default() };
    assert_eq!(open(&pod, "one0", single).unwrap().0.queues(), None, "made for one");

    let options = TapOptions { multi_queue: true, mac: Some(MAC_A), ..TapOptions::default() };
    let (first, _) = open(&pod, "pod0", options).unwrap();
    let queues = first.queues().expect("made for several");
    pod.ip("link set pod0 up");
    pod.ip("addr add 10.9.0.1/24 dev pod0");
    pod.ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:0b dev pod0 nud permanent");
    let second = queues.open(Some(pod.path())).unwrap();
    // The pod may call it as it likes.
    pod.ip("link set pod0 name mine0");
    let third = queues.open(Some(pod.path())).unwrap();
    assert_eq!((second.index(), third.index()), (first.index(), first.index()));
    assert_eq!(open_queues(&pod, "mine0"), 3);
    drop(third);
    eventually("the third queue to be closed", || (open_queues(&pod, "mine0") == 2).then_some(()));

    let sockets: Vec<_> =
        (0..32).map(|_| pod.within(|| UdpSocket::bind("10.9.0.1:0")).unwrap()).collect();
    let mut buffer = [0; 2000];
    let mut received = |tap: &Tap| {
        let mut ports = Vec::new();
        while tap.recv(&mut [0; 10], &mut [IoSliceMut::new(&mut buffer)]).unwrap().is_some() {
            ports.push(u16::from_be_bytes([buffer[34], buffer[35]]));
        }
        ports
    };
    sockets.iter().for_each(|socket| assert_eq!(socket.send_to(b"to whom?", "10.9.0.2:9").unwrap(), 8));
    let (mut one, mut two) = (received(&first), received(&second));
    assert!(!one.is_empty() && !two.is_empty() && one.len() + two.len() == 32, "{one:?} {two:?}");

    // Answers that go in by the second queue have their flows come out of it.
    for (tap, ports) in [(&second, &one), (&first, &two)] {
        for port in ports {
            let answer = udp((MAC_B, IP_B, 9), (MAC_A, IP_A, *port), b"to me");
            assert!(tap.send(&partial_udp(0), &[IoSlice::new(&answer)]).unwrap());
        }
    }
    sockets.iter().for_each(|socket| assert_eq!(socket.send_to(b"and now?", "10.9.0.2:9").unwrap(), 8));
    let mut now = (received(&second), received(&first));
    [&mut one, &mut two, &mut now.0, &mut now.1].into_iter().for_each(|ports| ports.sort_unstable());
    assert_eq!(now, (one, two));

    // Another process would share the frames: it is told that the device is in use.
    assert!(matches!(open(&pod, "mine0", options).unwrap_err(), TapError::Busy { .. }));
    first.delete().unwrap();
    drop(second);
    gone(&pod, "mine0");
    let error = queues.open(Some(pod.path())).unwrap_err();
    assert!(error.to_string().contains("pod0"), "{error}");
    eventually("the loopback to be all", || (pod.ip("-o link show").lines().count() == 1).then_some(()));
}
