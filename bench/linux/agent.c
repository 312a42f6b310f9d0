// The program of the Linux benchmark. In the guest it is the first program, started by rdinit=/agent: it says so,
// loads the modules, and does what it is told on the console. On the host it is the other end of the network's tests:
//   agent serve    listens on port 5001 until its input ends
// Commands, a line each, and each answered by one line:
//   disk read|write random|ordered SIZE DEPTH MILLISECONDS    -> done OPERATIONS BYTES NANOSECONDS
//   net send|receive|echo ADDRESS SIZE MILLISECONDS           -> done OPERATIONS BYTES NANOSECONDS
//   tick        writes a dot after each 100 microseconds of computing, for ever
//   off         powers off
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { kPort = 5001, kMaxDepth = 64, kMaxSize = 1 << 20 };

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void say(const char* text) {
  for (size_t left = strlen(text); left > 0;) {
    ssize_t n = write(1, text, left);
    if (n < 0) return;
    text += n;
    left -= (size_t)n;
  }
}

static void failed(const char* what) {
  char line[200];
  snprintf(line, sizeof line, "failed %s: %s\n", what, strerror(errno));
  say(line);
}

static void done(uint64_t operations, uint64_t bytes, uint64_t start) {
  char line[100];
  snprintf(line, sizeof line, "done %llu %llu %llu\n", (unsigned long long)operations, (unsigned long long)bytes,
           (unsigned long long)(now() - start));
  say(line);
}

static uint64_t random_number(void) {
  static uint64_t state = 88172645463325252;
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

// ---- Disk

// So many requests at once, past the guest's page cache.
static void disk(bool writing, bool random, size_t size, unsigned depth, uint64_t milliseconds) {
  static struct iocb blocks[kMaxDepth];
  static struct io_event events[kMaxDepth];
  static uint8_t* buffer;
  if (!buffer && posix_memalign((void**)&buffer, 4096, kMaxSize * 8)) return failed("memory");
  if (size == 0 || size > kMaxSize || depth == 0 || depth > kMaxDepth || size * depth > kMaxSize * 8)
    return failed("size or depth");
  memset(buffer, 0x5a, size * depth);
  int file = open("/dev/vda", O_RDWR | O_DIRECT);
  uint64_t bytes = 0;
  if (file < 0 || ioctl(file, BLKGETSIZE64, &bytes) < 0) return failed("/dev/vda");
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, depth, &context) < 0) {
    close(file);
    return failed("io_setup");
  }
  const uint64_t places = bytes / size;
  uint64_t next = 0, operations = 0;
  unsigned flying = 0;
  const uint64_t start = now(), end = start + milliseconds * 1000000;
  struct iocb* idle[kMaxDepth];
  unsigned idles = 0;
  for (unsigned i = 0; i < depth; ++i) {
    blocks[i] = (struct iocb){.aio_fildes = (uint32_t)file,
                              .aio_lio_opcode = writing ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
                              .aio_buf = (uint64_t)(uintptr_t)(buffer + i * size),
                              .aio_nbytes = size};
    idle[idles++] = &blocks[i];
  }
  for (;;) {
    if (now() < end) {
      for (unsigned i = 0; i < idles; ++i)
        idle[i]->aio_offset = (int64_t)((random ? random_number() : next++) % places * size);
      if (idles && syscall(SYS_io_submit, context, (long)idles, idle) != (long)idles) {
        failed("io_submit");
        break;
      }
      flying += idles;
      idles = 0;
    }
    if (flying == 0) {
      done(operations, operations * size, start);
      break;
    }
    long got = syscall(SYS_io_getevents, context, 1L, (long)depth, events, NULL);
    if (got < 0 && errno != EINTR) {
      failed("io_getevents");
      break;
    }
    for (long i = 0; i < got; ++i) {
      if (events[i].res != (int64_t)size) {
        errno = EIO;
        failed("a request");
        goto out;
      }
      idle[idles++] = (struct iocb*)(uintptr_t)events[i].obj;
      --flying;
      ++operations;
    }
  }
out:
  syscall(SYS_io_destroy, context);
  close(file);
}

// ---- Network

struct order {
  char kind;  // of the guest: s(end), r(eceive), e(cho)
  uint32_t size;
};

static bool whole(int socket, void* data, size_t size, bool writing) {
  for (uint8_t* at = data; size > 0;) {
    ssize_t n = writing ? send(socket, at, size, MSG_NOSIGNAL) : recv(socket, at, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    size -= (size_t)n;
  }
  return true;
}

static void net(char kind, const char* address, uint32_t size, uint64_t milliseconds) {
  static uint8_t buffer[kMaxSize];
  if (size == 0 || size > kMaxSize) return failed("size");
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(kPort)};
  inet_pton(AF_INET, address, &to.sin_addr);
  int peer = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  struct order order = {.kind = kind, .size = size};
  setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(peer, (struct sockaddr*)&to, sizeof to) < 0 || !whole(peer, &order, sizeof order, true)) {
    close(peer);
    return failed("connect");
  }
  uint64_t operations = 0, bytes = 0;
  const uint64_t start = now(), end = start + milliseconds * 1000000;
  while (now() < end) {
    if (kind == 'r') {
      ssize_t n = recv(peer, buffer, size, 0);
      if (n <= 0) break;
      bytes += (uint64_t)n;
    } else {
      if (!whole(peer, buffer, size, true) || (kind == 'e' && !whole(peer, buffer, size, false))) break;
      bytes += size;
    }
    ++operations;
  }
  if (kind == 's') {
    // Until the other end has all.
    shutdown(peer, SHUT_WR);
    recv(peer, buffer, 1, 0);
  }
  done(operations, bytes, start);
  close(peer);
}

static void serve_one(int peer) {
  static uint8_t buffer[kMaxSize];
  struct order order;
  if (!whole(peer, &order, sizeof order, false) || order.size == 0 || order.size > kMaxSize) return;
  for (;;) {
    if (order.kind == 's') {
      if (recv(peer, buffer, sizeof buffer, 0) <= 0) return;
    } else if (order.kind == 'e') {
      if (!whole(peer, buffer, order.size, false) || !whole(peer, buffer, order.size, true)) return;
    } else if (!whole(peer, buffer, order.size, true)) {
      return;
    }
  }
}

static int serve(void) {
  signal(SIGCHLD, SIG_IGN);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(kPort)};
  if (bind(listener, (struct sockaddr*)&here, sizeof here) < 0 || listen(listener, 8) < 0) {
    perror("agent: listening");
    return 1;
  }
  say("serving\n");
  pid_t child = fork();
  if (child == 0) {
    for (;;) {
      int peer = accept(listener, NULL, NULL);
      if (peer < 0) continue;
      setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      if (fork() == 0) {
        serve_one(peer);
        _exit(0);
      }
      close(peer);
    }
  }
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  kill(child, SIGKILL);
  return 0;
}

// ---- The guest

static void load_modules(void) {
  FILE* order = fopen("/modules/order", "re");
  char name[100], path[140];
  while (order && fscanf(order, "%99s", name) == 1) {
    snprintf(path, sizeof path, "/modules/%s.ko", name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
      syscall(SYS_finit_module, file, "", 0);
      close(file);
    }
  }
  if (order) fclose(order);
}

static void set_address(const char* address) {
  int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ifreq request = {.ifr_name = "eth0"};
  struct sockaddr_in* in = (struct sockaddr_in*)&request.ifr_addr;
  in->sin_family = AF_INET;
  inet_pton(AF_INET, address, &in->sin_addr);
  if (ioctl(any, SIOCSIFADDR, &request) < 0) failed("the address");
  inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
  ioctl(any, SIOCSIFNETMASK, &request);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(any, SIOCSIFFLAGS, &request) < 0) failed("the interface");
  close(any);
}

static void tick(void) {
  for (;;) {
    const uint64_t end = now() + 100000;
    while (now() < end) {
    }
    say(".");
  }
}

static void obey(char* line) {
  char one[20] = "", two[20] = "";
  unsigned size = 0, depth = 0, milliseconds = 0;
  if (sscanf(line, "disk %19s %19s %u %u %u", one, two, &size, &depth, &milliseconds) == 5)
    disk(one[0] == 'w', two[0] == 'r', size, depth, milliseconds);
  else if (sscanf(line, "net %19s %19s %u %u", one, two, &size, &milliseconds) == 4)
    net(one[0], two, size, milliseconds);
  else if (strncmp(line, "tick", 4) == 0)
    tick();
  else if (strncmp(line, "off", 3) == 0)
    reboot(RB_POWER_OFF);
  else
    say("failed: an unknown command\n");
}

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc > 1 && strcmp(argv[1], "serve") == 0) return serve();
  if (getpid() != 1) {
    fprintf(stderr, "agent: serve, or as the first program of a guest\n");
    return 2;
  }
  say("user space\n");
  mkdir("/dev", 0755);
  mkdir("/proc", 0755);
  mount("devtmpfs", "/dev", "devtmpfs", 0, "");
  mount("proc", "/proc", "proc", 0, "");
  load_modules();
  const char* address = getenv("address");
  if (address) set_address(address);
  struct termios terminal;
  if (tcgetattr(0, &terminal) == 0) {
    terminal.c_lflag &= (tcflag_t) ~(ECHO | ECHOE);
    terminal.c_oflag &= (tcflag_t)~OPOST;
    tcsetattr(0, TCSANOW, &terminal);
  }
  say("ready\n");
  char line[200];
  size_t length = 0;
  for (;;) {
    ssize_t n = read(0, line + length, 1);
    if (n <= 0) continue;
    if (line[length] == '\n' || length == sizeof line - 2) {
      line[length] = 0;
      if (length > 0) obey(line);
      length = 0;
    } else {
      ++length;
    }
  }
}
