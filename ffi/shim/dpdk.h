/* What Rust sees of DPDK beside its exported functions: the inline ones by a name that can be linked to, and the
 * constants that are macros. No logic lives here. */
#ifndef WEFT_SHIM_DPDK_H
#define WEFT_SHIM_DPDK_H

#include <stddef.h>
#include <stdint.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <rte_mempool.h>
#include <rte_vhost.h>
#ifdef WEFT_LOOKUP
#include <rte_fib.h>
#include <rte_hash.h>
#endif

/* Where the fields of an mbuf are. They move between releases, and unnamed unions make a generated struct hard to
 * read: Rust takes the mbuf as a block of bytes with these offsets. */
enum weft_mbuf_field {
	WEFT_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	WEFT_MBUF_REARM = offsetof(struct rte_mbuf, rearm_data),
	WEFT_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	WEFT_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	WEFT_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	WEFT_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	WEFT_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	WEFT_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	WEFT_MBUF_HASH = offsetof(struct rte_mbuf, hash),
	WEFT_MBUF_HASH_SIZE = sizeof(((struct rte_mbuf *)0)->hash),
	WEFT_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	WEFT_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	WEFT_MBUF_POOL = offsetof(struct rte_mbuf, pool),
	WEFT_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
};

/* Where the parts of `tx_offload` begin in it, in bits, and how wide they are. */
enum weft_mbuf_lengths {
	WEFT_L2_LEN_AT = RTE_MBUF_L2_LEN_OFS,
	WEFT_L2_LEN_BITS = RTE_MBUF_L2_LEN_BITS,
	WEFT_L3_LEN_AT = RTE_MBUF_L3_LEN_OFS,
	WEFT_L3_LEN_BITS = RTE_MBUF_L3_LEN_BITS,
	WEFT_L4_LEN_AT = RTE_MBUF_L4_LEN_OFS,
	WEFT_L4_LEN_BITS = RTE_MBUF_L4_LEN_BITS,
	WEFT_TSO_SEGSZ_AT = RTE_MBUF_TSO_SEGSZ_OFS,
};

enum weft_size {
	WEFT_MBUF_SIZE = sizeof(struct rte_mbuf),
	WEFT_MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM,
	WEFT_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE,
	WEFT_MAX_ETHPORTS = RTE_MAX_ETHPORTS,
	WEFT_DEV_NAME_MAX = RTE_DEV_NAME_MAX_LEN,
	WEFT_PATH_MAX = 4096,
};

/* The data of the mbuf belongs to another one. */
static const uint64_t WEFT_MBUF_INDIRECT = RTE_MBUF_F_INDIRECT;
/* The last of the flags that programs may ask for. */
static const uint64_t WEFT_MBUF_LAST_FREE = RTE_MBUF_F_LAST_FREE;
/* What a driver says of a received packet. */
static const uint64_t WEFT_MBUF_RX_L4_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t WEFT_MBUF_RX_L4_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t WEFT_MBUF_RX_L4_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t WEFT_MBUF_RX_L4_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t WEFT_MBUF_RX_LRO = RTE_MBUF_F_RX_LRO;
/* What a driver is asked to do with a packet that it sends. */
static const uint64_t WEFT_MBUF_TX_ALL = RTE_MBUF_F_TX_OFFLOAD_MASK;
static const uint64_t WEFT_MBUF_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t WEFT_MBUF_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t WEFT_MBUF_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t WEFT_MBUF_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t WEFT_MBUF_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t WEFT_MBUF_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;
static const uint32_t WEFT_MEMPOOL_NO_IOVA_CONTIG = RTE_MEMPOOL_F_NO_IOVA_CONTIG;
static const uint64_t WEFT_RX_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t WEFT_RX_CHECKSUMS = RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t WEFT_RX_LRO = RTE_ETH_RX_OFFLOAD_TCP_LRO;
static const uint64_t WEFT_TX_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t WEFT_TX_CHECKSUMS = RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t WEFT_TX_IP_CHECKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t WEFT_TX_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t WEFT_VHOST_CLIENT = RTE_VHOST_USER_CLIENT;
static const uint64_t WEFT_VHOST_COMPLIANT_OL_FLAGS = RTE_VHOST_USER_NET_COMPLIANT_OL_FLAGS;

/* The calling thread's rte_errno. */
int weft_errno(void);

/* Everything that DPDK logs goes to `sink` from now on; `level` is RTE_LOG_*. 0, or -1 without memory. */
typedef void (*weft_log_sink)(uint32_t level, const char *text, size_t len);
int weft_log_open(weft_log_sink sink);

/* The device's name in `devargs`, cut to `room` bytes with a NUL. 0 or a negative errno. */
int weft_dev_name(const char *devargs, char *name, size_t room);
/* The device that a port belongs to; NULL for an unknown port. */
struct rte_device *weft_eth_device(uint16_t port);

/* One fresh mbuf; NULL from an empty pool. */
struct rte_mbuf *weft_mbuf_alloc(struct rte_mempool *pool);
/* `count` fresh mbufs or none; 0 or a negative errno. */
int weft_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);
/* Frees the whole chain. */
void weft_mbuf_free(struct rte_mbuf *mbuf);
/* Frees this segment alone. */
void weft_mbuf_free_seg(struct rte_mbuf *mbuf);

/* Gives what the calling lcore has in its mempool caches back to the pools. */
void weft_mempool_caches_flush(void);

uint16_t weft_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t room);
uint16_t weft_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
/* Has the driver look at packets and prepare their headers; how many were fit, from the front. */
uint16_t weft_eth_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

#endif
