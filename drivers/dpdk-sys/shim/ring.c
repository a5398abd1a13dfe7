/* Ports that are rings in memory, and a loop to measure beside. */
#include "shim.h"

#include <errno.h>
#include <stdio.h>

#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_ring.h>

int demi_dpdk_crossed_rings(const char *name, unsigned entries, uint16_t ports[2])
{
	struct rte_ring *rings[2];
	char names[2][RTE_RING_NAMESIZE];
	for (int at = 0; at < 2; at++) {
		snprintf(names[at], sizeof(names[at]), "%s%c", name, 'a' + at);
		rings[at] = rte_ring_create(names[at], entries, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
		if (rings[at] == NULL)
			return -rte_errno;
	}
	for (int at = 0; at < 2; at++) {
		int port = rte_eth_from_rings(names[at], &rings[at], 1, &rings[1 - at], 1, SOCKET_ID_ANY);
		if (port < 0)
			return -rte_errno;
		ports[at] = (uint16_t)port;
	}
	return 0;
}

bool demi_dpdk_loop(uint16_t port, struct rte_mempool *pool, uint16_t burst, uint64_t frames)
{
	struct rte_mbuf *mbufs[64];
	if (burst > 64)
		return false;
	for (uint64_t done = 0; done < frames;) {
		if (rte_pktmbuf_alloc_bulk(pool, mbufs, burst) != 0)
			return false;
		for (uint16_t at = 0; at < burst; at++)
			rte_pktmbuf_append(mbufs[at], 60);
		uint16_t sent = rte_eth_tx_burst(port, 0, mbufs, burst);
		rte_pktmbuf_free_bulk(mbufs + sent, burst - sent);
		uint16_t got = rte_eth_rx_burst(port, 0, mbufs, burst);
		for (uint16_t at = 0; at < got; at++)
			rte_pktmbuf_free(mbufs[at]);
		done += got;
	}
	return true;
}

void demi_dpdk_empty_polls(uint16_t port, uint64_t count)
{
	struct rte_mbuf *mbufs[32];
	for (uint64_t at = 0; at < count; at++)
		(void)rte_eth_rx_burst(port, 0, mbufs, 32);
}
