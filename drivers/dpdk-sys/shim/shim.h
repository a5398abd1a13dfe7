/* What the device calls of DPDK. Types here are the same in every release; DPDK's own stay opaque to Rust.
 *
 * Answers: 0 or a count on success, a negative errno otherwise, unless said otherwise. */
#ifndef DEMI_DPDK_SHIM_H
#define DEMI_DPDK_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_config.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

/* ---- eal.c: the environment abstraction layer ---- */

/* Starts DPDK. All it says meanwhile, its usage text and getopt's complaints included, is captured if `capture`. */
int demi_dpdk_start(int argc, char **argv, bool capture);
/* Copies what was captured since the last call, without its end if there is no room; answers its length. */
size_t demi_dpdk_take_log(char *to, size_t room);
/* Closes what is left. DPDK cannot be started again afterwards. */
int demi_dpdk_stop(void);
/* Makes the calling thread known to DPDK, so that it has caches of its own; 1 if it was already. */
int demi_dpdk_thread_enter(void);
void demi_dpdk_thread_leave(void);
const char *demi_dpdk_version(void);
bool demi_dpdk_huge_pages(void);
/* Attaches a device: a name with its arguments, as after --vdev or -a. */
int demi_dpdk_attach(const char *arguments);

/* ---- port.c: ethernet ports ---- */

#define DEMI_DPDK_NO_PORT 0xffff

/* What a port offers, and what was agreed on. */
struct demi_dpdk_port {
	char driver[32];
	char device[64];
	uint8_t mac[6];
	/* Largest IP packet. */
	uint16_t mtu;
	/* Pairs of a receive and a transmit queue it has at most. */
	uint16_t max_queues;
	/* Descriptors of each queue; what is wanted before, what is granted after configuring. */
	uint16_t rx_descriptors;
	uint16_t tx_descriptors;
	/* Segments that a frame may consist of. */
	uint16_t max_segments;
	/* Bytes of the key that receive queues are chosen with. */
	uint16_t rss_key_bytes;
	int16_t socket;
	bool tx_checksum;
	bool rx_checksum;
	bool tso;
	bool rss;
	bool rx_interrupts;
};

struct demi_dpdk_link {
	uint32_t speed_mbps;
	bool up;
	bool full_duplex;
};

struct demi_dpdk_stats {
	uint64_t rx_frames, rx_bytes, rx_missed, rx_errors, rx_no_buffer;
	uint64_t tx_frames, tx_bytes, tx_errors;
};

struct demi_dpdk_xstat {
	char name[64];
	uint64_t value;
};

/* The first port from `from` on; DEMI_DPDK_NO_PORT: none. */
uint16_t demi_dpdk_port_next(uint16_t from);
uint16_t demi_dpdk_port_named(const char *name);
int demi_dpdk_port_look(uint16_t port, struct demi_dpdk_port *out);
/* Before it is started. `mtu` 0: as it is. */
int demi_dpdk_port_configure(uint16_t port, uint16_t queues, uint16_t mtu, struct demi_dpdk_port *agreed);
int demi_dpdk_port_queue(uint16_t port, uint16_t queue, const struct demi_dpdk_port *agreed, struct rte_mempool *pool);
int demi_dpdk_port_start(uint16_t port);
int demi_dpdk_port_set_mac(uint16_t port, const uint8_t mac[6]);
int demi_dpdk_port_promiscuous(uint16_t port, bool on);
int demi_dpdk_port_all_multicast(uint16_t port);
int demi_dpdk_port_link(uint16_t port, struct demi_dpdk_link *out);
int demi_dpdk_port_stats(uint16_t port, struct demi_dpdk_stats *out);
/* Answers how many there are; fills at most `room`. */
int demi_dpdk_port_xstats(uint16_t port, struct demi_dpdk_xstat *to, unsigned room);
/* The key that receive queues are chosen with; answers its bytes. */
int demi_dpdk_port_rss_key(uint16_t port, uint8_t *key, uint16_t room);
/* The queue of each value that the hash has after masking; answers how many. */
int demi_dpdk_port_rss_table(uint16_t port, uint16_t *queues, uint16_t room);
/* Stops and closes it, and detaches its device once no other port is on it. */
int demi_dpdk_port_close(uint16_t port);
bool demi_dpdk_port_exists(uint16_t port);
/* Whether the hardware behind it was pulled. */
bool demi_dpdk_port_removed(uint16_t port);
/* The descriptor that a receive queue's interrupt makes readable. */
int demi_dpdk_interrupt_fd(uint16_t port, uint16_t queue);
int demi_dpdk_interrupt_set(uint16_t port, uint16_t queue, bool on);

/* ---- mbuf.c: packet memory ---- */

#define DEMI_DPDK_SLOT_HEADER 64
/* Bytes of an mbuf, behind which its slot begins; where its fields lie; their types are fixed by the drivers that write them in vectors. */
enum demi_dpdk_mbuf {
	DEMI_DPDK_MBUF_BYTES = sizeof(struct rte_mbuf),
	/* 16 bits. */
	DEMI_DPDK_AT_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	/* 16 bits of references, then 16 bits of segments. */
	DEMI_DPDK_AT_REFCNT = offsetof(struct rte_mbuf, refcnt),
	DEMI_DPDK_AT_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	/* 64 bits. */
	DEMI_DPDK_AT_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	/* 32 bits. */
	DEMI_DPDK_AT_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	/* 16 bits. */
	DEMI_DPDK_AT_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	/* A pointer. */
	DEMI_DPDK_AT_POOL = offsetof(struct rte_mbuf, pool),
};

static const uint64_t DEMI_DPDK_NOT_DIRECT = RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL;
static const uint64_t DEMI_DPDK_CHECKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t DEMI_DPDK_CHECKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t DEMI_DPDK_CHECKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
/* Not filled in, but the data is known to be right: a partial checksum. */
static const uint64_t DEMI_DPDK_CHECKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t DEMI_DPDK_JOINED = RTE_MBUF_F_RX_LRO;

/* What a device is to do on a frame. */
struct demi_dpdk_offload {
	uint16_t l2_bytes, l3_bytes, l4_bytes;
	/* Payload of each segment; 0: send as is. */
	uint16_t segment_bytes;
	bool ipv6;
	bool udp;
};

/* Slots: mbufs whose private area is the slot's header. Null, and the reason in `error`, if there is no memory. */
struct rte_mempool *demi_dpdk_slots_create(const char *name, unsigned count, unsigned cache, uint16_t room, int socket,
	int *error);
/* Mbufs without room: what is sent is attached to them. */
struct rte_mempool *demi_dpdk_envelopes_create(const char *name, unsigned count, unsigned cache, int socket, int *error);
/* Plain memory in pieces that a device can read whole. */
struct rte_mempool *demi_dpdk_pieces_create(const char *name, unsigned count, unsigned bytes, int socket, int *error);
void demi_dpdk_pool_free(struct rte_mempool *pool);
unsigned demi_dpdk_pool_available(const struct rte_mempool *pool);
int demi_dpdk_pool_get(struct rte_mempool *pool, void **objects, unsigned count);
void demi_dpdk_pool_put(struct rte_mempool *pool, void *const *objects, unsigned count);
void demi_dpdk_pool_each(struct rte_mempool *pool, void (*visit)(void *context, void *object, unsigned index), void *context);

/* Receives at most `max` frames. */
uint16_t demi_dpdk_rx(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t max);
/* Payload bytes of each segment that a driver has joined to this frame. */
uint16_t demi_dpdk_segment_bytes(const struct rte_mbuf *mbuf);
/* Copies a frame to `to`, which holds it. */
void demi_dpdk_copy(const struct rte_mbuf *mbuf, void *to);
void demi_dpdk_free(struct rte_mbuf *mbuf);

/* An mbuf that shows memory of a slot, which is a piece if `large`; `done` is told when the device is through, by whichever thread
 * frees the mbuf. Null: none free. */
struct rte_mbuf *demi_dpdk_envelope(struct rte_mempool *envelopes, void *slot, bool large, void *bytes_at, uint16_t bytes,
	void (*done)(void *context, void *slot), void *context);
/* Appends a segment. */
void demi_dpdk_chain(struct rte_mbuf *head, struct rte_mbuf *last, struct rte_mbuf *segment);
struct rte_mbuf *demi_dpdk_last(struct rte_mbuf *segment);
void demi_dpdk_ask(struct rte_mbuf *head, const struct demi_dpdk_offload *offload);
/* Takes a frame apart that is not sent: envelopes are freed, mbufs of slots are single again. */
void demi_dpdk_undo(struct rte_mbuf *head);
/* How many of the frames the driver accepts as they are; it may write their headers. */
uint16_t demi_dpdk_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t demi_dpdk_tx(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
/* Has the driver give back what it has sent. */
void demi_dpdk_tx_done(uint16_t port, uint16_t queue);

/* ---- ring.c: ports that are rings in memory ---- */
#ifdef DEMI_DPDK_NET_RING
/* Two ports, `NAMEa` and `NAMEb`, each receiving what the other one sends. */
int demi_dpdk_crossed_rings(const char *name, unsigned entries, uint16_t ports[2]);
/* A loop of testpmd's shape over a port that receives its own frames: allocates, sends, receives, frees. False: no memory. */
bool demi_dpdk_loop(uint16_t port, struct rte_mempool *pool, uint16_t burst, uint64_t frames);
/* Looks for frames that are not there. */
void demi_dpdk_empty_polls(uint16_t port, uint64_t count);
#endif

#endif
