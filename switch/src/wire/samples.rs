//! For tests: frames as a Linux 6 kernel sent them out of a TAP (addresses were chosen, nothing else), and
//! generators of the types that are not wire formats themselves.

use crate::types::{MacAddr, Vni};
use arrayvec::ArrayVec;
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Who has 10.244.1.9? Tell 10.244.1.2.
pub(crate) const ARP: &str = "ffffffffffff0200000000010806 \
    0001080006040001 020000000001 0af40102 000000000000 0af40109";

/// "weft" to port 53.
pub(crate) const UDP4: &str = "0200000000090200000000010800 \
    45000020d8d6400040114a04 0af40102 0af40109 9c400035000c6d94 77656674";

/// "weft!" to port 53.
pub(crate) const UDP6: &str = "02000000000902000000000186dd 60012923000d1140 \
    fd000000000000000000000000000001 fd000000000000000000000000000009 9c410035000d6a78 7765667421";

/// SYN with five options.
pub(crate) const TCP4: &str = "0200000000090200000000010800 4500003cbccd4000400665fc 0af40102 0af40109 \
    9ca40050 9eb83386 00000000 a002faf0 c9a80000 020405b40402080a43e3b85a000000000103030a";

/// SYN with five options.
pub(crate) const TCP6: &str = "02000000000902000000000186dd 6009c5c300280640 \
    fd000000000000000000000000000001 fd000000000000000000000000000009 \
    9ca40050 d877db7c 00000000 a002fd20 dcfd0000 020405a00402080aedd83525000000000103030a";

/// Echo request, 8 bytes of data.
pub(crate) const ICMP: &str = "0200000000090200000000010800 450000245dec40004001c4fa 0af40102 0af40109 \
    08007a4471aa0001 0001020304050607";

/// Echo request, 8 bytes of data.
pub(crate) const ICMPV6: &str = "02000000000902000000000186dd 60003cbc00103a40 \
    fd000000000000000000000000000001 fd000000000000000000000000000009 800007d571c30001 0001020304050607";

/// Who has fd00::9?
pub(crate) const SOLICIT: &str = "3333ff00000902000000000186dd 6000000000203aff \
    fd000000000000000000000000000001 ff0200000000000000000001ff000009 \
    87007d8900000000 fd000000000000000000000000000009 0101020000000001";

/// The answer to a unicast solicitation for fd00::1, which Linux gives without its MAC address.
pub(crate) const ADVERT: &str = "02000000000902000000000186dd 6000000000183aff \
    fd000000000000000000000000000001 fd000000000000000000000000000009 \
    8800409f40000000 fd000000000000000000000000000001";

/// A multicast listener report: ICMPv6 behind hop-by-hop options.
pub(crate) const LISTENER_REPORT: &str = "33330000001602000000000186dd 6000000000240001 \
    fe80000000000000000000fffe000001 ff020000000000000000000000000016 \
    3a00050200000100 8f00720700000001 04000000 ff0200000000000000000001ff000001";

/// An echo request in VXLAN network 1, from a kernel VTEP on port 8472.
pub(crate) const VXLAN: &str = "0200000000090200000000010800 45000056dd71000040118533 0af40102 0af40109 \
    e81021180042b14b 0800000000000100 0e00000000020e00000000010800 4500002466934000 4001be59 0af50001 \
    0af50002 080079ff71ef0001 0001020304050607";

/// The bytes that `text` spells in hexadecimal, white space apart.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap() as u8).collect();
    assert_eq!(digits.len() % 2, 0);
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

pub(crate) fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

pub(crate) fn vni() -> impl Strategy<Value = Vni> {
    (0u32..1 << 24).prop_map(|value| Vni::new(value).unwrap())
}

pub(crate) fn ipv4() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

pub(crate) fn ipv6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(Ipv6Addr::from)
}

/// Options of 0 to 40 bytes, whole 4-byte words.
pub(crate) fn options() -> impl Strategy<Value = ArrayVec<u8, 40>> {
    vec(any::<[u8; 4]>(), 0..=10).prop_map(|words| words.into_iter().flatten().collect())
}

/// Some payload, of odd lengths too.
pub(crate) fn payload() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..200)
}
