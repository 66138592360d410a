//! What every way out calls: a frame leaves as it is where the far side takes its state, and finished where not.

use super::segment::{Unfinished, segment};
use super::{Checksum, GsoKind, checksum};
use crate::packet::{BufPool, PacketBuf};
use crate::port::TxCaps;

/// An inner transport header begins here at the earliest: behind two Ethernet and two IPv4 headers, UDP and VXLAN.
const INNER: u16 = 84;

/// True when a port with these `caps` takes the frame as it is.
#[inline]
pub fn takes(caps: TxCaps, buf: &impl PacketBuf) -> bool {
    let offload = buf.offload();
    let partial = matches!(offload.checksum, Checksum::Partial { .. });
    match offload.gso.map(|gso| gso.kind) {
        None => !partial || caps.partial_checksum || (caps.gso_tunnel && is_inner(offload.checksum)),
        // All that goes to an uplink is a tunnel packet.
        Some(_) if caps.gso_tunnel => partial,
        // A GSO frame with its checksum filled in is nothing that a virtio-net header can say.
        Some(_) if !partial || !caps.partial_checksum => false,
        Some(_) if buf.segments() > caps.segments => false,
        Some(GsoKind::Tcp4) => caps.gso_tcp4,
        Some(GsoKind::Tcp6) => caps.gso_tcp6,
        Some(GsoKind::Udp) => caps.gso_udp,
    }
}

fn is_inner(checksum: Checksum) -> bool {
    matches!(checksum, Checksum::Partial { start, .. } if start >= INNER)
}

/// Gives `out` (with the pool, for what it has to make in turn) what is to be sent for `buf` to a port with these `caps`, in order, and returns how many frames that are:
/// the frame itself, untouched or with its checksum filled in, or its segments.
///
/// A GSO frame has to be finished before it is put into a tunnel, unless the uplink takes such packets; a checksum may be filled in
/// after as well.
///
/// # Errors
/// The reason why the frame, or the rest of it, is dropped, and how many were given out before.
pub fn finish<P: BufPool>(
    pool: &mut P,
    mut buf: P::Buf,
    caps: TxCaps,
    mut out: impl FnMut(&mut P, P::Buf),
) -> Result<usize, Unfinished> {
    if !takes(caps, &buf) {
        if buf.offload().gso.is_some() {
            return segment(pool, buf, out);
        }
        checksum::complete(&mut buf).map_err(Unfinished::before_all)?;
    }
    out(pool, buf);
    Ok(1)
}
