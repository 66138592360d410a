//! smoltcp as a pod: a stack that shares nothing with weft, nor with the kernel.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::udp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use crate::lab::frames::Mac;
use crate::lab::segment::{Pod, Segment, Station, stranger};
use crate::lab::{Lab, Wire, once_free, wait_for};

/// Frames that wait on their way between a stack and its wire.
#[derive(Default)]
struct Frames {
    came: VecDeque<Vec<u8>>,
    go: Vec<Vec<u8>>,
}

struct Came(Vec<u8>);
struct Go<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Go<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Frames {
    type RxToken<'a> = Came;
    type TxToken<'a> = Go<'a>;
    fn receive(&mut self, _: Instant) -> Option<(Came, Go<'_>)> {
        Some((Came(self.came.pop_front()?), Go(&mut self.go)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Go<'_>> {
        Some(Go(&mut self.go))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1464;
        capabilities
    }
}

/// A stack with one UDP socket on port 7.
struct Stack {
    frames: Frames,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Stack {
    fn new(mac: Mac, ips: [&str; 2]) -> Self {
        let mut frames = Frames::default();
        let hardware = HardwareAddress::Ethernet(EthernetAddress(mac));
        let mut interface = Interface::new(Config::new(hardware), &mut frames, Instant::now());
        interface.update_ip_addrs(|own| {
            for (ip, len) in ips.into_iter().zip([24, 64]) {
                own.push(IpCidr::new(ip.parse().expect("an address"), len)).expect("room for two");
            }
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route("10.244.0.1".parse().expect("an address")).expect("room for one");
        routes.add_default_ipv6_route("fd00:10:244::1".parse().expect("an address")).expect("room for two");
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(7).expect("a port");
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        Self { frames, interface, sockets, socket }
    }

    /// Does what there is to do.
    fn turn(&mut self, wire: &mut Wire) {
        while let Some(frame) = wire.next() {
            self.frames.came.push_back(frame.finished());
        }
        self.interface.poll(Instant::now(), &mut self.frames, &mut self.sockets);
        self.frames.go.drain(..).for_each(|frame| wire.send(&frame));
    }

    fn send(&mut self, to: &str, text: &[u8]) {
        let to: IpAddress = to.parse().expect("an address");
        let socket = self.sockets.get_mut::<udp::Socket>(self.socket);
        socket.send_slice(text, IpEndpoint::new(to, 7)).expect("room");
    }

    fn received(&mut self) -> Option<(Vec<u8>, String)> {
        let socket = self.sockets.get_mut::<udp::Socket>(self.socket);
        let (text, from) = socket.recv().ok()?;
        Some((text.to_vec(), from.endpoint.addr.to_string()))
    }
}

/// Each says something to the other, and hears it.
fn talk(a: (&mut Stack, &mut Wire, [&str; 2]), b: (&mut Stack, &mut Wire, [&str; 2])) {
    for family in [0, 1] {
        let text = b"by a stack of its own";
        a.0.send(b.2[family], text);
        b.0.send(a.2[family], text);
        let mut heard = [None, None];
        wait_for("both to hear each other", || {
            a.0.turn(a.1);
            b.0.turn(b.1);
            heard[0] = heard[0].take().or_else(|| a.0.received());
            heard[1] = heard[1].take().or_else(|| b.0.received());
            heard.iter().all(Option::is_some).then_some(())
        });
        assert_eq!(heard[0], Some((text.to_vec(), b.2[family].to_owned())));
        assert_eq!(heard[1], Some((text.to_vec(), a.2[family].to_owned())));
    }
}

fn stack(station: &Station) -> Stack {
    Stack::new(station.mac, station.ips.each_ref().map(String::as_str))
}

#[test]
fn two_stacks_find_each_other_by_what_weft_says() {
    let (_segment, [mut left, mut right]) = Segment::of([Pod::Plain("left"), Pod::Plain("right")]);
    let (mut a, mut b) = (stack(&left), stack(&right));
    let (ips_a, ips_b) = (["10.244.0.2", "fd00:10:244::2"], ["10.244.0.3", "fd00:10:244::3"]);
    talk((&mut a, &mut left.wire, ips_a), (&mut b, &mut right.wire, ips_b));
}

#[test]
fn a_stack_behind_a_trusted_port_answers_for_itself() {
    let (segment, [mut left, mut vm]) = Segment::of([Pod::Plain("left"), Pod::Trusted("vm")]);
    let ips = ["10.244.0.77", "fd00:10:244::77"];
    let (mut a, mut b) = (stack(&left), Stack::new(stranger(1), ips));
    talk((&mut a, &mut left.wire, ["10.244.0.2", "fd00:10:244::2"]), (&mut b, &mut vm.wire, ips));
    for address in ips {
        segment.lab.wait_for_neighbour(address, stranger(1), "vm");
    }
}

#[test]
fn a_stack_reaches_the_host_through_the_gateway() {
    let lab = Lab::quiet();
    let (segment, [mut left]) = Segment::start(lab, [Pod::Plain("left")]);
    let mut stack = stack(&left);
    for (from, to) in [("10.244.0.2", "10.244.0.1"), ("fd00:10:244::2", "fd00:10:244::1")] {
        let listen: std::net::IpAddr = to.parse().expect("an address");
        let socket = segment.lab.node.enter(move || once_free(|| std::net::UdpSocket::bind((listen, 7))));
        let socket = socket.join().expect("a socket");
        socket.set_nonblocking(true).expect("it can be asked");
        stack.send(to, b"to the host");
        let mut buffer = [0; 64];
        let (len, sender) = wait_for("the host to hear it", || {
            stack.turn(&mut left.wire);
            socket.recv_from(&mut buffer).ok()
        });
        assert_eq!((&buffer[..len], sender.ip().to_string().as_str()), (&b"to the host"[..], from));
        socket.send_to(b"and back", sender).expect("it is sent");
        let answer = wait_for("the answer", || {
            stack.turn(&mut left.wire);
            stack.received()
        });
        assert_eq!(answer, (b"and back".to_vec(), to.to_owned()));
    }
}
