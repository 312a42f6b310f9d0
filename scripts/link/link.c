// A slow link between this network namespace and a new one: two TUN devices, and between them a queue, a rate
// and a delay for each direction, as netem would have them, which not every kernel has.
//
//   link <name> <bits a second> <delay of each direction in us> <queue in bytes>
//
// The device <name> is here and the device "far" in the new namespace, which is this process's: enter it by
// its process id. Prints "up" when both are there; ends when its standard input does.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { kPacket = 2048, kSlots = 32768 };

struct packet {
  uint64_t due;
  uint32_t size;
  unsigned char bytes[kPacket];
};

struct way {
  int from, to;
  struct packet* slots;
  uint32_t first, count;
  // Bytes that wait for the link, and when it is free again.
  uint64_t free_at;
};

static uint64_t rate, delay_ns, queue_bytes;

static void fail(const char* what) {
  perror(what);
  exit(1);
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int make_tun(const char* name) {
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) fail("/dev/net/tun");
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
  if (ioctl(fd, TUNSETIFF, &request) != 0) fail("TUNSETIFF");
  return fd;
}

// Takes what has come; what the queue has no room for is lost, as on a router.
static void take(struct way* way) {
  while (way->count < kSlots) {
    struct packet* slot = &way->slots[(way->first + way->count) % kSlots];
    ssize_t size = read(way->from, slot->bytes, kPacket);
    if (size <= 0) return;
    uint64_t at = now();
    uint64_t start = way->free_at > at ? way->free_at : at;
    if ((start - at) * rate / 8000000000u > queue_bytes) continue;
    way->free_at = start + (uint64_t)size * 8000000000u / rate;
    slot->size = (uint32_t)size;
    slot->due = way->free_at + delay_ns;
    way->count++;
  }
}

static void give(struct way* way) {
  while (way->count > 0 && way->slots[way->first].due <= now()) {
    struct packet* slot = &way->slots[way->first];
    if (write(way->to, slot->bytes, slot->size) < 0 && errno == EAGAIN) return;
    way->first = (way->first + 1) % kSlots;
    way->count--;
  }
}

int main(int argc, char** argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: link <name> <bits a second> <delay in us> <queue in bytes>\n");
    return 2;
  }
  rate = strtoull(argv[2], NULL, 10);
  delay_ns = strtoull(argv[3], NULL, 10) * 1000;
  queue_bytes = strtoull(argv[4], NULL, 10);
  if (rate == 0) return 2;
  int near = make_tun(argv[1]);
  if (unshare(CLONE_NEWNET) != 0) fail("unshare");
  int far = make_tun("far");
  struct way ways[2] = {{.from = near, .to = far}, {.from = far, .to = near}};
  for (int i = 0; i < 2; i++)
    if (!(ways[i].slots = calloc(kSlots, sizeof(struct packet)))) fail("calloc");
  printf("up\n");
  fflush(stdout);
  for (;;) {
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
      take(&ways[i]);
      give(&ways[i]);
      if (ways[i].count > 0 && ways[i].slots[ways[i].first].due < next)
        next = ways[i].slots[ways[i].first].due;
    }
    struct pollfd look[3] = {{near, POLLIN, 0}, {far, POLLIN, 0}, {0, POLLIN, 0}};
    uint64_t at = now();
    uint64_t wait = next == UINT64_MAX ? 1000000000u : next > at ? next - at : 0;
    struct timespec timeout = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
    if (ppoll(look, 3, &timeout, NULL) < 0 && errno != EINTR) fail("ppoll");
    char byte;
    if ((look[2].revents & (POLLIN | POLLHUP)) != 0 && read(0, &byte, 1) <= 0) return 0;
  }
}
