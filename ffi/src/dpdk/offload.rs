//! What drivers and packets tell each other beside the bytes: the state of a received packet's checksum, and what is to
//! be done to one that is sent. DPDK says it with flags and the lengths of headers; nothing here looks at the bytes.

use super::mbuf::Mbuf;
use super::sys;

/// What a driver says of the TCP or UDP checksum of a packet that it received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: nobody has looked.
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
    /// It was never filled in, and the data is as its sender made it: a packet that has not been on a wire.
    Missing,
}

/// The protocol of which a checksum is to be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a driver is to do with a packet that it sends: fill in its checksum, and cut it. The headers follow each other from the
/// packet's first byte, and the checksum's field holds the pseudo-header's sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxWork {
    /// Bytes in front of the IP header, at most 127.
    pub l2_len: usize,
    /// Bytes of the IP header with all that follows it up to the transport header, at most 511.
    pub l3_len: usize,
    /// Bytes of the transport header, at most 255.
    pub l4_len: usize,
    /// The IP header is IPv6's.
    pub v6: bool,
    /// The transport header's protocol.
    pub upper: Upper,
    /// Payload bytes of each TCP segment, if it is to be cut.
    pub segment: Option<u16>,
    /// The driver fills in the checksums of the IPv4 headers that it makes by cutting, and wants to be asked for it.
    pub ip_checksum: bool,
}

impl TxWork {
    /// The flags and lengths; `None` when a length does not fit its field.
    fn words(&self) -> Option<(u64, u64)> {
        let mut lengths = 0;
        for (len, at, bits) in [
            (self.l2_len, sys::WEFT_L2_LEN_AT, sys::WEFT_L2_LEN_BITS),
            (self.l3_len, sys::WEFT_L3_LEN_AT, sys::WEFT_L3_LEN_BITS),
            (self.l4_len, sys::WEFT_L4_LEN_AT, sys::WEFT_L4_LEN_BITS),
        ] {
            if len >> bits != 0 {
                return None;
            }
            lengths |= (len as u64) << at;
        }
        let mut flags = if self.v6 { sys::WEFT_MBUF_TX_IPV6 } else { sys::WEFT_MBUF_TX_IPV4 };
        flags |= match self.upper {
            Upper::Tcp => sys::WEFT_MBUF_TX_TCP_CKSUM,
            Upper::Udp => sys::WEFT_MBUF_TX_UDP_CKSUM,
        };
        if let Some(size) = self.segment {
            flags |= sys::WEFT_MBUF_TX_TCP_SEG;
            if self.ip_checksum && !self.v6 {
                flags |= sys::WEFT_MBUF_TX_IP_CKSUM;
            }
            lengths |= u64::from(size) << sys::WEFT_TSO_SEGSZ_AT;
        }
        Some((flags, lengths))
    }
}

impl Mbuf {
    /// What the driver that received the packet says of its checksum.
    #[inline]
    pub fn rx_checksum(&self) -> RxChecksum {
        match self.segment().flags() & sys::WEFT_MBUF_RX_L4_MASK {
            sys::WEFT_MBUF_RX_L4_GOOD => RxChecksum::Good,
            sys::WEFT_MBUF_RX_L4_BAD => RxChecksum::Bad,
            sys::WEFT_MBUF_RX_L4_NONE => RxChecksum::Missing,
            _ => RxChecksum::Unknown,
        }
    }

    /// For a received packet that stands for several: the payload bytes of each. May be 0, if a driver says so.
    #[inline]
    pub fn rx_segment(&self) -> Option<u16> {
        let lro = self.segment().flags() & sys::WEFT_MBUF_RX_LRO != 0;
        lro.then(|| (self.segment().tx_offload() >> sys::WEFT_TSO_SEGSZ_AT) as u16)
    }

    /// Sets what the driver that sends the packet is to do; nothing for `None`. False, with nothing to be done, when a length does
    /// not fit, or the headers are not in the first segment: drivers read them there.
    #[inline]
    pub fn set_tx_work(&mut self, work: Option<&TxWork>) -> bool {
        let head = self.segment();
        let flags = head.flags() & !sys::WEFT_MBUF_TX_ALL;
        let Some(work) = work else {
            head.set_flags(flags);
            return true;
        };
        let first = usize::from(head.data_len());
        let fits = work.l2_len.saturating_add(work.l3_len).saturating_add(work.l4_len) <= first;
        let Some((asked, lengths)) = work.words().filter(|_| fits) else {
            head.set_flags(flags);
            return false;
        };
        head.set_flags(flags | asked);
        head.set_tx_offload(lengths);
        true
    }

    /// Whether something is to be done by the driver.
    #[inline]
    pub(super) fn has_tx_work(&self) -> bool {
        self.segment().flags() & sys::WEFT_MBUF_TX_ALL != 0
    }
}
