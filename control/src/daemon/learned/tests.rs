use super::*;

const AGEING: Duration = Duration::from_secs(300);

fn port(number: usize) -> PortId {
    PortId::new(number).unwrap()
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn address(last: u16) -> IpAddr {
    IpAddr::from([10, 244, (last >> 8) as u8, last as u8])
}

fn says(last: u16, station: u8, at: usize) -> Event {
    Event::Neighbour { port: port(at), mac: mac(station), address: address(last) }
}

fn anyone(_: IpAddr) -> bool {
    true
}

#[test]
fn a_neighbour_is_news_once_and_forgotten_in_time() {
    let (mut learned, start) = (Learned::default(), Instant::now());
    let after = |seconds| start + Duration::from_secs(seconds);
    assert!(learned.take(says(7, 1, 4), start, anyone));
    assert!(!learned.take(says(7, 1, 4), after(100), anyone), "nothing new");
    assert_eq!(learned.neighbours(), [(address(7), mac(1), port(4))]);
    assert!(!learned.forget_old(after(399), AGEING, |_| false));
    assert!(!learned.forget_old(after(400), AGEING, |_| true), "it still sends");
    assert!(!learned.forget_old(after(699), AGEING, |_| false));
    assert!(learned.forget_old(after(700), AGEING, |_| false));
    assert!(learned.neighbours().is_empty() && learned.counts.is_empty());
}

#[test]
fn an_address_moves_and_two_that_take_turns_are_a_conflict() {
    let (mut learned, now) = (Learned::default(), Instant::now());
    assert!(learned.take(says(7, 1, 4), now, anyone) && learned.take(says(7, 2, 5), now, anyone));
    assert_eq!(
        (learned.neighbours(), learned.conflicts.iter().count()),
        (vec![(address(7), mac(2), port(5))], 0)
    );
    assert!(learned.take(says(7, 1, 4), now, anyone));
    let claim = Claim { address: address(7), port: port(4) };
    assert_eq!(learned.conflicts.iter().map(|(claim, _)| claim).collect::<Vec<_>>(), [&claim]);
    assert_eq!(learned.counts, HashMap::from([(port(4), 1)]));
}

#[test]
fn a_port_has_its_limit_and_takes_its_neighbours_along() {
    let (mut learned, now) = (Learned::default(), Instant::now());
    let taken = (0..300).filter(|last| learned.take(says(*last, 1, 4), now, anyone)).count();
    assert_eq!(taken, NEIGHBOURS);
    assert!(learned.take(says(900, 1, 5), now, anyone), "another port has its own");
    assert!(learned.take(says(901, 1, 5), now, anyone) && learned.take(says(901, 1, 4), now, anyone));
    assert!(
        !learned.neighbours.contains_key(&address(901)),
        "it is not there any more, and there is no room where it is"
    );
    learned.keep_ports(|open| open == port(5));
    assert_eq!(learned.neighbours(), [(address(900), mac(1), port(5))]);
    assert!(learned.take(says(1, 1, 4), now, anyone));
}

#[test]
fn a_path_mtu_falls_within_a_second_has_a_floor_and_rises_again() {
    let (mut learned, start) = (Learned::default(), Instant::now());
    let peers: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let tell = |learned: &mut Learned, peer, mtu, now, known: bool| {
        assert!(
            !learned.take(Event::PathMtu { peer, mtu }, now, |_| known),
            "published with what is forgotten"
        );
        learned.forget_old(now, AGEING, |_| false)
    };
    assert!(!tell(&mut learned, peers[0], 1400, start, false), "nobody that is known");
    assert!(tell(&mut learned, peers[0], 1400, start, true));
    assert!(!tell(&mut learned, peers[0], 1450, start, true));
    let later = start + Duration::from_secs(100);
    assert!(!tell(&mut learned, peers[0], 1400, later, true), "no news, but it is believed for longer");
    assert!(tell(&mut learned, peers[0], 68, later, true) && tell(&mut learned, peers[1], 68, later, true));
    assert_eq!(learned.path_mtus(), HashMap::from([(peers[0], 626), (peers[1], 1280)]));
    assert!(!learned.forget_old(start + PATH_MTU_KEPT, AGEING, |_| false));
    assert!(learned.forget_old(later + PATH_MTU_KEPT, AGEING, |_| false));
    assert!(learned.path_mtus().is_empty());
}
