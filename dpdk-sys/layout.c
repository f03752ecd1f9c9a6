/* The layouts that the bindings must agree with. */
#include "shim.h"

#define SIZE(type) { #type, sizeof(struct type) }
#define FIELD(type, field) { #type "." #field, offsetof(struct type, field) }

static const struct rum_dpdk_layout layouts[] = {
	SIZE(rte_ether_addr),
	FIELD(rte_ether_addr, addr_bytes),
	SIZE(rte_eth_conf),
	FIELD(rte_eth_conf, rxmode),
	FIELD(rte_eth_conf, txmode),
	SIZE(rte_eth_rxmode),
	FIELD(rte_eth_rxmode, mq_mode),
	FIELD(rte_eth_rxmode, mtu),
	FIELD(rte_eth_rxmode, offloads),
	SIZE(rte_eth_txmode),
	FIELD(rte_eth_txmode, mq_mode),
	FIELD(rte_eth_txmode, offloads),
	SIZE(rte_eth_dev_info),
	FIELD(rte_eth_dev_info, device),
	FIELD(rte_eth_dev_info, driver_name),
	FIELD(rte_eth_dev_info, if_index),
	FIELD(rte_eth_dev_info, min_mtu),
	FIELD(rte_eth_dev_info, max_mtu),
	FIELD(rte_eth_dev_info, max_rx_pktlen),
	FIELD(rte_eth_dev_info, rx_offload_capa),
	FIELD(rte_eth_dev_info, rx_desc_lim),
	FIELD(rte_eth_dev_info, tx_desc_lim),
	SIZE(rte_eth_stats),
	FIELD(rte_eth_stats, ipackets),
	FIELD(rte_eth_stats, opackets),
	FIELD(rte_eth_stats, imissed),
	FIELD(rte_eth_stats, ierrors),
	FIELD(rte_eth_stats, oerrors),
	FIELD(rte_eth_stats, rx_nombuf),
	SIZE(rte_eth_link),
	FIELD(rte_eth_link, link_speed),
	SIZE(rte_mbuf),
};

const struct rum_dpdk_layout *rum_dpdk_layouts(size_t *count)
{
	*count = sizeof(layouts) / sizeof(layouts[0]);
	return layouts;
}
