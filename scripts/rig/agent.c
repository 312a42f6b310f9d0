// The rig's process 1 once it has booted: runs commands for the host, one a port at a time. Each port is a
// virtio serial port with a process of its own here. What the two say to each other:
//
//   host -> rig   key, 16 bytes, and a number of the host's choice, 16 bytes. Wherever the key appears a new
//   session
//                 begins, and the command of the one before is killed: so nothing that a host that was killed
//                 has left half said does harm.
//   rig -> host   that number; what came before it belongs to another session
// and then frames, each a letter, the length of the rest in 4 bytes (little endian), and the rest:
//   host -> rig   S the command: folder, number of words, words, environment, each ended by a zero byte
//                 I input, E end of input, K a signal (1 byte) for the command and those it has started
//   rig -> host   B it has begun: its process number (4 bytes)
//                 W so much input has been taken (4 bytes): no more than `credit` may be on its way
//                 O output, D diagnostics, X it has ended: status and signal (4 bytes each)
//                 F it could not be started: errno (4 bytes) and what failed
// A command whose host has gone is killed. The ones that it has left in the background run on.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/rtc.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { key_size = 16, credit = 256 << 10, most_words = 4 << 20, piece = 64 << 10 };

static unsigned char key[key_size];
static const char* root;
static int port;

// What came from the host and is not yet understood.
static unsigned char* in;
static size_t in_size, in_room;

// What the host has not taken yet.
static unsigned char out[piece + 256];
static size_t out_at, out_size;

static struct {
  pid_t pid;  // 0: no command
  int pidfd, input, output, diagnostics;
  unsigned char* waiting;  // input that it has not taken
  size_t waiting_size;
  int input_ended;
} command = {0, -1, -1, -1, -1, NULL, 0, 0};

static void die(const char* what) {
  fprintf(stderr, "agent: %s: %s\n", what, strerror(errno));
  _exit(1);
}

static void put32(unsigned char* to, uint32_t value) {
  for (int i = 0; i < 4; i++) to[i] = (unsigned char)(value >> 8 * i);
}

static uint32_t get32(const unsigned char* from) {
  return from[0] | from[1] << 8 | from[2] << 16 | (uint32_t)from[3] << 24;
}

// There is room for a few small frames beside one of a piece.
static void say(char letter, const void* data, size_t size) {
  if (out_at == out_size) out_at = out_size = 0;
  if (out_size + 5 + size > sizeof out) die("too much to say");
  out[out_size] = (unsigned char)letter;
  put32(out + out_size + 1, (uint32_t)size);
  memcpy(out + out_size + 5, data, size);
  out_size += 5 + size;
}

static void say_number(char letter, uint32_t number) {
  unsigned char bytes[4];
  put32(bytes, number);
  say(letter, bytes, sizeof bytes);
}

static void shut(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void forget_command(void) {
  shut(&command.pidfd);
  shut(&command.input);
  shut(&command.output);
  shut(&command.diagnostics);
  command.pid = 0;
  command.waiting_size = 0;
  command.input_ended = 0;
}

static void kill_command(void) {
  if (command.pid == 0) return;
  kill(-command.pid, SIGKILL);
  while (waitpid(command.pid, NULL, 0) < 0 && errno == EINTR) {
  }
  forget_command();
}

static void could_not_start(int error, const char* what) {
  unsigned char answer[4 + 64];
  put32(answer, (uint32_t)error);
  size_t size = strnlen(what, 64);
  memcpy(answer + 4, what, size);
  say('F', answer, 4 + size);
}

struct failure {
  int error;
  char what[32];
};

static void become(char* folder, char** words, char** environment, int report) {
  struct failure failure = {0, "chroot"};
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  if (chroot(root) == 0) {
    snprintf(failure.what, sizeof failure.what, "chdir");
    if (chdir(folder) == 0) {
      environ = environment;
      snprintf(failure.what, sizeof failure.what, "exec");
      execvp(words[0], words);
    }
  }
  failure.error = errno;
  while (write(report, &failure, sizeof failure) < 0 && errno == EINTR) {
  }
  _exit(127);
}

static void start(unsigned char* text, size_t size) {
  kill_command();
  size_t count = 0;
  for (size_t i = 0; i < size; i++) count += text[i] == 0;
  if (count < 3 || text[size - 1] != 0) return could_not_start(EINVAL, "request");
  char** all = calloc(count + 2, sizeof *all);
  if (!all) die("memory");
  size_t found = 0;
  for (char* at = (char*)text; found < count; at += strlen(at) + 1) all[found++] = at;
  size_t number = strtoul(all[1], NULL, 10);
  if (number < 1 || number > count - 2) {
    free(all);
    return could_not_start(EINVAL, "request");
  }
  // The words and the environment each end with a null pointer: the environment makes room for the former.
  memmove(all + 2 + number + 1, all + 2 + number, (count - 2 - number) * sizeof *all);
  all[2 + number] = NULL;

  int input[2], output[2], diagnostics[2], report[2];
  if (pipe2(input, O_CLOEXEC) || pipe2(output, O_CLOEXEC) || pipe2(diagnostics, O_CLOEXEC) ||
      pipe2(report, O_CLOEXEC))
    die("pipe");
  pid_t pid = fork();
  if (pid < 0) die("fork");
  if (pid == 0) {
    setsid();
    dup2(input[0], 0);
    dup2(output[1], 1);
    dup2(diagnostics[1], 2);
    become(all[0], all + 2, all + 2 + number + 1, report[1]);
  }
  free(all);
  close(input[0]);
  close(output[1]);
  close(diagnostics[1]);
  close(report[1]);
  struct failure failure;
  ssize_t got;
  while ((got = read(report[0], &failure, sizeof failure)) < 0 && errno == EINTR) {
  }
  close(report[0]);
  command.pid = pid;
  command.input = input[1];
  command.output = output[0];
  command.diagnostics = diagnostics[0];
  if (got == sizeof failure) {
    kill_command();
    return could_not_start(failure.error, failure.what);
  }
  command.pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (command.pidfd < 0) die("pidfd_open");
  fcntl(command.input, F_SETFL, O_NONBLOCK);
  fcntl(command.output, F_SETFL, O_NONBLOCK);
  fcntl(command.diagnostics, F_SETFL, O_NONBLOCK);
  say_number('B', (uint32_t)pid);
}

static void obey(char letter, unsigned char* data, size_t size) {
  if (letter == 'S') {
    start(data, size);
  } else if (command.pid == 0) {
    // What was on its way when the command ended.
  } else if (letter == 'K' && size == 1) {
    kill(-command.pid, data[0]);
  } else if (letter == 'E') {
    command.input_ended = 1;
    if (command.waiting_size == 0) shut(&command.input);
  } else if (letter == 'I') {
    if (command.input < 0)
      say_number('W', (uint32_t)size);
    else if (size <= credit - command.waiting_size) {
      memcpy(command.waiting + command.waiting_size, data, size);
      command.waiting_size += size;
    }
  }
}

static void drop(size_t size) {
  in_size -= size;
  memmove(in, in + size, in_size);
}

// True when the key is in what came; it begins a session.
static int begins(void) {
  unsigned char* at = memmem(in, in_size, key, sizeof key);
  if (!at || (size_t)(in + in_size - at) < 2 * key_size) return 0;
  kill_command();
  out_at = 0;
  out_size = key_size;
  memcpy(out, at + key_size, key_size);
  drop((size_t)(at - in) + 2 * key_size);
  return 1;
}

// Does as it is told by what has come, as far as there is room for answers.
static void listen_to(int* in_session) {
  while (begins()) *in_session = 1;
  if (!*in_session) {
    if (in_size >= 2 * key_size) drop(in_size - 2 * key_size + 1);
    return;
  }
  while (in_size >= 5 && sizeof out - out_size >= 128) {
    size_t size = get32(in + 1);
    // Nobody says so much: it is the middle of something.
    if (size > most_words) {
      *in_session = 0;
      kill_command();
      return;
    }
    if (in_size < 5 + size) return;
    obey((char)in[0], in + 5, size);
    drop(5 + size);
  }
}

static void pass_on(int* from, char letter) {
  if (out_at < out_size) return;
  unsigned char data[piece];
  ssize_t size = read(*from, data, sizeof data);
  if (size > 0)
    say(letter, data, (size_t)size);
  else if (size == 0 || errno != EAGAIN)
    shut(from);
}

static void feed(void) {
  ssize_t size = write(command.input, command.waiting, command.waiting_size);
  if (size < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    size = (ssize_t)command.waiting_size;
    shut(&command.input);
  }
  command.waiting_size -= (size_t)size;
  memmove(command.waiting, command.waiting + size, command.waiting_size);
  say_number('W', (uint32_t)size);
  if (command.waiting_size == 0 && command.input_ended) shut(&command.input);
}

// Called when the command has ended: true when all that it wrote has been passed on. What others that have
// its output write later is not waited for.
static int drained(void) {
  pass_on(&command.output, 'O');
  if (out_at < out_size) return 0;
  pass_on(&command.diagnostics, 'D');
  return out_at == out_size;
}

static void finish(void) {
  int status = 0;
  while (waitpid(command.pid, &status, 0) < 0 && errno == EINTR) {
  }
  unsigned char answer[8];
  put32(answer, WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : 0);
  put32(answer + 4, WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : 0);
  say('X', answer, sizeof answer);
  forget_command();
}

static void await_signal(int milliseconds) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGIO);
  struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
  sigtimedwait(&set, NULL, &time);
}

// True when something has come.
static int receive(int* in_session) {
  if (in_room < in_size + piece) {
    in_room = in_size + 2 * piece;
    in = realloc(in, in_room);
    if (!in) die("memory");
  }
  ssize_t size = read(port, in + in_size, piece);
  if (size <= 0) return 0;
  in_size += (size_t)size;
  listen_to(in_session);
  return 1;
}

static void serve(void) {
  int in_session = 0, connected = 0, alone = 0;
  for (;;) {
    int talking = out_at < out_size;
    int exited = 0;
    struct pollfd fds[5] = {
        {port, (short)(POLLIN | (talking ? POLLOUT : 0)), 0},
        {command.pid && !talking ? command.pidfd : -1, POLLIN, 0},
        {command.waiting_size > 0 && sizeof out - out_size >= 128 ? command.input : -1, POLLOUT, 0},
        {talking ? -1 : command.output, POLLIN, 0},
        {talking ? -1 : command.diagnostics, POLLIN, 0}};
    if (poll(fds, 5, -1) < 0) {
      if (errno == EINTR) continue;
      die("poll");
    }
    int received = fds[0].revents & POLLIN && receive(&in_session);
    // A port without a host says that it can be read, too.
    if (fds[0].revents & POLLHUP) {
      // Input may be here before the news that there is a host.
      if ((in_session || in_size > 0) && !connected && ++alone < 200) {
        await_signal(10);
      } else if (!received) {
        kill_command();
        in_session = connected = alone = 0;
        in_size = out_at = out_size = 0;
        await_signal(60000);
      }
      continue;
    }
    connected = 1;
    if (fds[0].revents & POLLOUT) {
      ssize_t size = write(port, out + out_at, out_size - out_at);
      if (size > 0) out_at += (size_t)size;
    }
    if (in_size > 0) listen_to(&in_session);
    if (command.pid == 0) continue;
    if (fds[1].revents) exited = 1;
    if (fds[2].revents && command.input >= 0 && sizeof out - out_size >= 128) feed();
    if (exited) {
      if (out_at == out_size && drained()) finish();
      continue;
    }
    if (fds[3].revents && command.output >= 0) pass_on(&command.output, 'O');
    if (fds[4].revents && command.diagnostics >= 0) pass_on(&command.diagnostics, 'D');
  }
}

// Interrupts that are not the processor's own timer's: QEMU loses one of those once in some hours of
// nested machines, and a processor that rests would then rest for ever.
static void keep_awake(void) {
  if (fork() != 0) return;
  int clock = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);
  if (clock < 0 || ioctl(clock, RTC_UIE_ON) != 0) die("/dev/rtc0");
  unsigned long ticks;
  while (read(clock, &ticks, sizeof ticks) > 0 || errno == EINTR) {
  }
  die("/dev/rtc0");
}

int main(int argc, char** argv) {
  if (argc < 4 || strlen(argv[1]) != 2 * key_size) {
    fprintf(stderr, "usage: agent <key in hexadecimal> <root> <port>...\n");
    return 1;
  }
  for (int i = 0; i < key_size; i++) {
    unsigned value;
    if (sscanf(argv[1] + 2 * i, "%2x", &value) != 1) return 1;
    key[i] = (unsigned char)value;
  }
  root = argv[2];
  keep_awake();
  for (int i = 3; i < argc; i++) {
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (pid > 0) continue;
    signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigprocmask(SIG_BLOCK, &set, NULL);
    command.waiting = malloc(credit);
    port = open(argv[i], O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (port < 0 || !command.waiting) die(argv[i]);
    if (fcntl(port, F_SETOWN, getpid()) || fcntl(port, F_SETFL, O_NONBLOCK | O_ASYNC)) die("fcntl");
    serve();
  }
  // As process 1 it reaps what nobody else does.
  for (;;)
    if (wait(NULL) < 0 && errno == ECHILD) pause();
}
