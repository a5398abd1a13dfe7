/* Reflectors: what arrives at an interface goes back to who sent it, as the least that a program in C does for a frame. Each call
 * answers a negative errno when something fails. */
#ifndef DEMI_BENCH_LOOPS_H
#define DEMI_BENCH_LOOPS_H

#include <stdint.h>
#include <string.h>

struct packet_loop;
struct xdp_loop;

/* Over AF_PACKET: TPACKET_V2 rings, one copy from the receive ring to the transmit ring. */
int packet_loop_open(const char *interface, struct packet_loop **loop);
/* Sends back the next `frames` frames, waiting for them. */
int packet_loop_run(struct packet_loop *loop, uint32_t frames);
void packet_loop_close(struct packet_loop *loop);

/* Over AF_XDP, everything that arrives at queue 0, in the frame it arrived in. */
int xdp_loop_open(const char *interface, struct xdp_loop **loop);
int xdp_loop_run(struct xdp_loop *loop, uint32_t frames);
void xdp_loop_close(struct xdp_loop *loop);

static inline void swap_stations(uint8_t *frame)
{
	uint8_t station[6];

	memcpy(station, frame, 6);
	memmove(frame, frame + 6, 6);
	memcpy(frame + 6, station, 6);
}

#endif
