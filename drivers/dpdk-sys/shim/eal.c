/* Starting and stopping DPDK, and what it says meanwhile. */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_version.h>

/* The last of what was said. Bounded, since a driver may go on talking for as long as the program runs. */
static char said[16384];
static size_t said_bytes;
static pthread_mutex_t said_lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t capture_write(void *cookie, const char *bytes, size_t count)
{
	(void)cookie;
	pthread_mutex_lock(&said_lock);
	for (size_t at = 0; at < count; at++) {
		if (said_bytes == sizeof(said)) {
			memmove(said, said + sizeof(said) / 2, sizeof(said) / 2);
			said_bytes = sizeof(said) / 2;
		}
		said[said_bytes++] = bytes[at];
	}
	pthread_mutex_unlock(&said_lock);
	return (ssize_t)count;
}

int demi_dpdk_start(int argc, char **argv, bool capture)
{
	FILE *stream = NULL;
	if (capture) {
		cookie_io_functions_t functions = { .write = capture_write };
		stream = fopencookie(NULL, "w", functions);
		if (stream == NULL)
			return -ENOMEM;
		setvbuf(stream, NULL, _IOLBF, 1024);
		rte_openlog_stream(stream);
	}
#ifdef __GLIBC__
	/* A wrong argument has the usage text printed. The C library's own streams are variables (glibc manual, 12.2). */
	FILE *out = stdout, *err = stderr;
	if (capture) {
		fflush(stdout);
		stdout = stream;
		stderr = stream;
	}
#endif
	int answer = rte_eal_init(argc, argv);
	int error = rte_errno;
#ifdef __GLIBC__
	stdout = out;
	stderr = err;
#endif
	if (capture)
		fflush(stream);
	if (answer >= 0)
		return 0;
	return error > 0 ? -error : -EINVAL;
}

size_t demi_dpdk_take_log(char *to, size_t room)
{
	pthread_mutex_lock(&said_lock);
	size_t count = said_bytes < room ? said_bytes : room;
	memcpy(to, said, count);
	said_bytes = 0;
	pthread_mutex_unlock(&said_lock);
	return count;
}

int demi_dpdk_stop(void)
{
	return rte_eal_cleanup();
}

int demi_dpdk_thread_enter(void)
{
	if (rte_lcore_id() != LCORE_ID_ANY)
		return 1;
	return rte_thread_register() == 0 ? 0 : -rte_errno;
}

void demi_dpdk_thread_leave(void)
{
	rte_thread_unregister();
}

const char *demi_dpdk_version(void)
{
	return rte_version();
}

bool demi_dpdk_huge_pages(void)
{
	return rte_eal_has_hugepages() != 0;
}

int demi_dpdk_attach(const char *arguments)
{
	return rte_dev_probe(arguments);
}
