//! Cuts IPv4 packets that are too big for their way out (RFC 791, section 3.2).

use arrayvec::ArrayVec;

use super::{Applier, Outcome, decap, decrement, encap, set_macs, trim_to_ip};
use crate::classify::Way;
use crate::drop_reason::DropReason;
use crate::offload::Offload;
use crate::offload::finish::finish;
use crate::offload::segment::{Unfinished, copy};
use crate::packet::{BufPool, PacketBuf};
use crate::parse::Brief;
use crate::port::TxCaps;
use crate::types::Mtu;
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ipv4::{IPV4_LEN, IPV4_MAX_LEN, IPV4_MAX_OPTIONS, Ipv4Options, Ipv4View, OPTION_END};

/// Ethernet and IPv4 header of a fragment.
type Headers = ArrayVec<u8, { ETHERNET_LEN + IPV4_MAX_LEN }>;

impl<P: BufPool> Applier<'_, P> {
    /// Sends the packet in pieces of at most `mtu` bytes. A GSO frame is cut into its packets first and a checksum filled
    /// in: both speak of the whole datagram. Into a tunnel each piece goes by itself, and all by one source port.
    #[cold]
    pub(super) fn fragment(
        &mut self,
        mut packet: P::Buf,
        brief: &Brief,
        (way, hop, mtu): (Way, bool, Mtu),
        out: &mut impl Outcome<P>,
    ) {
        trim_to_ip(&mut packet, brief);
        let out_of_tunnel = if brief.is_in_tunnel() { decap::decap(&mut packet, brief) } else { Ok(()) };
        let ready = out_of_tunnel.and_then(|()| {
            match way {
                Way::Neighbour(to) => set_macs(&mut packet, to.mac, self.tables.gateway.mac)?,
                Way::OnLink(to) => set_macs(&mut packet, to.mac, self.tables.uplink_mac)?,
                Way::Vtep(_) => {}
            }
            if hop { decrement(&mut packet, brief) } else { Ok(()) }
        });
        if let Err(reason) = ready {
            return out.drop(reason);
        }
        let (tables, ident, made) = (self.tables, &mut *self.ident, &self.counters.fragments);
        // Whatever the packet becomes, it was one.
        let mut ends = 0;
        let finished = finish(self.pool, packet, TxCaps::NONE, |pool, frame| {
            let cut = cut(pool, frame, mtu.get(), |pool, mut piece| {
                let sent = match way {
                    Way::Neighbour(to) | Way::OnLink(to) => Ok(to.port),
                    Way::Vtep(vtep) => {
                        tables.vteps.get(vtep as usize).map_or(Err(DropReason::VtepUnresolved), |far| {
                            let ports = tables.source_ports;
                            encap::encap(&mut piece, brief, &tables.vteps, vtep, ports, ident)
                                .map(|()| far.uplink)
                        })
                    }
                };
                match sent {
                    Ok(port) => out.send(pool, port, piece),
                    Err(reason) => out.drop(reason),
                }
            });
            let given = match cut {
                Ok(given) => given,
                Err(unfinished) => {
                    out.drop(unfinished.reason);
                    ends += 1;
                    unfinished.given
                }
            };
            ends += given;
            made.add(if given > 1 { given as u64 } else { 0 });
        });
        if let Err(unfinished) = finished {
            out.drop(unfinished.reason);
            ends += 1;
        }
        out.originate(ends.saturating_sub(1));
    }
}

/// Gives `out` the fragments of a finished frame whose IPv4 packet is over `mtu` bytes, in order, or the frame as it is
/// where it fits; how many that was. The frame ends with the packet.
///
/// What is a fragment already is cut further: the pieces stand where they belong in the datagram, and the last of
/// them says that more follow if the packet said so. The identification stays, also 0: it is the sender's (RFC 6864).
/// Options go into all fragments or into the first only, as their copied bit says.
fn cut<P: BufPool>(
    pool: &mut P,
    frame: P::Buf,
    mtu: usize,
    mut out: impl FnMut(&mut P, P::Buf),
) -> Result<usize, Unfinished> {
    if frame.len() <= ETHERNET_LEN + mtu {
        out(pool, frame);
        return Ok(1);
    }
    let before_all = |reason| Unfinished { reason, given: 0 };
    let ip = frame.head().get(ETHERNET_LEN..).and_then(|ip| Ipv4View::new_header_checked(ip).ok());
    let ip = ip.ok_or(before_all(DropReason::Ipv4Malformed))?;
    let headers_len = ETHERNET_LEN + ip.header_len();
    let (offset, more) = (usize::from(ip.fragment_offset()), ip.more_fragments());
    let mut first: Headers = frame.head().iter().copied().take(headers_len).collect();
    let mut later = later_headers(&first).map_err(before_all)?;
    let payload = frame.len() - headers_len;
    if offset + payload > usize::from(u16::MAX) {
        return Err(before_all(DropReason::FragmentOverflow));
    }

    let (mut done, mut given) = (0, 0);
    while done < payload {
        let headers = if done == 0 { &mut first } else { &mut later };
        let header_len = headers.len() - ETHERNET_LEN;
        let room = mtu - header_len;
        let left = payload - done;
        // All but the last are of whole units of 8 bytes. An MTU has room for more than one beside the longest header.
        let len = if left <= room { left } else { room & !7 };
        let mut piece =
            pool.alloc(headers.len() + len).ok_or(Unfinished { reason: DropReason::TxNoBuffer, given })?;
        let mut ip = Ipv4View::new_unchecked(&mut headers[ETHERNET_LEN..]);
        ip.set_total_len((header_len + len) as u16);
        ip.set_fragment_offset((offset + done) as u16);
        ip.set_more_fragments(more || len < left);
        ip.fill_checksum();
        copy(&frame, headers_len + done, &mut piece, headers.len());
        if !piece.write_at(0, headers) {
            return Err(Unfinished { reason: DropReason::TxNoBuffer, given });
        }
        piece.set_offload(Offload::default());
        out(pool, piece);
        given += 1;
        done += len;
    }
    Ok(given)
}

/// The headers of all fragments but the first: with those options that are copied.
fn later_headers(first: &[u8]) -> Result<Headers, DropReason> {
    let (fixed, options) = first.split_at(ETHERNET_LEN + IPV4_LEN);
    let mut headers: Headers = fixed.iter().copied().collect();
    for option in Ipv4Options::new(options) {
        let option = option.map_err(|_| DropReason::Ipv4Options)?;
        if option.is_copied() {
            headers.extend(option.bytes().iter().copied());
        }
    }
    while (headers.len() - ETHERNET_LEN) % 4 != 0 {
        headers.push(OPTION_END);
    }
    let header_len = headers.len() - ETHERNET_LEN;
    debug_assert!(header_len <= IPV4_LEN + IPV4_MAX_OPTIONS);
    Ipv4View::new_unchecked(&mut headers[ETHERNET_LEN..]).set_header_len(header_len);
    Ok(headers)
}
