#define _GNU_SOURCE
#include "shim.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rte_log.h>
#include <rte_memzone.h>

uint16_t rum_dpdk_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t rum_dpdk_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

struct rte_mbuf *rum_dpdk_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

void rum_dpdk_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

uint8_t *rum_dpdk_mbuf_append(struct rte_mbuf *mbuf, uint16_t len)
{
	return (uint8_t *)rte_pktmbuf_append(mbuf, len);
}

uint8_t *rum_dpdk_mbuf_data(struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_mtod(mbuf, uint8_t *);
}

uint16_t rum_dpdk_mbuf_data_len(const struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_data_len(mbuf);
}

uint16_t rum_dpdk_mbuf_segments(const struct rte_mbuf *mbuf)
{
	return mbuf->nb_segs;
}

static void free_memzone(struct rte_mempool_memhdr *chunk, void *memzone)
{
	(void)chunk;
	rte_memzone_free(memzone);
}

/* Gives the pool memory that starts on a page, for objects of a page each: rte_mempool_populate_default would start
 * anywhere, skip to the first whole page, and so end one page late. */
static int populate_by_pages(struct rte_mempool *pool, const char *name, uint32_t count, size_t page, int socket)
{
	const struct rte_memzone *memzone =
		rte_memzone_reserve_aligned(name, count * page, socket, RTE_MEMZONE_IOVA_CONTIG, page);
	if (memzone == NULL)
		return -rte_errno;
	int result = rte_mempool_populate_iova(pool, memzone->addr, memzone->iova, memzone->len, free_memzone,
					       (void *)(uintptr_t)memzone);
	if (result < 0)
		rte_memzone_free(memzone);
	return result;
}

struct rte_mempool *rum_dpdk_pool_create(const char *name, uint32_t mbufs, uint16_t room, int socket, const char *ops)
{
	struct rte_pktmbuf_pool_private private = { .mbuf_data_room_size = room };
	struct rte_mempool *pool = rte_mempool_create_empty(name, mbufs, sizeof(struct rte_mbuf) + room, 0,
							    sizeof(private), socket, RTE_MEMPOOL_F_NO_SPREAD);
	if (pool == NULL)
		return NULL;
	int result = rte_mempool_set_ops_byname(pool, ops, NULL);
	if (result == 0) {
		rte_pktmbuf_pool_init(pool, &private);
		const size_t object = pool->header_size + pool->elt_size + pool->trailer_size;
		const size_t page = (size_t)sysconf(_SC_PAGESIZE);
		result = object == page ? populate_by_pages(pool, name, mbufs, page, socket)
					: rte_mempool_populate_default(pool);
	}
	if (result < 0) {
		rte_mempool_free(pool);
		rte_errno = -result;
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}

uint32_t rum_dpdk_pool_available(const struct rte_mempool *pool)
{
	return rte_mempool_avail_count(pool);
}

int rum_dpdk_errno(void)
{
	return rte_errno;
}

/* The stream's own lock (flockfile) guards the buffer: stdio holds it around log_write. */
static FILE *log_stream;
static char log_text[4096];
static size_t log_len;

static ssize_t log_write(void *cookie, const char *bytes, size_t len)
{
	(void)cookie;
	const size_t taken = len;
	if (len >= sizeof(log_text)) {
		bytes += len - sizeof(log_text);
		len = sizeof(log_text);
	}
	if (log_len + len > sizeof(log_text)) {
		const size_t drop = log_len + len - sizeof(log_text);
		memmove(log_text, log_text + drop, log_len - drop);
		log_len -= drop;
	}
	memcpy(log_text + log_len, bytes, len);
	log_len += len;
	return (ssize_t)taken;
}

int rum_dpdk_log_capture(void)
{
	const cookie_io_functions_t functions = { .write = log_write };
	log_stream = fopencookie(NULL, "w", functions);
	return log_stream != NULL ? rte_openlog_stream(log_stream) : -1;
}

size_t rum_dpdk_log_take(char *text, size_t size)
{
	if (log_stream == NULL || size == 0)
		return 0;
	flockfile(log_stream);
	fflush_unlocked(log_stream);
	const size_t len = log_len < size - 1 ? log_len : size - 1;
	memcpy(text, log_text + log_len - len, len);
	text[len] = '\0';
	log_len = 0;
	funlockfile(log_stream);
	return len;
}
