//! ARP and neighbour discovery: who is answered, who is believed, who hears of it, and what the control side is told.

mod messages;
mod trusted;
mod world;

use std::net::{Ipv4Addr, Ipv6Addr};

use messages::*;
use smoltcp::wire::{ArpOperation, NdiscNeighborFlags, NdiscRepr};
use trusted::{At, Came, OTHER, OTHER_MAC, POD, ROUTER, Room, STATION, VM, VM_MAC};
use weft_switch::drop_reason::DropReason;
use weft_switch::limits::{Limit, NEWS};
use weft_switch::packet::HeapBuf;
use weft_switch::port::TxCaps;
use weft_switch::tables::{Neighbour, NextHop};
use weft_switch::types::MacAddr;
use world::{GATEWAY, HOST_MAC, POD_MAC, ipv4_frame};

/// As the control side does when it has heard of the station.
fn know(room: &mut Room, at: At) {
    room.publish(|tables| {
        let station = Neighbour { mac: MacAddr(STATION), port: at.id() };
        tables.add_learned(Ipv4Addr::from(STATION_IP).into(), station);
        tables.add_learned(own6(50).into(), station);
    });
}

// ---- who is answered

#[test]
fn the_gateway_and_pods_are_answered_for_whoever_asks() {
    let mut room = Room::new();
    for (from, mac, ip) in [(At::Pod, POD_MAC[0], POD), (At::Vm, VM_MAC, VM)] {
        for (target, at) in [(GATEWAY_IP, GATEWAY[0]), (OTHER, OTHER_MAC), (ROUTER, trusted::ROUTER_MAC)] {
            let came = room.send(from, &asks(mac, ip, target));
            assert_eq!((came.to(), &came.events), (vec![from], &vec![]));
            assert_eq!(read_arp(came.only()), (ArpOperation::Reply, at, target, mac, ip));
        }
    }
    for (from, mac, src) in [(At::Pod, POD_MAC[0], own6(5)), (At::Vm, VM_MAC, own6(8))] {
        for (target, at) in [(own6(1), GATEWAY[0]), (own6(6), OTHER_MAC)] {
            let came = room.send(from, &asks6(mac, src, target));
            assert_eq!((came.to(), told6(came.only(), target)), (vec![from], at));
            with_nd(came.only(), |_, _, message| {
                let NdiscRepr::NeighborAdvert { flags, .. } = message else { panic!("{message:?}") };
                assert!(flags.contains(NdiscNeighborFlags::OVERRIDE));
            });
        }
    }
}

/// A pod whose mask covers the network asks for pods of other nodes; they are behind the gateway.
#[test]
fn pods_elsewhere_are_answered_for_with_the_gateways_address() {
    let mut room = Room::with(TxCaps::NONE, |tables| {
        tables.hops.push(Neighbour { mac: MacAddr(VM_MAC), port: At::Vm.id() });
        tables.groups.push([NextHop::Vtep(0), NextHop::Hop(0)].into());
        tables.routes4.insert([192, 0, 2, 0].into(), 24, NextHop::Hop(0));
        tables.routes4.insert([198, 51, 100, 0].into(), 24, NextHop::Group(0));
        tables.routes4.insert([203, 0, 113, 0].into(), 24, NextHop::Blackhole);
    });
    for target in [AWAY, [192, 0, 2, 1], [198, 51, 100, 1]] {
        let came = room.send(At::Pod, &asks(POD_MAC[0], POD, target));
        let answer = (ArpOperation::Reply, GATEWAY[0], target, POD_MAC[0], POD);
        assert_eq!(read_arp(came.only()), answer, "{target:?}");
    }
    let far = v6("fd00:10:244:1::7");
    let came = room.send(At::Pod, &asks6(POD_MAC[0], own6(5), far));
    assert_eq!(told6(came.only(), far), GATEWAY[0]);
    with_nd(came.only(), |_, dst, message| {
        assert_eq!(dst, own6(5));
        let NdiscRepr::NeighborAdvert { flags, .. } = message else { panic!("{message:?}") };
        assert_eq!(
            flags,
            NdiscNeighborFlags::SOLICITED,
            "no router, and no override: RFC 4861, section 7.2.8"
        );
    });
    // Where the way leads back to the asker, or to nowhere, the question goes to who may know (RFC 1027).
    for (from, mac, ip, target, to) in [
        (At::Vm, VM_MAC, VM, [192, 0, 2, 1], vec![At::Router]),
        (At::Vm, VM_MAC, VM, [198, 51, 100, 1], vec![At::Router]),
        (At::Pod, POD_MAC[0], POD, [203, 0, 113, 1], vec![At::Vm, At::Router]),
        (At::Pod, POD_MAC[0], POD, [10, 244, 9, 9], vec![At::Vm, At::Router]),
    ] {
        let question = asks(mac, ip, target);
        assert_eq!(room.send(from, &question), Came::carried(&question, &to), "{target:?}");
    }
}

#[test]
fn a_question_that_only_a_station_can_answer_goes_to_the_trusted_ports() {
    let mut room = Room::new();
    let question = asks(POD_MAC[0], POD, STATION_IP);
    assert_eq!(room.send(At::Pod, &question), Came::carried(&question, &[At::Vm, At::Router]));
    let question = asks6(POD_MAC[0], own6(5), own6(50));
    assert_eq!(room.send(At::Pod, &question), Came::carried(&question, &[At::Vm, At::Router]));
    let question = asks(HOST_MAC[0], GATEWAY_IP, STATION_IP);
    assert_eq!(room.send(At::Host, &question), Came::carried(&question, &[At::Vm, At::Router]));
    // The answer is for one station.
    let answer = answers(POD_MAC[0], STATION, STATION_IP, POD);
    let heard = Came::carried(&answer, &[At::Pod]).and(neighbour(At::Vm, STATION, STATION_IP));
    assert_eq!(room.send(At::Vm, &answer), heard);

    let mut room = Room::untrusting();
    for question in [asks(POD_MAC[0], POD, STATION_IP), asks6(POD_MAC[0], own6(5), own6(50))] {
        assert_eq!(room.send(At::Pod, &question), Came::dropped(DropReason::NeighbourUnknown));
    }
}

#[test]
fn questions_to_the_trusted_ports_are_limited() {
    let mut room = Room::with(TxCaps::NONE, |tables| {
        tables.limits.flood = Limit { per_second: 10, burst: 6 };
    });
    let questions = (0..9).map(|_| HeapBuf::from_bytes(&asks(POD_MAC[0], POD, STATION_IP))).collect();
    let (came, _) = room.send_all(At::Pod, questions);
    assert_eq!((came.out.len(), came.drops), (6, [("flood_limited", 6)].into()));
}

// ---- who is believed

#[test]
fn a_station_is_learned_from_what_it_says_once() {
    let mut room = Room::new();
    let question = asks(STATION, STATION_IP, GATEWAY_IP);
    let came = room.send(At::Vm, &question);
    assert_eq!(read_arp(came.only()), (ArpOperation::Reply, GATEWAY[0], GATEWAY_IP, STATION, STATION_IP));
    assert_eq!(came.events, [neighbour(At::Vm, STATION, STATION_IP)]);
    let came = room.send(At::Vm, &asks6(STATION, own6(50), own6(1)));
    assert_eq!(came.events, [neighbour(At::Vm, STATION, own6(50))]);

    know(&mut room, At::Vm);
    assert_eq!(room.send(At::Vm, &question).events, [], "nothing new");
    assert_eq!(room.send(At::Vm, &asks6(STATION, own6(50), own6(1))).events, []);
    assert_eq!(
        room.send(At::Router, &question).events,
        [neighbour(At::Router, STATION, STATION_IP)],
        "moved"
    );
    // Now it can be answered for, and reached.
    let came = room.send(At::Pod, &asks(POD_MAC[0], POD, STATION_IP));
    assert_eq!(read_arp(came.only()).1, STATION);
    let came = room.send(At::Pod, &ipv4_frame(POD_MAC[0], GATEWAY[0], POD, STATION_IP, 9, b"routed"));
    assert_eq!(came.out, [(At::Vm, ipv4_frame(GATEWAY[0], STATION, POD, STATION_IP, 8, b"routed"))]);
}

#[test]
fn what_is_not_of_the_nodes_subnet_or_not_from_a_trusted_port_teaches_nothing() {
    let mut room = Room::new();
    let foreign = asks(STATION, [192, 168, 7, 7], [192, 168, 7, 1]);
    assert_eq!(room.send(At::Vm, &foreign), Came::carried(&foreign, &[At::Router]));
    let local = asks6(STATION, link_local(STATION), v6("fe80::7"));
    assert_eq!(room.send(At::Vm, &local), Came::carried(&local, &[At::Router]));
    let from_host = asks(HOST_MAC[0], STATION_IP, GATEWAY_IP);
    assert_eq!(room.send(At::Host, &from_host).events, []);
    assert_eq!(room.send(At::Pod, &asks(POD_MAC[0], POD, GATEWAY_IP)).events, []);
}

#[test]
fn news_is_limited() {
    let mut room = Room::new();
    let questions = |first: u8, count: u8| {
        let ip = move |n: u8| [10, 244, 0, first + n];
        (0..count).map(move |n| HeapBuf::from_bytes(&asks(STATION, ip(n), GATEWAY_IP))).collect::<Vec<_>>()
    };
    let mut told = 0;
    for _ in 0..4 {
        told += room.send_all(At::Vm, questions(100, 100)).0.events.len();
    }
    assert_eq!(
        (told, room.counter(|c| &c.events_limited)),
        (NEWS.burst as usize, 400 - u64::from(NEWS.burst))
    );
    assert_eq!(room.counter(|c| &c.events_lost), 0);
}

#[test]
fn a_station_may_not_have_what_another_has() {
    let mut room = Room::new();
    for taken in [GATEWAY_IP, POD, OTHER, ROUTER, AWAY] {
        let refused = Came::dropped(DropReason::NeighbourTaken).and(conflict(At::Vm, STATION, taken));
        for message in [
            asks(STATION, taken, STATION_IP),
            asks(STATION, taken, taken),
            answers(BROADCAST, STATION, taken, taken),
            answers(OTHER_MAC, STATION, taken, OTHER),
        ] {
            assert_eq!(room.send(At::Vm, &message), refused, "{taken:?}");
        }
    }
    for taken in [own6(1), own6(5), own6(9), v6("fd00:10:244:1::7")] {
        let refused = Came::dropped(DropReason::NeighbourTaken).and(conflict(At::Vm, STATION, taken));
        let unsolicited = says6(all_nodes(), STATION, own6(50), taken, STATION);
        let solicited = says6((OTHER_MAC, own6(6)), STATION, own6(50), taken, STATION);
        for message in [asks6(STATION, taken, own6(50)), unsolicited, solicited] {
            assert_eq!(room.send(At::Vm, &message), refused, "{taken}");
        }
    }
    // Its own configured address, with its own MAC address, it may have.
    assert_eq!(room.send(At::Vm, &asks(VM_MAC, VM, VM)).drops, [].into());
}

#[test]
fn a_station_may_not_give_a_mac_address_that_another_has() {
    let mut room = Room::new();
    for mac in [GATEWAY[0], HOST_MAC[0], POD_MAC[0], trusted::ROUTER_MAC, BROADCAST, [0; 6]] {
        let arp = arp_as(ArpOperation::Reply, OTHER_MAC, STATION, (mac, STATION_IP), OTHER);
        assert_eq!(room.send(At::Vm, &arp), Came::dropped(DropReason::NeighbourMac), "{mac:x?}");
        if mac != BROADCAST {
            let nd = says6(all_nodes(), STATION, own6(50), own6(50), mac);
            assert_eq!(room.send(At::Vm, &nd), Came::dropped(DropReason::NeighbourMac), "{mac:x?}");
        }
    }
}

#[test]
fn an_untrusted_pod_claims_nothing_but_its_own_and_others_claims_are_told() {
    let mut room = Room::new();
    know(&mut room, At::Vm);
    let spoofed = || Came::dropped(DropReason::SpoofedNeighbour);
    for (taken, told) in [
        (GATEWAY_IP, true),
        (OTHER, true),
        (VM, true),
        (STATION_IP, true),
        (AWAY, true),
        ([10, 244, 0, 99], false),
        ([192, 168, 1, 1], false),
    ] {
        for message in [
            asks(POD_MAC[0], taken, GATEWAY_IP),
            asks(POD_MAC[0], taken, taken),
            answers(OTHER_MAC, POD_MAC[0], taken, OTHER),
        ] {
            let came = room.send(At::Pod, &message);
            let event = told.then(|| conflict(At::Pod, POD_MAC[0], taken));
            assert_eq!(came, Came { events: event.into_iter().collect(), ..spoofed() }, "{taken:?}");
        }
    }
    for (taken, told) in
        [(own6(1), true), (own6(6), true), (own6(50), true), (own6(99), false), (v6("2001:db8::1"), false)]
    {
        let came = room.send(At::Pod, &says6(all_nodes(), POD_MAC[0], own6(5), taken, POD_MAC[0]));
        let event = told.then(|| conflict(At::Pod, POD_MAC[0], taken));
        assert_eq!(came, Came { events: event.into_iter().collect(), ..spoofed() }, "{taken}");
    }
    // Nor with another's MAC address.
    for message in [
        arp_as(ArpOperation::Request, BROADCAST, POD_MAC[0], (OTHER_MAC, POD), STATION_IP),
        arp_as(ArpOperation::Request, BROADCAST, POD_MAC[0], (OTHER_MAC, NOBODY), STATION_IP),
        says6(all_nodes(), POD_MAC[0], own6(5), own6(5), OTHER_MAC),
    ] {
        assert_eq!(room.send(At::Pod, &message).drops, [("spoofed_neighbour", 1)].into());
    }
}

/// The gateway's link-local address is what routes name; a pod may have any link-local address but that.
#[test]
fn a_link_local_address_is_passed_on_only_if_it_is_known_to_be_the_pods() {
    let mut room = Room::with(TxCaps::NONE, |tables| tables.gateway.v6.push(v6("fe80::1")));
    let (own, private) = (link_local(POD_MAC[0]), v6("fe80::1234:5678:9abc:def0"));
    let announcement = says6(all_nodes(), POD_MAC[0], own, own, POD_MAC[0]);
    let others = [At::Host, At::Other, At::Vm, At::Router];
    assert_eq!(room.send(At::Pod, &announcement), Came::carried(&announcement, &others));
    let question = asks6(POD_MAC[0], own, own6(50));
    assert_eq!(room.send(At::Pod, &question), Came::carried(&question, &[At::Vm, At::Router]));
    assert_eq!(
        room.send(At::Pod, &says6(all_nodes(), POD_MAC[0], private, private, POD_MAC[0])),
        Came::consumed()
    );
    assert_eq!(
        room.send(At::Pod, &asks6(POD_MAC[0], private, own6(50))),
        Came::dropped(DropReason::NeighbourUnverified)
    );
    // It is answered all the same: only the pod itself hears that.
    assert_eq!(told6(room.send(At::Pod, &asks6(POD_MAC[0], private, own6(1))).only(), own6(1)), GATEWAY[0]);
    let gateways = v6("fe80::1");
    let refused = Came::dropped(DropReason::SpoofedNeighbour).and(conflict(At::Pod, POD_MAC[0], gateways));
    assert_eq!(room.send(At::Pod, &asks6(POD_MAC[0], gateways, own6(50))), refused);
    assert_eq!(room.send(At::Pod, &says6(all_nodes(), POD_MAC[0], own, gateways, POD_MAC[0])), refused);
}

#[test]
fn the_subnets_own_addresses_are_no_stations() {
    let mut room = Room::new();
    for address in [[10, 244, 0, 0], [10, 244, 0, 255]] {
        for message in [asks(STATION, address, GATEWAY_IP), asks(STATION, address, address)] {
            assert_eq!(room.send(At::Vm, &message), Came::dropped(DropReason::NeighbourTaken), "{address:?}");
        }
    }
    for (from, mac, ip) in [(At::Pod, POD_MAC[0], POD), (At::Vm, VM_MAC, VM)] {
        let to_all = ipv4_frame(mac, GATEWAY[0], ip, [10, 244, 0, 255], 9, b"to all of the subnet");
        assert_eq!(room.send(from, &to_all), Came::dropped(DropReason::NoPod));
    }
}

// ---- probes

#[test]
fn a_pod_that_probes_for_its_own_address_hears_nothing() {
    let mut room = Room::new();
    let segment = [At::Host, At::Vm, At::Router];
    for probe in [asks(POD_MAC[0], NOBODY, POD), asks6(POD_MAC[0], Ipv6Addr::UNSPECIFIED, own6(5))] {
        assert_eq!(room.send(At::Pod, &probe), Came::carried(&probe, &segment));
    }
    let link_local = asks6(POD_MAC[0], Ipv6Addr::UNSPECIFIED, v6("fe80::77"));
    assert_eq!(room.send(At::Pod, &link_local), Came::carried(&link_local, &segment));
    let trusted = asks(VM_MAC, NOBODY, VM);
    assert_eq!(room.send(At::Vm, &trusted), Came::carried(&trusted, &[At::Host, At::Router]));
    // A station that has the address all the same is not believed, and told of.
    let defended = answers(BROADCAST, STATION, POD, POD);
    let refused = Came::dropped(DropReason::NeighbourTaken).and(conflict(At::Vm, STATION, POD));
    assert_eq!(room.send(At::Vm, &defended), refused);

    let mut room = Room::untrusting();
    room.publish(|tables| {
        trusted::forget_trusted(tables);
        tables.gateway.host = None;
    });
    for probe in [asks(POD_MAC[0], NOBODY, POD), asks6(POD_MAC[0], Ipv6Addr::UNSPECIFIED, own6(5))] {
        assert_eq!(room.send(At::Pod, &probe), Came::consumed(), "there is nobody to hear it");
    }
}

#[test]
fn who_probes_for_anothers_address_is_answered_and_told_of() {
    let mut room = Room::new();
    for (from, mac) in [(At::Pod, POD_MAC[0]), (At::Vm, STATION)] {
        for (target, at) in [(GATEWAY_IP, GATEWAY[0]), (OTHER, OTHER_MAC), (AWAY, GATEWAY[0])] {
            let came = room.send(from, &asks(mac, NOBODY, target));
            let answer = (ArpOperation::Reply, at, target, mac, NOBODY);
            assert_eq!((came.to(), read_arp(came.only())), (vec![from], answer));
            assert_eq!(came.events, [conflict(from, mac, target)]);
        }
        for (target, at) in [(own6(1), GATEWAY[0]), (own6(6), OTHER_MAC)] {
            let came = room.send(from, &asks6(mac, Ipv6Addr::UNSPECIFIED, target));
            assert_eq!((came.to(), told6(came.only(), target)), (vec![from], at));
            with_nd(came.only(), |_, dst, message| {
                let NdiscRepr::NeighborAdvert { flags, .. } = message else { panic!("{message:?}") };
                assert_eq!(dst, v6("ff02::1"), "RFC 4861, section 7.2.4");
                assert!(!flags.contains(NdiscNeighborFlags::SOLICITED));
            });
            assert_eq!(came.events, [conflict(from, mac, target)]);
        }
    }
}

/// What was learned may be gone: whoever has the address now answers for itself.
#[test]
fn a_learned_station_defends_its_address_itself() {
    let mut room = Room::new();
    know(&mut room, At::Vm);
    for probe in [asks(POD_MAC[0], NOBODY, STATION_IP), asks6(POD_MAC[0], Ipv6Addr::UNSPECIFIED, own6(50))] {
        assert_eq!(room.send(At::Pod, &probe), Came::carried(&probe, &[At::Vm, At::Router]));
    }
    // And says itself whether it is still there.
    room.send(At::Vm, &ipv4_frame(STATION, POD_MAC[0], STATION_IP, POD, 9, b"so that the bridge knows it"));
    let confirm = arp_as(ArpOperation::Request, STATION, POD_MAC[0], (POD_MAC[0], POD), STATION_IP);
    assert_eq!(room.send(At::Pod, &confirm), Came::carried(&confirm, &[At::Vm]));
    // Who is behind the same port hears it there.
    let beside = asks([2, 0, 0, 0, 0x5a, 2], [10, 244, 0, 51], STATION_IP);
    assert_eq!(room.send(At::Vm, &beside).drops, [("same_port", 1)].into());
}

#[test]
fn the_host_may_have_the_gateways_address() {
    let mut room = Room::new();
    let probe = asks6(HOST_MAC[0], Ipv6Addr::UNSPECIFIED, own6(1));
    assert_eq!(room.send(At::Host, &probe), Came::carried(&probe, &[At::Vm, At::Router]));
}

// ---- announcements

#[test]
fn announcements_reach_all_who_may_keep_the_address() {
    let mut room = Room::new();
    let (announce, reply) = (asks(POD_MAC[0], POD, POD), answers(BROADCAST, POD_MAC[0], POD, POD));
    let advert = says6(all_nodes(), POD_MAC[0], own6(5), own6(5), POD_MAC[0]);
    for message in [&announce, &reply, &advert] {
        let others = [At::Host, At::Other, At::Vm, At::Router];
        assert_eq!(room.send(At::Pod, message), Came::carried(message, &others));
    }
    let all = [At::Host, At::Pod, At::Other, At::Router];
    let heard = neighbour(At::Vm, STATION, STATION_IP);
    for message in
        [asks(STATION, STATION_IP, STATION_IP), answers(BROADCAST, STATION, STATION_IP, STATION_IP)]
    {
        assert_eq!(room.send(At::Vm, &message), Came::carried(&message, &all).and(heard));
    }
    let message = says6(all_nodes(), STATION, own6(50), own6(50), STATION);
    let heard = neighbour(At::Vm, STATION, own6(50));
    assert_eq!(room.send(At::Vm, &message), Came::carried(&message, &all).and(heard));
}

#[test]
fn an_answer_for_one_station_is_bridged_and_one_for_the_gateway_is_read() {
    let mut room = Room::new();
    let to_vm = answers(VM_MAC, POD_MAC[0], POD, VM);
    assert_eq!(room.send(At::Pod, &to_vm), Came::carried(&to_vm, &[At::Vm]));
    let to_vm = says6((VM_MAC, own6(8)), POD_MAC[0], own6(5), own6(5), POD_MAC[0]);
    assert_eq!(room.send(At::Pod, &to_vm), Came::carried(&to_vm, &[At::Vm]));
    let to_host = answers(HOST_MAC[0], STATION, STATION_IP, GATEWAY_IP);
    let heard = neighbour(At::Vm, STATION, STATION_IP);
    assert_eq!(room.send(At::Vm, &to_host), Came::carried(&to_host, &[At::Host]).and(heard));
    let to_gateway = answers(GATEWAY[0], STATION, STATION_IP, GATEWAY_IP);
    assert_eq!(room.send(At::Vm, &to_gateway), Came::consumed().and(heard));
    let to_gateway = says6((GATEWAY[0], own6(1)), STATION, own6(50), own6(50), STATION);
    let heard = neighbour(At::Vm, STATION, own6(50));
    assert_eq!(room.send(At::Vm, &to_gateway), Came::consumed().and(heard));
    assert_eq!(room.send(At::Pod, &answers(GATEWAY[0], POD_MAC[0], POD, GATEWAY_IP)), Came::consumed());
}

// ---- the router asks

#[test]
fn a_packet_to_an_unknown_station_makes_the_router_ask_from_the_subnets_gateway() {
    let mut room = Room::new();
    let packet = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, STATION_IP, 9, b"is anybody there?");
    let came = room.send(At::Pod, &packet);
    assert_eq!((came.drops.clone(), came.originated), ([("neighbour_pending", 1)].into(), 2));
    assert_eq!(came.to(), [At::Vm, At::Router]);
    for (_, question) in &came.out {
        assert_eq!(question[..6], BROADCAST);
        let asked = (ArpOperation::Request, GATEWAY[0], GATEWAY_IP, [0; 6], STATION_IP);
        assert_eq!(read_arp(question), asked);
    }
    let mut packet = world::ipv6_frame(POD_MAC[0], GATEWAY[0], 0, 0, 9, b"and here?");
    packet[38..54].copy_from_slice(&own6(50).octets());
    let came = room.send(At::Pod, &packet);
    assert_eq!(
        (came.to(), came.drops.clone()),
        (vec![At::Vm, At::Router], [("neighbour_pending", 1)].into())
    );
    let group = v6("ff02::1:ff00:50");
    let target = v6("fd00:10:244::50");
    packet[38..54].copy_from_slice(&target.octets());
    let came = room.send(At::Pod, &packet);
    assert_eq!(came.out[0].1[..6], group_mac(group));
    with_nd(&came.out[0].1, |src, dst, message| {
        assert_eq!((src, dst), (own6(1), group));
        let asked = NdiscRepr::NeighborSolicit { target_addr: target, lladdr: lladdr(GATEWAY[0]) };
        assert_eq!(message, asked);
    });
}

#[test]
fn packets_out_of_the_tunnel_make_the_router_ask_too_but_not_without_end() {
    let mut room = Room::with(TxCaps::NONE, |tables| {
        tables.limits.solicit = Limit { per_second: 10, burst: 3 };
        // A flood's budget is another.
        tables.limits.flood = Limit::per_second(0);
    });
    let packet = |last: u8| {
        let to = [10, 244, 0, last];
        let inner = ipv4_frame(world::VTEP_MAC[1], world::VTEP_MAC[0], AWAY, to, 9, b"from afar");
        let payload = [&[8, 0, 0, 0, 0, 0, 1, 0], &inner[..]].concat();
        let mut packet = Vec::new();
        etherparse::PacketBuilder::ethernet2(world::UPLINK_MAC[1], world::UPLINK_MAC[0])
            .ipv4([172, 16, 0, 2], [172, 16, 0, 1], 64)
            .udp(40000, 8472)
            .write(&mut packet, &payload)
            .unwrap();
        HeapBuf::from_bytes(&packet)
    };
    let (came, _) = room.send_all(At::Uplink, (0..9).map(|_| packet(50)).collect());
    assert_eq!((came.out.len(), came.originated, came.drops), (2, 2, [("neighbour_pending", 9)].into()));
    let (came, _) = room.send_all(At::Uplink, (60..69).map(packet).collect());
    assert_eq!((came.out.len(), came.originated, came.drops), (4, 4, [("neighbour_pending", 9)].into()));
}

#[test]
fn an_address_that_nobody_answers_for_is_refused_after_three_questions() {
    let v4 = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, STATION_IP, 9, b"is anybody there?");
    let mut v6 = world::ipv6_frame(POD_MAC[0], GATEWAY[0], 0, 0, 9, b"and here?");
    v6[38..54].copy_from_slice(&own6(50).octets());
    for (packet, unreachable) in [(v4, (3, 1)), (v6, (1, 3))] {
        let mut room = Room::new();
        for _ in 0..3 {
            let came = room.send(At::Pod, &packet);
            assert_eq!(
                (came.to(), came.drops),
                (vec![At::Vm, At::Router], [("neighbour_pending", 1)].into())
            );
            assert_eq!(room.send(At::Pod, &packet), Came::dropped(DropReason::NeighbourPending));
            room.pass(1);
        }
        // It is asked for further, and the sender told each time.
        for to in [vec![At::Pod, At::Vm, At::Router], vec![At::Pod]] {
            let came = room.send(At::Pod, &packet);
            assert_eq!((came.to(), came.drops), (to, [("no_pod", 1)].into()));
            assert_eq!(world::told::read(&came.out[0].1).type_and_code(), unreachable);
        }
        room.pass(60);
        assert_eq!(room.send(At::Pod, &packet).drops, [("neighbour_pending", 1)].into(), "anew");
        know(&mut room, At::Vm);
        assert_eq!(room.send(At::Pod, &packet).to(), [At::Vm], "somebody has answered");
    }
}

#[test]
fn without_trusted_ports_there_is_nobody_to_ask() {
    let mut room = Room::untrusting();
    let packet = ipv4_frame(POD_MAC[0], GATEWAY[0], POD, STATION_IP, 9, b"");
    let came = room.send(At::Pod, &packet);
    assert_eq!(came.drops, [("no_pod", 1)].into());
    assert!(!came.to().contains(&At::Vm) && !came.to().contains(&At::Router));
}
