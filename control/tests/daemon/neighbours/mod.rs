//! ARP and neighbour discovery: what weft answers for whom, and what it makes of what others say.

mod announcements;
mod arp;
mod conflicts;
mod discovery;
mod forbidden;
mod independent;
mod kernel;
mod stations;
