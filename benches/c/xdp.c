/* AF_XDP in C, after the kernel's af_xdp document and its example of forwarding: four rings of descriptors over one memory, and a
 * program of six instructions that hands everything to the socket. */
#include "loops.h"

#include <errno.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif

#define FRAMES 4096u
#define FRAME_BYTES 2048u
#define RING 2048u
#define BURST 64u

struct ring {
	uint32_t *producer, *consumer, *flags;
	void *descriptors;
	void *map;
	size_t bytes;
};

struct xdp_loop {
	int fd, xsks, program, link;
	uint8_t *memory;
	struct ring rx, tx, fill, completion;
};

static int bpf(int command, union bpf_attr *attributes)
{
	int fd = (int)syscall(__NR_bpf, command, attributes, sizeof(*attributes));

	return fd < 0 ? -errno : fd;
}

/* return bpf_redirect_map(&xsks, context->rx_queue_index, XDP_PASS); */
static int load(int xsks)
{
	const struct bpf_insn code[] = {
		{.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1, .off = offsetof(struct xdp_md, rx_queue_index)},
		{.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = xsks},
		{.code = 0},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = XDP_PASS},
		{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
		{.code = BPF_JMP | BPF_EXIT},
	};
	union bpf_attr attributes = {
		.prog_type = BPF_PROG_TYPE_XDP,
		.insns = (uintptr_t)code,
		.insn_cnt = sizeof(code) / sizeof(code[0]),
		.license = (uintptr_t)"Dual MIT/GPL",
	};

	return bpf(BPF_PROG_LOAD, &attributes);
}

static int attach(struct xdp_loop *loop, uint32_t index)
{
	union bpf_attr map = {.map_type = BPF_MAP_TYPE_XSKMAP, .key_size = 4, .value_size = 4, .max_entries = 1};
	uint32_t queue = 0, fd = (uint32_t)loop->fd;
	int error;

	if ((loop->xsks = bpf(BPF_MAP_CREATE, &map)) < 0)
		return loop->xsks;
	union bpf_attr element = {.map_fd = (uint32_t)loop->xsks, .key = (uintptr_t)&queue, .value = (uintptr_t)&fd};

	if ((error = bpf(BPF_MAP_UPDATE_ELEM, &element)) < 0)
		return error;
	if ((loop->program = load(loop->xsks)) < 0)
		return loop->program;
	union bpf_attr link = {
		.link_create = {
			.prog_fd = (uint32_t)loop->program,
			.target_ifindex = index,
			.attach_type = BPF_XDP,
			.flags = XDP_FLAGS_DRV_MODE,
		},
	};
	loop->link = bpf(BPF_LINK_CREATE, &link);
	return loop->link < 0 ? loop->link : 0;
}

static int map_ring(int fd, struct ring *ring, const struct xdp_ring_offset *offset, size_t entry, off_t page)
{
	ring->bytes = offset->desc + RING * entry;
	ring->map = mmap(NULL, ring->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, page);
	if (ring->map == MAP_FAILED)
		return -errno;
	ring->producer = (uint32_t *)((uint8_t *)ring->map + offset->producer);
	ring->consumer = (uint32_t *)((uint8_t *)ring->map + offset->consumer);
	ring->flags = (uint32_t *)((uint8_t *)ring->map + offset->flags);
	ring->descriptors = (uint8_t *)ring->map + offset->desc;
	return 0;
}

static int set(int fd, int option, const void *value, socklen_t bytes)
{
	return setsockopt(fd, SOL_XDP, option, value, bytes) < 0 ? -errno : 0;
}

static int set_up(struct xdp_loop *loop, const char *interface)
{
	const uint32_t size = RING, index = if_nametoindex(interface);
	struct xdp_mmap_offsets offsets;
	socklen_t bytes = sizeof(offsets);
	int error;

	if (index == 0)
		return -ENODEV;
	loop->memory = mmap(NULL, (size_t)FRAMES * FRAME_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (loop->memory == MAP_FAILED)
		return -errno;
	const struct xdp_umem_reg umem = {
		.addr = (uintptr_t)loop->memory,
		.len = (uint64_t)FRAMES * FRAME_BYTES,
		.chunk_size = FRAME_BYTES,
	};

	if ((error = set(loop->fd, XDP_UMEM_REG, &umem, sizeof(umem))) ||
	    (error = set(loop->fd, XDP_UMEM_FILL_RING, &size, sizeof(size))) ||
	    (error = set(loop->fd, XDP_UMEM_COMPLETION_RING, &size, sizeof(size))) ||
	    (error = set(loop->fd, XDP_RX_RING, &size, sizeof(size))) ||
	    (error = set(loop->fd, XDP_TX_RING, &size, sizeof(size))))
		return error;
	if (getsockopt(loop->fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &bytes) < 0)
		return -errno;
	if ((error = map_ring(loop->fd, &loop->rx, &offsets.rx, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING)) ||
	    (error = map_ring(loop->fd, &loop->tx, &offsets.tx, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING)) ||
	    (error = map_ring(loop->fd, &loop->fill, &offsets.fr, sizeof(uint64_t), (off_t)XDP_UMEM_PGOFF_FILL_RING)) ||
	    (error = map_ring(loop->fd, &loop->completion, &offsets.cr, sizeof(uint64_t),
			      (off_t)XDP_UMEM_PGOFF_COMPLETION_RING)))
		return error;
	for (uint32_t at = 0; at < RING; at++)
		((uint64_t *)loop->fill.descriptors)[at] = (uint64_t)at * FRAME_BYTES;
	__atomic_store_n(loop->fill.producer, RING, __ATOMIC_RELEASE);
	const struct sockaddr_xdp address = {
		.sxdp_family = AF_XDP,
		.sxdp_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
		.sxdp_ifindex = index,
		.sxdp_queue_id = 0,
	};

	if (bind(loop->fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return attach(loop, index);
}

int xdp_loop_open(const char *interface, struct xdp_loop **out)
{
	struct xdp_loop *loop = calloc(1, sizeof(*loop));
	int error;

	if (!loop)
		return -ENOMEM;
	loop->memory = MAP_FAILED;
	loop->rx.map = loop->tx.map = loop->fill.map = loop->completion.map = MAP_FAILED;
	loop->xsks = loop->program = loop->link = -1;
	loop->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	error = loop->fd < 0 ? -errno : set_up(loop, interface);
	if (error) {
		xdp_loop_close(loop);
		return error;
	}
	*out = loop;
	return 0;
}

void xdp_loop_close(struct xdp_loop *loop)
{
	struct ring *rings[] = {&loop->rx, &loop->tx, &loop->fill, &loop->completion};
	int fds[] = {loop->link, loop->program, loop->xsks, loop->fd};

	for (unsigned at = 0; at < 4; at++)
		if (fds[at] >= 0)
			close(fds[at]);
	for (unsigned at = 0; at < 4; at++)
		if (rings[at]->map != MAP_FAILED)
			munmap(rings[at]->map, rings[at]->bytes);
	if (loop->memory != MAP_FAILED)
		munmap(loop->memory, (size_t)FRAMES * FRAME_BYTES);
	free(loop);
}

/* Frames that have been sent are received into again. There is always room: the memory has no more frames than the ring. */
static void refill(struct xdp_loop *loop)
{
	uint32_t done = __atomic_load_n(loop->completion.producer, __ATOMIC_ACQUIRE);
	uint32_t at = *loop->completion.consumer, fill = *loop->fill.producer;

	if (at == done)
		return;
	for (; at != done; at++, fill++) {
		uint64_t frame = ((uint64_t *)loop->completion.descriptors)[at % RING];

		((uint64_t *)loop->fill.descriptors)[fill % RING] = frame / FRAME_BYTES * FRAME_BYTES;
	}
	__atomic_store_n(loop->completion.consumer, at, __ATOMIC_RELEASE);
	__atomic_store_n(loop->fill.producer, fill, __ATOMIC_RELEASE);
}

int xdp_loop_run(struct xdp_loop *loop, uint32_t frames)
{
	while (frames > 0) {
		uint32_t from = *loop->rx.consumer, to = *loop->tx.producer;
		uint32_t count = __atomic_load_n(loop->rx.producer, __ATOMIC_ACQUIRE) - from;
		struct xdp_desc *in = loop->rx.descriptors, *out = loop->tx.descriptors;

		refill(loop);
		if (count == 0)
			continue;
		if (count > BURST)
			count = BURST;
		if (count > frames)
			count = frames;
		for (uint32_t at = 0; at < count; at++) {
			const struct xdp_desc frame = in[(from + at) % RING];

			swap_stations(loop->memory + frame.addr);
			out[(to + at) % RING] = frame;
		}
		__atomic_store_n(loop->rx.consumer, from + count, __ATOMIC_RELEASE);
		__atomic_store_n(loop->tx.producer, to + count, __ATOMIC_RELEASE);
		frames -= count;
		if (*loop->tx.flags & XDP_RING_NEED_WAKEUP &&
		    sendto(loop->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN && errno != EBUSY && errno != ENOBUFS)
			return -errno;
	}
	return 0;
}
