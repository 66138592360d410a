//! The generated bindings. Nothing outside of [`super`] sees them.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code, missing_docs)]
#![allow(unsafe_op_in_unsafe_fn, unreachable_pub, clippy::all, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/dpdk.rs"));
