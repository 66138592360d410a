//! Pods whose whole network stack is smoltcp, an implementation that shares nothing with weft's: it resolves the gateway
//! by ARP and neighbour discovery, pings it, and moves a TCP stream through the tunnel. Time is stepped by the test.

mod world;

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr,
};
use weft_switch::drop_reason::DropReason;
use weft_switch::packet::HeapBuf;
use weft_switch::port::{MemPort, TxCaps};

use world::{POD_MAC, Underlay, World};

/// The pod's end of a port in memory.
struct Link {
    port: MemPort,
    waiting: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending(MemPort);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.inject(HeapBuf::from_bytes(&frame));
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending)> {
        self.waiting.extend(self.port.take().iter().map(HeapBuf::to_vec));
        self.waiting.pop_front().map(|frame| (Received(frame), Sending(self.port.clone())))
    }
    fn transmit(&mut self, _: Instant) -> Option<Sending> {
        Some(Sending(self.port.clone()))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1430 + 14;
        capabilities
    }
}

struct Pod {
    interface: Interface,
    link: Link,
    sockets: SocketSet<'static>,
}

impl Pod {
    fn new(node: usize, port: &MemPort) -> Self {
        let mut link = Link { port: port.clone(), waiting: VecDeque::new() };
        let address = HardwareAddress::Ethernet(EthernetAddress(POD_MAC[node]));
        let mut interface = Interface::new(Config::new(address), &mut link, Instant::ZERO);
        let n = node as u16;
        interface.update_ip_addrs(|addresses| {
            let host = if node == 0 { 5 } else { 7 };
            addresses.push(IpCidr::new(IpAddress::v4(10, 244, n as u8, host), 24)).unwrap();
            addresses.push(IpCidr::new(IpAddress::v6(0xfd00, 0x10, 0x244, n, 0, 0, 0, 5), 64)).unwrap();
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route([10, 244, n as u8, 1].into()).unwrap();
        routes.add_default_ipv6_route(std::net::Ipv6Addr::new(0xfd00, 0x10, 0x244, n, 0, 0, 0, 1)).unwrap();
        Self { interface, link, sockets: SocketSet::new(Vec::new()) }
    }

    fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.link, &mut self.sockets);
    }

    fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 16 * 1024]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    fn icmp(&mut self, ident: u16) -> SocketHandle {
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(ident)).unwrap();
        self.sockets.add(socket)
    }
}

/// Lets a millisecond pass, again and again, until `done`.
fn run_until(world: &mut World, pods: &mut [&mut Pod], mut done: impl FnMut(&mut [&mut Pod]) -> bool) {
    let mut now = Instant::ZERO;
    for _ in 0..20_000 {
        now += Duration::from_millis(1);
        pods.iter_mut().for_each(|pod| pod.poll(now));
        world.carry();
        if done(pods) {
            return;
        }
    }
    panic!("nothing more happens");
}

#[test]
fn a_stream_crosses_the_tunnel_unharmed() {
    for (underlay, v6) in
        [(Underlay::V4, false), (Underlay::V4, true), (Underlay::V6, false), (Underlay::V6, true)]
    {
        let mut world = World::new(underlay, TxCaps::NONE);
        let mut client = Pod::new(0, &world.a.pod);
        let mut server = Pod::new(1, &world.b.pod);
        let (from, to) = (client.tcp(), server.tcp());
        server.sockets.get_mut::<tcp::Socket>(to).listen(80).unwrap();
        let address =
            if v6 { IpAddress::v6(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 5) } else { IpAddress::v4(10, 244, 1, 7) };
        let context = client.interface.context();
        client.sockets.get_mut::<tcp::Socket>(from).connect(context, (address, 80), 4000).unwrap();

        let data: Vec<u8> = (0..200_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        let (mut sent, mut got) = (0, Vec::new());
        run_until(&mut world, &mut [&mut client, &mut server], |pods| {
            let sender = pods[0].sockets.get_mut::<tcp::Socket>(from);
            if sender.can_send() {
                sent += sender.send_slice(&data[sent..]).unwrap();
            }
            let receiver = pods[1].sockets.get_mut::<tcp::Socket>(to);
            while receiver.can_recv() {
                receiver.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
            }
            got.len() == data.len()
        });
        assert!(got == data, "{underlay:?}, IPv6 inside: {v6}");
        world.assert_balanced();
        for reason in [DropReason::SpoofedIp, DropReason::RouteUnreachable, DropReason::NeighbourUnknown] {
            assert_eq!(world.a.drops(reason), 0, "{}", reason.name());
        }
    }
}

#[test]
fn the_gateway_answers_arp_nd_and_echo() {
    let mut world = World::new(Underlay::V4, TxCaps::NONE);
    let mut pod = Pod::new(0, &world.a.pod);
    let checksums = pod.link.capabilities().checksum;
    let (v4, v6) = (pod.icmp(1), pod.icmp(2));
    let payload = b"are you there";

    let request = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 5, data: payload };
    let socket = pod.sockets.get_mut::<icmp::Socket>(v4);
    let room = socket.send(request.buffer_len(), IpAddress::v4(10, 244, 0, 1)).unwrap();
    request.emit(&mut Icmpv4Packet::new_unchecked(room), &checksums);

    let gateway = std::net::Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1);
    let own = std::net::Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 5);
    let request = Icmpv6Repr::EchoRequest { ident: 2, seq_no: 6, data: payload };
    let socket = pod.sockets.get_mut::<icmp::Socket>(v6);
    let room = socket.send(request.buffer_len(), gateway.into()).unwrap();
    request.emit(&own, &gateway, &mut Icmpv6Packet::new_unchecked(room), &checksums);

    // smoltcp checks the checksums of what it receives, and hands over only what is right.
    let mut answers = (None, None);
    run_until(&mut world, &mut [&mut pod], |pods| {
        let socket = pods[0].sockets.get_mut::<icmp::Socket>(v4);
        if let Ok((data, from)) = socket.recv() {
            let packet = Icmpv4Packet::new_checked(data).unwrap();
            answers.0 = Some((Icmpv4Repr::parse(&packet, &checksums).unwrap().buffer_len(), from));
            assert!(matches!(
                Icmpv4Repr::parse(&packet, &checksums),
                Ok(Icmpv4Repr::EchoReply { ident: 1, seq_no: 5, data }) if data == payload
            ));
        }
        let socket = pods[0].sockets.get_mut::<icmp::Socket>(v6);
        if let Ok((data, from)) = socket.recv() {
            let packet = Icmpv6Packet::new_checked(data).unwrap();
            assert!(matches!(
                Icmpv6Repr::parse(&gateway, &own, &packet, &checksums),
                Ok(Icmpv6Repr::EchoReply { ident: 2, seq_no: 6, data }) if data == payload
            ));
            answers.1 = Some(from);
        }
        answers.0.is_some() && answers.1.is_some()
    });
    assert_eq!(answers.0.unwrap().1, IpAddress::v4(10, 244, 0, 1));
    assert_eq!(answers.1.unwrap(), gateway.into());
    assert!(world.a.host.take().is_empty(), "the gateway's echo is answered in place");
    world.assert_balanced();
}
