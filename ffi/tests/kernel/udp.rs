//! The tunnel's sockets, over a cable.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use weft_ffi::kernel::udp::{
    Family, IcmpMessage, IcmpRx, Message, Received, Refusal, UdpError, UdpRx, UdpTx,
};

use crate::lab::{Cable, Namespace, eventually};

const PORT: u16 = 8472;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// From a to b, with these pieces.
#[expect(clippy::type_complexity, reason = "a closure's type has no other name")]
fn message<'a>(
    segment: Option<u16>,
    tos: u8,
    pieces: &'a [&'a [u8]],
) -> Message<impl FnOnce(&mut dyn FnMut(&'a [u8]))> {
    Message {
        to: SocketAddr::new(address("10.9.0.2"), PORT),
        from: address("10.9.0.1"),
        tos,
        segment,
        pieces: move |show: &mut dyn FnMut(&'a [u8])| pieces.iter().for_each(|piece| show(piece)),
    }
}

fn refused(index: usize, error: &std::io::Error) {
    panic!("message {index}: {error}");
}

/// What has come in, with its bytes. Each message has two pieces to go into, the first of ten bytes.
fn receive(rx: &mut UdpRx, messages: usize) -> Vec<(Received, Vec<u8>)> {
    let mut buffers: Vec<(Vec<u8>, Vec<u8>)> = vec![(vec![0; 10], vec![0; 70_000]); messages];
    let mut told = Vec::new();
    let pieces = buffers.iter_mut().map(|(a, b)| [a.as_mut_slice(), b.as_mut_slice()]);
    let count =
        rx.recv(pieces, |index, received| told.push((index, received.expect("told in full")))).unwrap();
    assert_eq!(count, told.len());
    let bytes =
        |index: usize, len: usize| [&buffers[index].0[..], &buffers[index].1].concat()[..len].to_vec();
    told.into_iter().map(|(index, received)| (received, bytes(index, received.len))).collect()
}

fn open(cable: &Cable) -> (UdpTx, UdpRx) {
    let tx = cable.a.within(|| UdpTx::open(Family::V4, 4)).unwrap();
    let mut rx = cable.b.within(|| UdpRx::open("b0".parse().unwrap(), PORT, 1)).unwrap();
    (tx, rx.remove(0))
}

#[test]
fn messages_arrive_with_all_that_is_told_of_them() {
    let cable = Cable::new();
    let (mut tx, mut rx) = open(&cable);
    assert!(receive(&mut rx, 4).is_empty());
    let large = vec![7u8; 3 * 1400 + 99];
    tx.send(0, [message(None, 2, &[b"one ", b"message"]), message(Some(1400), 1, &[b"a", &large])], refused);
    let received = eventually("both", || {
        let mut all = receive(&mut rx, 1);
        all.extend(receive(&mut rx, 8));
        (all.len() == 2).then_some(all)
    });
    let (first, bytes) = &received[0];
    assert_eq!(bytes, b"one message");
    assert_eq!((first.from.ip(), first.to, first.tos), (address("10.9.0.1"), address("10.9.0.2"), 2));
    assert_eq!((first.segment, first.truncated), (None, false));
    let (second, bytes) = &received[1];
    assert_eq!((second.segment, second.tos, second.from), (Some(1400), 1, first.from));
    assert_eq!(*bytes, [b"a", &large[..]].concat());
}

#[test]
fn each_socket_has_a_port_of_its_own() {
    let cable = Cable::new();
    let (mut tx, mut rx) = open(&cable);
    let sockets = tx.sockets();
    (0..sockets).for_each(|socket| tx.send(socket, [message(None, 0, &[b"which?"])], refused));
    let mut ports = BTreeSet::new();
    eventually("all of them", || {
        ports.extend(receive(&mut rx, 8).into_iter().map(|(received, _)| received.from.port()));
        (ports.len() == sockets).then_some(())
    });
}

#[test]
fn what_the_interface_does_not_carry_is_refused_alone() {
    let cable = Cable::new();
    let (mut tx, mut rx) = open(&cable);
    let large = vec![0; 2 * 1473];
    let (one, two): ([&[u8]; 1], [&[u8]; 1]) = ([&large[..1473]], [&large]);
    let mut told = Vec::new();
    let messages = [message(None, 0, &one), message(Some(1473), 0, &two), message(None, 0, &[b"small"])];
    tx.send(0, messages, |index, error| told.push((index, error.raw_os_error())));
    assert_eq!(told.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1], "{told:?}");
    assert_eq!(eventually("the small one", || receive(&mut rx, 8).pop()).1, b"small");
    // Nor does it from an address that is not this host's.
    let foreign = Message { from: address("10.9.0.77"), ..message(None, 0, &[b"foreign"]) };
    let mut told = Vec::new();
    tx.send(0, [foreign], |index, _| told.push(index));
    assert_eq!(told, [0]);
}

#[test]
fn nobody_at_the_port_keeps_nothing_back() {
    let cable = Cable::new();
    let mut tx = cable.a.within(|| UdpTx::open(Family::V4, 1)).unwrap();
    for _ in 0..200 {
        tx.send(0, [message(None, 0, &[b"into the void"]), message(Some(4), 0, &[b"into", b"it"])], refused);
    }
}

#[test]
fn what_is_not_fetched_in_time_is_counted() {
    let cable = Cable::new();
    let (mut tx, mut rx) = open(&cable);
    assert_eq!(rx.take_dropped(), 0);
    let large = vec![0; 60_000];
    let dropped = eventually("a drop", || {
        tx.send(0, [message(Some(1000), 0, &[&large])], |_, _| ());
        Some(rx.take_dropped()).filter(|dropped| *dropped > 0)
    });
    assert!(dropped > 0);
    assert_eq!(rx.take_dropped(), 0, "told once");
}

#[test]
fn a_port_is_shared_among_ones_own_and_nobody_else() {
    let cable = Cable::new();
    cable.b.within(|| {
        let name = "b0".parse().unwrap();
        let own = UdpRx::open(name, PORT, 3).unwrap();
        assert_eq!(own.len(), 3);
        for count in [1, 3] {
            let error = UdpRx::open(name, PORT, count).unwrap_err();
            assert!(matches!(error, UdpError::InUse(PORT)), "{error:?}");
        }
        drop(own);
        // A process that another test is about to begin holds what was open here until it runs its program.
        eventually("the port", || UdpRx::open(name, PORT, 1).ok());
    });
    // What another has for every interface.
    let namespace = Namespace::new();
    namespace.within(|| {
        let other = std::net::UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
        let error = UdpRx::open("lo".parse().unwrap(), PORT, 1).unwrap_err();
        assert!(error.to_string().contains("8472"), "{error}");
        drop(other);
        let error = UdpRx::open("nowhere".parse().unwrap(), PORT, 1).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
    });
}

#[test]
fn only_what_comes_by_the_interface_is_received() {
    let cable = Cable::new();
    let (mut tx, mut rx) = open(&cable);
    cable.b.within(|| {
        let own = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        own.send_to(b"from inside", ("127.0.0.1", PORT)).unwrap();
    });
    tx.send(0, [message(None, 0, &[b"from outside"])], refused);
    let (_, bytes) = eventually("the one", || receive(&mut rx, 8).pop());
    assert_eq!(bytes, b"from outside");
    assert!(receive(&mut rx, 8).is_empty());
}

#[test]
fn why_a_message_is_refused() {
    let cable = Cable::new();
    let (mut tx, _rx) = open(&cable);
    cable.a.ip("route add prohibit 10.20.1.0/24");
    cable.a.ip("route add unreachable 10.20.2.0/24");
    cable.a.ip("route add blackhole 10.20.3.0/24");
    let long = vec![7; 3000];
    let pieces = [&long[..1500], &long[1500..]];
    for (to, bytes, segment, expected) in [
        ("10.20.1.1", 100, None, Refusal::Filtered),
        ("10.20.2.1", 100, None, Refusal::Unreachable),
        ("10.99.9.9", 100, None, Refusal::Unreachable),
        ("10.20.3.1", 100, None, Refusal::Other),
        ("10.20.3.1", 3000, Some(1500), Refusal::Other),
        ("10.9.0.2", 3000, None, Refusal::TooLong),
        ("10.9.0.2", 3000, Some(1500), Refusal::TooLong),
    ] {
        let pieces = if bytes == 3000 { pieces } else { [&long[..bytes], &[][..]] };
        let to = SocketAddr::new(address(to), PORT);
        let mut said = Vec::new();
        tx.send(0, [Message { to, ..message(segment, 0, &pieces) }], |_, error| {
            said.push((Refusal::from(error), error.to_string()));
        });
        let kinds: Vec<_> = said.iter().map(|(why, _)| *why).collect();
        assert_eq!(kinds, [expected], "{bytes} bytes to {to} by {segment:?}: {said:?}");
    }
}

#[test]
fn what_routers_say_is_heard() {
    let cable = Cable::new();
    let mut icmp = cable.a.within(|| IcmpRx::open("a0".parse().unwrap())).unwrap();
    assert_eq!(icmp.fds().count(), 2);
    let mut buffer = [0; 200];
    assert_eq!(icmp.next(&mut buffer), None);
    // b is a router whose further link carries less.
    cable.b.within(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
    cable.b.ip("link add further mtu 1300 type veth peer name end");
    cable.b.ip("addr add 10.10.0.1/24 dev further");
    cable.b.ip("link set end up");
    cable.b.ip("link set further up");
    cable.b.ip("neigh add 10.10.0.2 lladdr 02:00:00:00:00:77 dev further nud permanent");
    cable.a.ip("route add 10.10.0.0/24 via 10.9.0.2");
    let sender = cable.a.within(|| std::net::UdpSocket::bind("10.9.0.1:0")).unwrap();
    // Messages of another code are not heard: nobody has these ports.
    for port in 9..40 {
        // What the kernel was told before, it says here.
        let _ = sender.send_to(b"x", ("10.9.0.2", port));
    }
    let len = eventually("its message", || {
        // Has to be told what the path carries, so it says "don't fragment"; refused once it knows.
        let _ = sender.send_to(&[0; 1400], "10.10.0.2:9");
        match icmp.next(&mut buffer)? {
            IcmpMessage::V4(len) => Some(len),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!((buffer[0] >> 4, buffer[9], &buffer[20..22]), (4, 1, &[3, 4][..]));
    assert!(len > 28 && len <= buffer.len());
    assert_eq!(u16::from_be_bytes([buffer[26], buffer[27]]), 1300);
}
