/* Ethernet ports: what they offer, how they are set up, started and closed. */
#include "shim.h"

#include <errno.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>

/* Toeplitz with this key hashes both directions of a flow alike. */
static uint8_t symmetric_key[64] = {
	0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a,
	0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a,
	0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a,
	0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a,
};

/* What every NIC with jumbo frames receives into one buffer. */
static const uint16_t LARGEST_WHOLE_MTU = 9216;
static const uint64_t RSS_TYPES = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
static const uint64_t RX_CHECKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t TX_CHECKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;

uint16_t demi_dpdk_port_next(uint16_t from)
{
	uint64_t next = rte_eth_find_next_owned_by(from, RTE_ETH_DEV_NO_OWNER);
	return next < RTE_MAX_ETHPORTS ? (uint16_t)next : DEMI_DPDK_NO_PORT;
}

uint16_t demi_dpdk_port_named(const char *name)
{
	uint16_t port;
	return rte_eth_dev_get_port_by_name(name, &port) == 0 ? port : DEMI_DPDK_NO_PORT;
}

bool demi_dpdk_port_exists(uint16_t port)
{
	return rte_eth_dev_is_valid_port(port);
}

bool demi_dpdk_port_removed(uint16_t port)
{
	return rte_eth_dev_is_removed(port) != 0;
}

static uint16_t smaller(uint16_t a, uint16_t b)
{
	return a < b ? a : b;
}

int demi_dpdk_port_look(uint16_t port, struct demi_dpdk_port *out)
{
	struct rte_eth_dev_info info;
	int answer = rte_eth_dev_info_get(port, &info);
	if (answer != 0)
		return answer;
	memset(out, 0, sizeof(*out));
	strncpy(out->driver, info.driver_name ? info.driver_name : "", sizeof(out->driver) - 1);
	char name[RTE_ETH_NAME_MAX_LEN];
	if (rte_eth_dev_get_name_by_port(port, name) == 0)
		memcpy(out->device, name, sizeof(out->device) < sizeof(name) ? sizeof(out->device) : sizeof(name));
	out->device[sizeof(out->device) - 1] = 0;
	struct rte_ether_addr mac;
	answer = rte_eth_macaddr_get(port, &mac);
	if (answer != 0)
		return answer;
	memcpy(out->mac, mac.addr_bytes, sizeof(out->mac));
	answer = rte_eth_dev_get_mtu(port, &out->mtu);
	if (answer != 0)
		return answer;
	out->max_queues = smaller(info.max_rx_queues, info.max_tx_queues);
	out->tx_checksum = (info.tx_offload_capa & TX_CHECKSUM) == TX_CHECKSUM;
	out->rx_checksum = (info.rx_offload_capa & RX_CHECKSUM) == RX_CHECKSUM;
	/* Cutting a segment takes new checksums and several pieces. */
	out->tso = out->tx_checksum && (info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_TSO) &&
		   (info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) &&
		   (info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM);
	uint16_t segments = info.tx_desc_lim.nb_mtu_seg_max;
	if (segments == 0)
		segments = info.tx_desc_lim.nb_seg_max;
	if (segments == 0)
		segments = UINT16_MAX;
	out->max_segments = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS ? segments : 1;
	out->rss = (info.flow_type_rss_offloads & RSS_TYPES) != 0;
	out->rss_key_bytes = info.hash_key_size;
	out->socket = (int16_t)rte_eth_dev_socket_id(port);
	return 0;
}

int demi_dpdk_port_configure(uint16_t port, uint16_t queues, uint16_t mtu, struct demi_dpdk_port *agreed)
{
	struct rte_eth_dev_info info;
	int answer = rte_eth_dev_info_get(port, &info);
	if (answer != 0)
		return answer;
	struct rte_eth_conf conf;
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = mtu != 0 ? mtu : agreed->mtu;
	uint64_t rx = info.rx_offload_capa, tx = info.tx_offload_capa;
	conf.rxmode.offloads = agreed->rx_checksum ? RX_CHECKSUM : 0;
	/* Receive buffers hold any frame, so that drivers may take their short way; beyond jumbo frames hardware has no such buffers. */
	if (conf.rxmode.mtu > LARGEST_WHOLE_MTU)
		conf.rxmode.offloads |= rx & RTE_ETH_RX_OFFLOAD_SCATTER;
	conf.txmode.offloads = (agreed->tx_checksum ? TX_CHECKSUM : 0) | (tx & RTE_ETH_TX_OFFLOAD_MULTI_SEGS);
	if (agreed->tso)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_TCP_TSO | RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
	if (queues > 1 && agreed->rss) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads & RSS_TYPES;
		if (agreed->rss_key_bytes > 0 && agreed->rss_key_bytes <= sizeof(symmetric_key)) {
			conf.rx_adv_conf.rss_conf.rss_key = symmetric_key;
			conf.rx_adv_conf.rss_conf.rss_key_len = (uint8_t)agreed->rss_key_bytes;
		}
	}
	/* A driver without interrupts refuses them here. */
	conf.intr_conf.rxq = 1;
	answer = rte_eth_dev_configure(port, queues, queues, &conf);
	agreed->rx_interrupts = answer == 0;
	if (answer != 0) {
		conf.intr_conf.rxq = 0;
		answer = rte_eth_dev_configure(port, queues, queues, &conf);
	}
	if (answer != 0)
		return answer;
	if (mtu != 0) {
		answer = rte_eth_dev_set_mtu(port, mtu);
		/* What has no such call keeps what it was configured with. */
		if (answer != 0 && answer != -ENOTSUP)
			return answer;
	}
	answer = rte_eth_dev_get_mtu(port, &agreed->mtu);
	if (answer != 0)
		return answer;
	return rte_eth_dev_adjust_nb_rx_tx_desc(port, &agreed->rx_descriptors, &agreed->tx_descriptors);
}

int demi_dpdk_port_queue(uint16_t port, uint16_t queue, const struct demi_dpdk_port *agreed, struct rte_mempool *pool)
{
	unsigned socket = agreed->socket < 0 ? (unsigned)SOCKET_ID_ANY : (unsigned)agreed->socket;
	/* Null: the driver's own thresholds, and the port's offloads. */
	int answer = rte_eth_rx_queue_setup(port, queue, agreed->rx_descriptors, socket, NULL, pool);
	if (answer != 0)
		return answer;
	return rte_eth_tx_queue_setup(port, queue, agreed->tx_descriptors, socket, NULL);
}

int demi_dpdk_port_start(uint16_t port)
{
	return rte_eth_dev_start(port);
}

int demi_dpdk_port_set_mac(uint16_t port, const uint8_t mac[6])
{
	struct rte_ether_addr address;
	memcpy(address.addr_bytes, mac, sizeof(address.addr_bytes));
	return rte_eth_dev_default_mac_addr_set(port, &address);
}

int demi_dpdk_port_promiscuous(uint16_t port, bool on)
{
	return on ? rte_eth_promiscuous_enable(port) : rte_eth_promiscuous_disable(port);
}

int demi_dpdk_port_all_multicast(uint16_t port)
{
	return rte_eth_allmulticast_enable(port);
}

int demi_dpdk_port_link(uint16_t port, struct demi_dpdk_link *out)
{
	struct rte_eth_link link;
	int answer = rte_eth_link_get_nowait(port, &link);
	if (answer != 0)
		return answer;
	out->speed_mbps = link.link_speed;
	out->up = link.link_status == RTE_ETH_LINK_UP;
	out->full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return 0;
}

int demi_dpdk_port_stats(uint16_t port, struct demi_dpdk_stats *out)
{
	struct rte_eth_stats stats;
	int answer = rte_eth_stats_get(port, &stats);
	if (answer != 0)
		return answer;
	*out = (struct demi_dpdk_stats){
		.rx_frames = stats.ipackets,
		.rx_bytes = stats.ibytes,
		.rx_missed = stats.imissed,
		.rx_errors = stats.ierrors,
		.rx_no_buffer = stats.rx_nombuf,
		.tx_frames = stats.opackets,
		.tx_bytes = stats.obytes,
		.tx_errors = stats.oerrors,
	};
	return 0;
}

int demi_dpdk_port_xstats(uint16_t port, struct demi_dpdk_xstat *to, unsigned room)
{
	int count = rte_eth_xstats_get_names(port, NULL, 0);
	if (count <= 0)
		return count;
	struct rte_eth_xstat_name names[count];
	struct rte_eth_xstat values[count];
	int named = rte_eth_xstats_get_names(port, names, (unsigned)count);
	int valued = rte_eth_xstats_get(port, values, (unsigned)count);
	if (named != count || valued < 0 || valued > count)
		return -EAGAIN;
	for (int at = 0; at < valued && (unsigned)at < room; at++) {
		uint64_t id = values[at].id;
		if (id >= (uint64_t)count)
			return -EAGAIN;
		memcpy(to[at].name, names[id].name, sizeof(to[at].name));
		to[at].name[sizeof(to[at].name) - 1] = 0;
		to[at].value = values[at].value;
	}
	return valued;
}

int demi_dpdk_port_rss_key(uint16_t port, uint8_t *key, uint16_t room)
{
	struct rte_eth_dev_info info;
	int answer = rte_eth_dev_info_get(port, &info);
	if (answer != 0)
		return answer;
	/* Drivers that do not say have the usual key. */
	uint8_t bytes = info.hash_key_size != 0 ? info.hash_key_size : 40;
	if (bytes > room)
		return -ENOTSUP;
	struct rte_eth_rss_conf conf;
	memset(&conf, 0, sizeof(conf));
	conf.rss_key = key;
	conf.rss_key_len = bytes;
	answer = rte_eth_dev_rss_hash_conf_get(port, &conf);
	return answer != 0 ? answer : bytes;
}

int demi_dpdk_port_rss_table(uint16_t port, uint16_t *queues, uint16_t room)
{
	struct rte_eth_dev_info info;
	int answer = rte_eth_dev_info_get(port, &info);
	if (answer != 0)
		return answer;
	uint16_t count = info.reta_size;
	if (count == 0 || count > room || count % RTE_ETH_RETA_GROUP_SIZE != 0)
		return -ENOTSUP;
	struct rte_eth_rss_reta_entry64 groups[count / RTE_ETH_RETA_GROUP_SIZE];
	memset(groups, 0, sizeof(groups));
	for (uint16_t at = 0; at < count / RTE_ETH_RETA_GROUP_SIZE; at++)
		groups[at].mask = UINT64_MAX;
	answer = rte_eth_dev_rss_reta_query(port, groups, count);
	if (answer != 0)
		return answer;
	for (uint16_t at = 0; at < count; at++)
		queues[at] = groups[at / RTE_ETH_RETA_GROUP_SIZE].reta[at % RTE_ETH_RETA_GROUP_SIZE];
	return count;
}

int demi_dpdk_port_close(uint16_t port)
{
	struct rte_eth_dev_info info;
	struct rte_device *device = NULL;
	if (rte_eth_dev_info_get(port, &info) == 0)
		device = info.device;
	int stopped = rte_eth_dev_stop(port);
	int closed = rte_eth_dev_close(port);
	uint16_t other;
	bool shared = false;
	RTE_ETH_FOREACH_DEV(other) {
		if (rte_eth_dev_info_get(other, &info) == 0 && info.device == device)
			shared = true;
	}
	/* Ports made of rings belong to no bus, and cannot be removed from one. */
	int removed = 0;
	if (device != NULL && !shared)
		removed = rte_dev_remove(device);
	if (removed == -ENOTSUP || removed == -ENOENT || removed == -EINVAL)
		removed = 0;
	return stopped != 0 ? stopped : closed != 0 ? closed : removed;
}

int demi_dpdk_interrupt_fd(uint16_t port, uint16_t queue)
{
	int fd = rte_eth_dev_rx_intr_ctl_q_get_fd(port, queue);
	return fd >= 0 ? fd : -ENOTSUP;
}

int demi_dpdk_interrupt_set(uint16_t port, uint16_t queue, bool on)
{
	return on ? rte_eth_dev_rx_intr_enable(port, queue) : rte_eth_dev_rx_intr_disable(port, queue);
}
