//! Raw bindings to the installed DPDK: what `rum-net`'s DPDK port calls, and functions named `rum_dpdk_*` for what
//! exists in DPDK's headers only as inline code. Nothing here is safe; safety lives above.
//!
//! The libraries are linked shared. Loading them runs none of EAL: drivers are plugins that `rte_eal_init` loads.
#![allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals)]
#![allow(unsafe_op_in_unsafe_fn, unnecessary_transmutes)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
