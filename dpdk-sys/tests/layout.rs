//! Compares the bindings' sizes and offsets with the C compiler's.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    mem::{offset_of, size_of},
    slice,
};

use dpdk_sys::{
    rte_eth_conf, rte_eth_dev_info, rte_eth_link, rte_eth_rxmode, rte_eth_stats, rte_eth_txmode, rte_ether_addr,
    rte_mbuf, rum_dpdk_layouts,
};

/// One map entry a size (`size type`) or an offset (`field type field`), under the C side's name for it.
macro_rules! layouts {
    ($($kind:ident $type:ident $($field:ident)?),* $(,)?) => {
        BTreeMap::from([$(layouts!(@ $kind $type $($field)?)),*])
    };
    (@ size $type:ident) => { (stringify!($type).to_owned(), size_of::<$type>()) };
    (@ field $type:ident $field:ident) => {
        (concat!(stringify!($type), ".", stringify!($field)).to_owned(), offset_of!($type, $field))
    };
}

fn rust_layouts() -> BTreeMap<String, usize> {
    layouts![
        size rte_ether_addr, field rte_ether_addr addr_bytes,
        size rte_eth_conf, field rte_eth_conf rxmode, field rte_eth_conf txmode,
        size rte_eth_rxmode, field rte_eth_rxmode mq_mode, field rte_eth_rxmode mtu, field rte_eth_rxmode offloads,
        size rte_eth_txmode, field rte_eth_txmode mq_mode, field rte_eth_txmode offloads,
        size rte_eth_dev_info, field rte_eth_dev_info device, field rte_eth_dev_info driver_name,
        field rte_eth_dev_info if_index, field rte_eth_dev_info min_mtu, field rte_eth_dev_info max_mtu,
        field rte_eth_dev_info max_rx_pktlen, field rte_eth_dev_info rx_offload_capa,
        field rte_eth_dev_info rx_desc_lim, field rte_eth_dev_info tx_desc_lim,
        size rte_eth_stats, field rte_eth_stats ipackets, field rte_eth_stats opackets,
        field rte_eth_stats imissed, field rte_eth_stats ierrors, field rte_eth_stats oerrors,
        field rte_eth_stats rx_nombuf,
        size rte_eth_link, field rte_eth_link link_speed,
        size rte_mbuf,
    ]
}

fn c_layouts() -> BTreeMap<String, usize> {
    let mut count = 0;
    // SAFETY: the shim returns a constant table and stores its number of entries in `count`.
    let table = unsafe { slice::from_raw_parts(rum_dpdk_layouts(&mut count), count) };
    table
        .iter()
        // SAFETY: `what` is a string literal of the shim.
        .map(|entry| (unsafe { CStr::from_ptr(entry.what) }.to_string_lossy().into_owned(), entry.bytes))
        .collect()
}

#[test]
fn bindings_have_the_c_compilers_layout() {
    assert_eq!(rust_layouts(), c_layouts());
}

#[test]
fn captured_log_is_empty_without_eal() {
    let mut text = [0x55u8; 16];
    // SAFETY: the buffer is as long as told.
    let len = unsafe { dpdk_sys::rum_dpdk_log_take(text.as_mut_ptr().cast(), text.len()) };
    assert_eq!(len, 0);
}
