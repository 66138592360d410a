//! The kernel's doors against the kernel itself, in network namespaces of the tests' own. Needs root.

mod frames;
mod lab;
mod packet_link;
mod packet_rx;
mod packet_tx;
mod tap;
mod udp;
mod udp_claim;
mod xdp;
