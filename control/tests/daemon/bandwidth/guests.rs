//! Limits of guests with vhost-user: their rings are where frames wait.

use std::net::UdpSocket;
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use crate::lab::frames::{Checksum, Ip, UDP, udp};
use crate::lab::guest::{Driver, Guest, guest_pod};
use crate::lab::{Lab, Namespace, PATIENCE, once_free, tap_pod};

use super::{LOOK, PORT, UDP as WIRE, assert_share, inside};

const DRIVER: Driver = Driver { offloads: true, spans: true, mtu: 1450 };
const BITS: u64 = 20_000_000;
/// Bytes of payload.
const DATAGRAM: usize = 1000;

#[test]
fn a_guest_sends_as_much_as_its_rate_allows_and_loses_nothing() {
    let lab = Lab::quiet();
    let web = Namespace::quiet("web");
    let limit = format!("egress_rate = \"{BITS}\"\n");
    lab.write_cluster(&(guest_pod(&lab, "one", 2) + &limit + &tap_pod("web", 3, &web)));
    let _weftd = lab.start();
    let mut one = Guest::start(&lab, "one", 2, DRIVER);
    let receiver = inside(&web, || once_free(|| UdpSocket::bind(("0.0.0.0", PORT))));
    // All that comes, should the reader get no time at all.
    setsockopt(&receiver, RcvBufForce, &(64 << 20)).expect("root may");
    receiver.set_read_timeout(Some(Duration::from_millis(100))).expect("an option");
    let ip = Ip::new("10.244.0.2", "10.244.0.3");
    let body = vec![0x5a; DATAGRAM];
    let datagram = udp(&ip, (PORT, PORT), Checksum::Valid, &body);
    let to = crate::lab::frames::mac(web.identity("eth0").1.trim_matches('"'));
    let frame = ip.frame(to, one.mac, UDP, &datagram);

    let mut bytes = [0; 2000];
    let (tell, told) = channel();
    let reader = thread::spawn(move || {
        let (mut times, mut all) = (Vec::new(), None);
        while all.is_none_or(|all| times.len() < all) {
            match receiver.recv(&mut bytes) {
                Ok(_) => times.push(Instant::now()),
                Err(_) if times.last().is_some_and(|last: &Instant| last.elapsed() > PATIENCE) => break,
                Err(_) => {}
            }
            all = all.or_else(|| told.try_recv().ok());
        }
        times
    });
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < LOOK {
        one.send(&frame, None);
        sent += 1;
    }
    tell.send(sent).expect("the reader is there");
    let times = reader.join().expect("the reader");
    assert_eq!(times.len(), sent, "datagrams were lost");
    // From another one each time.
    let mut firsts = (2..5).map(|eighth| sent * eighth / 8);
    let share = || {
        let (first, last) = (firsts.next().expect("three looks"), sent - 1);
        let took = times[last].duration_since(times[first]).as_secs_f64();
        (last - first) as f64 * DATAGRAM as f64 * 8.0 * WIRE / took / BITS as f64
    };
    assert_share(share, "a guest");
    assert_eq!(lab.drops("rate_limited"), 0);
    let ports = lab.ask(async |weftd| weftd.ports(Some("one")).await).expect("the ports").ports;
    assert!(ports[0].paused > 0 && ports[0].rx_drops == 0, "{ports:?}");
    lab.counters_balance();
}

#[test]
fn a_guest_receives_as_much_as_its_rate_allows() {
    let lab = Lab::quiet();
    let web = Namespace::quiet("web");
    let limit = format!("ingress_rate = \"{BITS}\"\n");
    lab.write_cluster(&(guest_pod(&lab, "one", 2) + &limit + &tap_pod("web", 3, &web)));
    let _weftd = lab.start();
    let mut one = Guest::start(&lab, "one", 2, DRIVER);
    web.ip("neigh replace 10.244.0.2 lladdr 02:00:00:00:09:02 dev eth0");
    let sender = inside(&web, || UdpSocket::bind("0.0.0.0:0").expect("a socket"));
    let (stop, stopped) = channel::<()>();
    let flood = thread::spawn(move || {
        let body = [0x5a; DATAGRAM];
        while stopped.try_recv() == Err(TryRecvError::Empty) {
            for _ in 0..20 {
                let _ = sender.send_to(&body, ("10.244.0.2", PORT));
            }
            thread::sleep(Duration::from_millis(2));
        }
    });
    let mut came = |time: Duration| {
        let (began, mut bytes) = (Instant::now(), 0);
        while began.elapsed() < time {
            bytes += one.take();
            thread::sleep(Duration::from_millis(1));
        }
        bytes as f64 / began.elapsed().as_secs_f64()
    };
    came(Duration::from_secs(1));
    assert_share(|| came(LOOK) * 8.0 / BITS as f64, "a guest");
    drop(stop);
    flood.join().expect("the sender");
    assert!(lab.drops("rate_limited") > 0);
}
