#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>

#include <rte_devargs.h>

#include "dpdk.h"

int weft_errno(void)
{
	return rte_errno;
}

static weft_log_sink log_sink;

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	(void)cookie;
	log_sink((uint32_t)rte_log_cur_msg_loglevel(), text, len);
	return (ssize_t)len;
}

int weft_log_open(weft_log_sink sink)
{
	cookie_io_functions_t io = { .write = log_write };
	FILE *stream = fopencookie(NULL, "w", io);

	if (stream == NULL)
		return -1;
	log_sink = sink;
	/* DPDK flushes after every message: with the stream's default buffer each arrives in one piece. */
	return rte_openlog_stream(stream);
}

int weft_dev_name(const char *devargs, char *name, size_t room)
{
	struct rte_devargs args;
	int rc;

	memset(&args, 0, sizeof(args));
	rc = rte_devargs_parse(&args, devargs);
	if (rc != 0)
		return rc < 0 ? rc : -rc;
	snprintf(name, room, "%s", args.name);
	rte_devargs_reset(&args);
	return 0;
}

struct rte_device *weft_eth_device(uint16_t port)
{
	struct rte_eth_dev_info info;

	if (rte_eth_dev_info_get(port, &info) != 0)
		return NULL;
	return info.device;
}

struct rte_mbuf *weft_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int weft_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void weft_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

void weft_mbuf_free_seg(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free_seg(mbuf);
}

static void flush_one(struct rte_mempool *pool, void *arg)
{
	struct rte_mempool_cache *cache = rte_mempool_default_cache(pool, rte_lcore_id());

	(void)arg;
	if (cache != NULL)
		rte_mempool_cache_flush(cache, pool);
}

void weft_mempool_caches_flush(void)
{
	rte_mempool_walk(flush_one, NULL);
}

uint16_t weft_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t room)
{
	return rte_eth_rx_burst(port, queue, mbufs, room);
}

uint16_t weft_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

uint16_t weft_eth_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_prepare(port, queue, mbufs, count);
}
