//! Why a packet was dropped: one code per place in the code, for the whole switch.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal),+ $(,)?) => {
        /// Why a packet was dropped. Each packet that is not sent on has exactly one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $name),+ }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The name in counters, metrics and the API: stable from release to release.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// One sentence for a person.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii()),+ }
            }

            /// As an index into an array of [`Self::COUNT`].
            #[inline]
            pub const fn index(self) -> usize { self as usize }

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
        }
    };
}

drop_reasons! {
    // ---- rx
    /// No buffer was free when the frame came in: enlarge dataplane.memory.
    RxNoBuffer = "rx_no_buffer",
    /// The virtio-net header contradicts the frame.
    RxBadOffload = "rx_bad_offload",
    /// The frame is longer than the switch carries, or the interface cut it off.
    RxTooLong = "rx_too_long",
    /// The interface's queue was full before the worker came: give it more workers, or less to do.
    RxMissed = "rx_missed",
    /// The buffer that a device or guest handed over contradicts itself.
    RxMalformed = "rx_malformed",
    /// The port is not (or no longer) in the tables.
    RxPortUnknown = "rx_port_unknown",
    // ---- parse
    /// Shorter than an Ethernet header, or its source is a group address.
    EthMalformed = "eth_malformed",
    /// An ARP message that is cut off or not Ethernet/IPv4.
    ArpMalformed = "arp_malformed",
    /// An IPv4 header that is cut off, or whose lengths contradict each other or the frame.
    Ipv4Malformed = "ipv4_malformed",
    /// The IPv4 header's checksum is wrong.
    Ipv4Checksum = "ipv4_checksum",
    /// An IPv6 header that is cut off, or whose lengths contradict each other or the frame.
    Ipv6Malformed = "ipv6_malformed",
    /// A neighbour discovery message that is cut off, has a hop limit other than 255 or an option of length 0.
    NdMalformed = "nd_malformed",
    /// A neighbour discovery message whose checksum is wrong.
    NdChecksum = "nd_checksum",
    /// A frame that ends within its 802.1Q tag.
    VlanMalformed = "vlan_malformed",
    /// More than two 802.1Q tags: what is behind them is not looked at, so it is not carried.
    VlanDepth = "vlan_depth",
    // ---- anti-spoofing
    /// A pod sent from a MAC address that is not its own.
    SpoofedMac = "spoofed_mac",
    /// A pod sent from an IP address that is not its own.
    SpoofedIp = "spoofed_ip",
    /// A pod claimed an address that is not its own in ARP or neighbour discovery.
    SpoofedNeighbour = "spoofed_neighbour",
    /// A pod that is not trusted sent a router advertisement.
    RouterAdvertisement = "router_advertisement",
    /// A pod that is not trusted sent what only DHCP servers and relays send: from UDP port 67 or to 68, or from 547 or to 546 over IPv6.
    DhcpServer = "dhcp_server",
    /// A pod that is not trusted sent an ICMP redirect.
    Redirect = "redirect",
    /// A pod that is not trusted sent a neighbour discovery message as a fragment (RFC 6980).
    NdFragment = "nd_fragment",
    /// A pod that is not trusted sent a first fragment without the whole chain of headers (RFC 7112).
    FirstFragmentShort = "first_fragment_short",
    // ---- bridge
    /// Unicast to a MAC address that no port of the segment has.
    FdbMiss = "fdb_miss",
    /// The frame would leave by the port that it came in by.
    SamePort = "same_port",
    /// A broadcast or multicast frame, and no other port is on the segment.
    NotForwarded = "not_forwarded",
    /// To an address that bridges do not forward (01:80:c2:00:00:00 to 0f; IEEE 802.1Q, table 8-1).
    ReservedAddress = "reserved_address",
    /// A frame of a VLAN (802.1Q) to the gateway, which routes none. A tag of VLAN 0 counts as none.
    VlanTagged = "vlan_tagged",
    /// The port's broadcast, multicast and unknown unicast frames would become more copies than bridge.flood_rate allows.
    FloodLimited = "flood_limited",
    /// One of the ports that a frame is flooded to does not carry one of that size.
    FloodTooBig = "flood_too_big",
    /// From a trusted port with the MAC address of a pod that is behind another.
    MacOfPod = "mac_of_pod",
    /// From a trusted port with the gateway's own MAC address: somebody impersonates it, or the segment has a loop.
    MacOfGateway = "mac_of_gateway",
    /// From a trusted port with the host's MAC address: somebody impersonates it, or the segment has a loop.
    MacOfHost = "mac_of_host",
    // ---- ARP and ND
    /// A question for an address that nobody here has.
    NeighbourUnknown = "neighbour_unknown",
    /// A station behind a trusted port claims an address that another has (a pod, the gateway, another node) or that is the subnet's own: its first and its last.
    NeighbourTaken = "neighbour_taken",
    /// A station behind a trusted port gives a MAC address in ARP or neighbour discovery that another has, or nobody can have.
    NeighbourMac = "neighbour_mac",
    /// A pod speaks from a link-local address that does not follow from its MAC address, so nobody else is told of it.
    NeighbourUnverified = "neighbour_unverified",
    /// To an address of the node's subnet that is being asked for behind the trusted ports.
    NeighbourPending = "neighbour_pending",
    /// A router solicitation: weft announces no routes, pods get theirs when they are made.
    RouterSolicitation = "router_solicitation",
    // ---- router
    /// The TTL or hop limit is used up.
    TtlExceeded = "ttl_exceeded",
    /// No way to the destination: there is no host port yet, or the route's next hop is gone.
    NoRoute = "no_route",
    /// The route says unreachable: an address of the pod network that no node has, or one set by the operator.
    RouteUnreachable = "route_unreachable",
    /// The route says that it is forbidden.
    RouteProhibited = "route_prohibited",
    /// The route leads into a black hole: dropped, and nobody is told.
    RouteBlackhole = "route_blackhole",
    /// The destination's subnet is this node's, but no pod has the address.
    NoPod = "no_pod",
    /// To be routed, but neither IPv4 nor IPv6.
    NotIp = "not_ip",
    /// From or to an address that is not routed: multicast, loopback, unspecified, link-local.
    NotRoutable = "not_routable",
    /// The packet is larger than the way out carries.
    MtuExceeded = "mtu_exceeded",
    /// An IPv4 option by which the sender says which way the packet is to take: not followed (RFC 7126).
    SourceRouted = "source_routed",
    /// The lengths of the IPv4 options contradict each other or the header.
    Ipv4Options = "ipv4_options",
    /// A fragment that would have to be cut further, and ends past the 65,535 bytes that IPv4 allows.
    FragmentOverflow = "fragment_overflow",
    // ---- encap
    /// The kernel does not know the MAC address of the way to the peer (yet).
    VtepUnresolved = "vtep_unresolved",
    /// No room in front of the packet for the outer headers.
    NoHeadroom = "no_headroom",
    /// From another node and to another node.
    TunnelToTunnel = "tunnel_to_tunnel",
    // ---- decap
    /// A frame from the underlay that is no VXLAN packet to this node.
    NotTunnel = "not_tunnel",
    /// The outer IP header is cut off, or its lengths contradict each other or the frame.
    OuterIpMalformed = "outer_ip_malformed",
    /// The outer IPv4 header's checksum is wrong.
    OuterIpChecksum = "outer_ip_checksum",
    /// The outer IP packet is in fragments: the underlay carries less than its MTU says. One for each packet.
    OuterFragment = "outer_fragment",
    /// The outer UDP header is cut off or its length is wrong.
    OuterUdpMalformed = "outer_udp_malformed",
    /// The outer UDP checksum is wrong, or zero over IPv6.
    OuterUdpChecksum = "outer_udp_checksum",
    /// The sender is no known VTEP.
    VtepUnknown = "vtep_unknown",
    /// The VXLAN header is cut off.
    VxlanMalformed = "vxlan_malformed",
    /// The VXLAN header's flags are not 0x08 or a reserved bit is set.
    VxlanReserved = "vxlan_reserved",
    /// No network has this VNI.
    VniUnknown = "vni_unknown",
    /// The inner Ethernet header is cut off, or its source is a group address.
    InnerEthMalformed = "inner_eth_malformed",
    /// The inner IP header is cut off, or its lengths contradict each other or the inner frame.
    InnerIpMalformed = "inner_ip_malformed",
    /// The inner IPv4 header's checksum is wrong.
    InnerIpChecksum = "inner_ip_checksum",
    /// The inner frame is not addressed to this node's VTEP.
    InnerMacWrong = "inner_mac_wrong",
    /// The inner frame has this node's own VTEP as its source.
    InnerMacOwn = "inner_mac_own",
    /// The inner frame is neither IPv4 nor IPv6: there is no ARP or ND on the overlay.
    InnerNotIp = "inner_not_ip",
    /// The inner frame has an 802.1Q tag (RFC 7348, section 6.1).
    InnerTagged = "inner_tagged",
    /// Congestion was marked on the outer header of a packet that does not take part in ECN (RFC 6040).
    EcnIllegal = "ecn_illegal",
    // ---- apply and tx
    /// The checksum could not be completed: its place is outside the packet.
    ChecksumPlace = "checksum_place",
    /// The GSO frame could not be segmented: its headers contradict its state.
    GsoMalformed = "gso_malformed",
    /// No buffer was free for a segment: enlarge dataplane.memory.
    TxNoBuffer = "tx_no_buffer",
    /// The port did not take the frame: its queue was full, or its far side is down or not connected.
    TxNotTaken = "tx_not_taken",
    /// The kernel forbids it: its packet filter or a route refuses a tunnel packet on its way out (uplink socket).
    TxRefused = "tx_refused",
    /// The kernel knows no way to the node, or not from this address (uplink socket).
    TxUnreachable = "tx_unreachable",
    /// Longer than the kernel sends on that way (uplink socket): a route or an interface there has a smaller MTU than the uplink's.
    TxTooLong = "tx_too_long",
    /// The TTL is used up by one of the two hops that flannel's `udp` backend counts beside the routers': nobody is told, as flanneld does not
    /// either.
    TunnelTtl = "tunnel_ttl",
    /// More came for the pod than its bandwidth limit lets through, for longer than its queue holds.
    RateLimited = "rate_limited",
    /// The ring to the worker that owns the port's queue was full.
    HandoverFull = "handover_full",
    /// The port was removed while the packet was on its way.
    TxPortGone = "tx_port_gone",
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_every_reason_is_explained() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(reason.explain().len() > 20, "{}", reason.name());
        }
    }
}
