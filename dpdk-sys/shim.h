/* What bindgen reads: DPDK's headers, and functions for what exists in them only as inline code or as a macro. */
#ifndef RUM_DPDK_SHIM_H
#define RUM_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_config.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

uint16_t rum_dpdk_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t rum_dpdk_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

struct rte_mbuf *rum_dpdk_mbuf_alloc(struct rte_mempool *pool);
void rum_dpdk_mbuf_free(struct rte_mbuf *mbuf);
/* Grows an mbuf at its end by `len` bytes and returns where they start, or NULL when there is no room. */
uint8_t *rum_dpdk_mbuf_append(struct rte_mbuf *mbuf, uint16_t len);
/* The first segment's bytes. */
uint8_t *rum_dpdk_mbuf_data(struct rte_mbuf *mbuf);
uint16_t rum_dpdk_mbuf_data_len(const struct rte_mbuf *mbuf);
uint16_t rum_dpdk_mbuf_segments(const struct rte_mbuf *mbuf);

/* As rte_pktmbuf_pool_create_by_ops without a cache and without private data, but with objects of just the size asked
 * for: DPDK's own adds cache lines to spread them over memory channels. Objects of a page each (64 bytes of the pool,
 * the mbuf and `room`) start on pages and leave no gap. Returns NULL and sets rte_errno on failure. */
struct rte_mempool *rum_dpdk_pool_create(const char *name, uint32_t mbufs, uint16_t room, int socket, const char *ops);
/* Mbufs of a pool that are not in use. Slow: for tests and statistics. */
uint32_t rum_dpdk_pool_available(const struct rte_mempool *pool);
/* The error of the last DPDK call in this thread that reports by rte_errno. */
int rum_dpdk_errno(void);

/* Sends DPDK's log to a buffer of this process in place of stderr and syslog. Call it once, before rte_eal_init.
 * Returns 0, or -1 when there is no memory. */
int rum_dpdk_log_capture(void);
/* Copies the captured log's last `size - 1` bytes at most, ends them with a NUL, empties the buffer and returns
 * the number of bytes copied. */
size_t rum_dpdk_log_take(char *text, size_t size);

/* Size or offset of something the bindings describe, as the C compiler sees it. */
struct rum_dpdk_layout {
	const char *what;
	size_t bytes;
};
/* The table of all layouts that tests/layout.rs compares. */
const struct rum_dpdk_layout *rum_dpdk_layouts(size_t *count);

#endif
