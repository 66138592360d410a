//! From outside: frames are built by etherparse and checked by etherparse and smoltcp, which know nothing of this code.

mod finishing;
pub(crate) mod frames;
mod hostile;
mod nic;
mod state;
mod unfilled;
