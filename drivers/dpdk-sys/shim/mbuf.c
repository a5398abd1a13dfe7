/* Packet memory and bursts: DPDK's inline functions, a burst at a time. */
#include "shim.h"

#include <errno.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_ethdev.h>

/* A slot is what follows an mbuf: its header fills the private area, its data area is the room. */
static struct rte_mbuf *mbuf_of(void *slot)
{
	return (struct rte_mbuf *)slot - 1;
}

_Static_assert(sizeof(((struct rte_mbuf *)0)->data_off) == 2, "data_off");
_Static_assert(sizeof(((struct rte_mbuf *)0)->refcnt) == 2, "refcnt");
_Static_assert(sizeof(((struct rte_mbuf *)0)->nb_segs) == 2, "nb_segs");
_Static_assert(sizeof(((struct rte_mbuf *)0)->ol_flags) == 8, "ol_flags");
_Static_assert(sizeof(((struct rte_mbuf *)0)->pkt_len) == 4, "pkt_len");
_Static_assert(sizeof(((struct rte_mbuf *)0)->data_len) == 2, "data_len");

static struct rte_mempool *made(struct rte_mempool *pool, int *error)
{
	*error = pool == NULL ? (rte_errno > 0 ? rte_errno : ENOMEM) : 0;
	return pool;
}

struct rte_mempool *demi_dpdk_slots_create(const char *name, unsigned count, unsigned cache, uint16_t room, int socket,
	int *error)
{
	return made(rte_pktmbuf_pool_create(name, count, cache, DEMI_DPDK_SLOT_HEADER, room, socket), error);
}

/* What an envelope carries in its private area. */
struct envelope {
	struct rte_mbuf_ext_shared_info shared;
	void (*done)(void *context, void *slot);
	void *context;
	void *slot;
};

static void envelope_done(void *address, void *opaque)
{
	(void)address;
	struct envelope *envelope = opaque;
	envelope->done(envelope->context, envelope->slot);
}

struct rte_mempool *demi_dpdk_envelopes_create(const char *name, unsigned count, unsigned cache, int socket, int *error)
{
	uint16_t private_bytes = RTE_ALIGN(sizeof(struct envelope), RTE_MBUF_PRIV_ALIGN);
	return made(rte_pktmbuf_pool_create(name, count, cache, private_bytes, 0, socket), error);
}

struct rte_mempool *demi_dpdk_pieces_create(const char *name, unsigned count, unsigned bytes, int socket, int *error)
{
	return made(rte_mempool_create(name, count, bytes, 0, 0, NULL, NULL, NULL, NULL, socket, 0), error);
}

void demi_dpdk_pool_free(struct rte_mempool *pool)
{
	rte_mempool_free(pool);
}

unsigned demi_dpdk_pool_available(const struct rte_mempool *pool)
{
	return rte_mempool_avail_count(pool);
}

int demi_dpdk_pool_get(struct rte_mempool *pool, void **objects, unsigned count)
{
	return rte_mempool_get_bulk(pool, objects, count);
}

void demi_dpdk_pool_put(struct rte_mempool *pool, void *const *objects, unsigned count)
{
	rte_mempool_put_bulk(pool, objects, count);
}

struct visit {
	void (*visit)(void *, void *, unsigned);
	void *context;
};

static void visit_one(struct rte_mempool *pool, void *context, void *object, unsigned index)
{
	(void)pool;
	struct visit *visit = context;
	visit->visit(visit->context, object, index);
}

void demi_dpdk_pool_each(struct rte_mempool *pool, void (*visit)(void *context, void *object, unsigned index), void *context)
{
	struct visit each = { visit, context };
	rte_mempool_obj_iter(pool, visit_one, &each);
}

static __rte_noinline uint16_t rx_with_callbacks(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t max)
{
	return rte_eth_rx_burst(port, queue, mbufs, max);
}

uint16_t demi_dpdk_rx(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t max)
{
	/* As rte_eth_rx_burst, but that callbacks (rte_pdump's) are looked for first: without them this is a jump, and nothing has
	 * to be kept across a call. One that comes meanwhile sees the next burst. */
	const struct rte_eth_fp_ops *ops = &rte_eth_fp_ops[port];
	void *const *callbacks = (void *const *)ops->rxq.clbk;
	if (unlikely(__atomic_load_n(&callbacks[queue], __ATOMIC_RELAXED) != NULL))
		return rx_with_callbacks(port, queue, mbufs, max);
	return ops->rx_pkt_burst(ops->rxq.data[queue], mbufs, max);
}

uint16_t demi_dpdk_segment_bytes(const struct rte_mbuf *mbuf)
{
	return mbuf->tso_segsz;
}

void demi_dpdk_copy(const struct rte_mbuf *mbuf, void *to)
{
	char *at = to;
	for (; mbuf != NULL; mbuf = mbuf->next) {
		memcpy(at, rte_pktmbuf_mtod(mbuf, const void *), mbuf->data_len);
		at += mbuf->data_len;
	}
}

void demi_dpdk_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

struct rte_mbuf *demi_dpdk_envelope(struct rte_mempool *envelopes, void *slot, bool large, void *bytes_at, uint16_t bytes,
	void (*done)(void *context, void *slot), void *context)
{
	struct rte_mbuf *mbuf = rte_pktmbuf_alloc(envelopes);
	if (mbuf == NULL)
		return NULL;
	struct envelope *envelope = rte_mbuf_to_priv(mbuf);
	envelope->shared.free_cb = envelope_done;
	envelope->shared.fcb_opaque = envelope;
	envelope->done = done;
	envelope->context = context;
	envelope->slot = slot;
	rte_mbuf_ext_refcnt_set(&envelope->shared, 1);
	/* What the pool's element begins with: an mbuf, or the slot itself. */
	const void *object = large ? slot : mbuf_of(slot);
	rte_iova_t iova = rte_mempool_virt2iova(object) + (rte_iova_t)((const char *)bytes_at - (const char *)object);
	rte_pktmbuf_attach_extbuf(mbuf, bytes_at, iova, bytes, &envelope->shared);
	mbuf->data_len = bytes;
	mbuf->pkt_len = bytes;
	return mbuf;
}

void demi_dpdk_chain(struct rte_mbuf *head, struct rte_mbuf *last, struct rte_mbuf *segment)
{
	last->next = segment;
	head->nb_segs += segment->nb_segs;
	head->pkt_len += segment->pkt_len;
}

struct rte_mbuf *demi_dpdk_last(struct rte_mbuf *segment)
{
	while (segment->next != NULL)
		segment = segment->next;
	return segment;
}

void demi_dpdk_ask(struct rte_mbuf *head, const struct demi_dpdk_offload *offload)
{
	head->tx_offload = 0;
	head->l2_len = offload->l2_bytes;
	head->l3_len = offload->l3_bytes;
	head->l4_len = offload->l4_bytes;
	uint64_t flags = offload->ipv6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
	flags |= offload->udp ? RTE_MBUF_F_TX_UDP_CKSUM : RTE_MBUF_F_TX_TCP_CKSUM;
	if (offload->segment_bytes != 0) {
		head->tso_segsz = offload->segment_bytes;
		flags |= RTE_MBUF_F_TX_TCP_SEG | (offload->ipv6 ? 0 : RTE_MBUF_F_TX_IP_CKSUM);
	}
	head->ol_flags |= flags;
}

void demi_dpdk_undo(struct rte_mbuf *head)
{
	while (head != NULL) {
		struct rte_mbuf *next = head->next;
		head->next = NULL;
		head->nb_segs = 1;
		if (RTE_MBUF_HAS_EXTBUF(head))
			rte_pktmbuf_free_seg(head);
		head = next;
	}
}

uint16_t demi_dpdk_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_prepare(port, queue, mbufs, count);
}

static __rte_noinline uint16_t tx_with_callbacks(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

uint16_t demi_dpdk_tx(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	/* As demi_dpdk_rx. */
	const struct rte_eth_fp_ops *ops = &rte_eth_fp_ops[port];
	void *const *callbacks = (void *const *)ops->txq.clbk;
	if (unlikely(__atomic_load_n(&callbacks[queue], __ATOMIC_RELAXED) != NULL))
		return tx_with_callbacks(port, queue, mbufs, count);
	return ops->tx_pkt_burst(ops->txq.data[queue], mbufs, count);
}

void demi_dpdk_tx_done(uint16_t port, uint16_t queue)
{
	/* Drivers without it free what they have sent when they are given more. */
	(void)rte_eth_tx_done_cleanup(port, queue, 0);
}
