/* AF_PACKET in C, after packet(7) and the kernel's packet_mmap document: two rings of frames that the kernel and the program hand
 * each other by a status word, and one system call for all frames of a burst. */
#include "loops.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAMES 1024u
#define FRAME_BYTES 2048u
#define BLOCK_BYTES (64 * 1024u)
#define RING_BYTES ((size_t)FRAMES * FRAME_BYTES)

struct packet_loop {
	int fd;
	uint8_t *rx, *tx;
	uint32_t rx_at, tx_at;
};

static int set(int fd, int option, const void *value, socklen_t bytes)
{
	return setsockopt(fd, SOL_PACKET, option, value, bytes) < 0 ? -errno : 0;
}

static int set_up(struct packet_loop *loop, const char *interface)
{
	const int version = TPACKET_V2, yes = 1;
	const struct tpacket_req ring = {
		.tp_block_size = BLOCK_BYTES,
		.tp_block_nr = RING_BYTES / BLOCK_BYTES,
		.tp_frame_size = FRAME_BYTES,
		.tp_frame_nr = FRAMES,
	};
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)if_nametoindex(interface),
	};
	int error;

	if (address.sll_ifindex == 0)
		return -ENODEV;
	if ((error = set(loop->fd, PACKET_VERSION, &version, sizeof(version))) ||
	    (error = set(loop->fd, PACKET_RX_RING, &ring, sizeof(ring))) ||
	    (error = set(loop->fd, PACKET_TX_RING, &ring, sizeof(ring))) ||
	    (error = set(loop->fd, PACKET_QDISC_BYPASS, &yes, sizeof(yes))) ||
	    (error = set(loop->fd, PACKET_IGNORE_OUTGOING, &yes, sizeof(yes))))
		return error;
	loop->rx = mmap(NULL, 2 * RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, loop->fd, 0);
	if (loop->rx == MAP_FAILED)
		return -errno;
	loop->tx = loop->rx + RING_BYTES;
	return bind(loop->fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
}

int packet_loop_open(const char *interface, struct packet_loop **out)
{
	struct packet_loop *loop = calloc(1, sizeof(*loop));
	int error;

	if (!loop)
		return -ENOMEM;
	loop->rx = MAP_FAILED;
	loop->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	error = loop->fd < 0 ? -errno : set_up(loop, interface);
	if (error) {
		packet_loop_close(loop);
		return error;
	}
	*out = loop;
	return 0;
}

void packet_loop_close(struct packet_loop *loop)
{
	if (loop->rx != MAP_FAILED)
		munmap(loop->rx, 2 * RING_BYTES);
	if (loop->fd >= 0)
		close(loop->fd);
	free(loop);
}

int packet_loop_run(struct packet_loop *loop, uint32_t frames)
{
	const size_t tx_data = TPACKET2_HDRLEN - sizeof(struct sockaddr_ll);

	while (frames > 0) {
		uint32_t taken = 0;

		while (frames > 0) {
			struct tpacket2_hdr *from = (void *)(loop->rx + (size_t)loop->rx_at * FRAME_BYTES);
			struct tpacket2_hdr *to = (void *)(loop->tx + (size_t)loop->tx_at * FRAME_BYTES);
			uint8_t *data = (uint8_t *)to + tx_data;

			if (!(__atomic_load_n(&from->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
				break;
			if (__atomic_load_n(&to->tp_status, __ATOMIC_ACQUIRE) != TP_STATUS_AVAILABLE)
				break;
			memcpy(data, (uint8_t *)from + from->tp_mac, from->tp_snaplen);
			swap_stations(data);
			to->tp_len = from->tp_snaplen;
			__atomic_store_n(&to->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
			__atomic_store_n(&from->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
			loop->rx_at = (loop->rx_at + 1) % FRAMES;
			loop->tx_at = (loop->tx_at + 1) % FRAMES;
			taken++;
			frames--;
		}
		if (taken > 0 && sendto(loop->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN && errno != ENOBUFS)
			return -errno;
	}
	return 0;
}
