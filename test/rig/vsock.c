// A Linux guest's end of vsock streams, for linux_machine.mjs: `vsock listen PORT` gives each connection its bytes back;
// `vsock call PORT` sends its input to the host's port, and prints what comes back.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static void die(const char* what) {
  perror(what);
  exit(1);
}

static void send_all(int to, const char* bytes, ssize_t size) {
  for (ssize_t n; size > 0; bytes += n, size -= n)
    if ((n = write(to, bytes, (size_t)size)) <= 0) die("write");
}

static void copy(int from, int to) {
  static char bytes[65536];
  for (ssize_t n; (n = read(from, bytes, sizeof(bytes))) > 0;) send_all(to, bytes, n);
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_port = (unsigned)atoi(argv[2]), .svm_cid = VMADDR_CID_HOST};
  int it = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (it < 0) die("socket");
  if (!strcmp(argv[1], "listen")) {
    address.svm_cid = VMADDR_CID_ANY;
    if (bind(it, (struct sockaddr*)&address, sizeof(address)) || listen(it, 8)) die("listen");
    for (;;) {
      int peer = accept(it, NULL, NULL);
      if (peer < 0) die("accept");
      if (fork() == 0) {
        copy(peer, peer);
        exit(0);
      }
      close(peer);
    }
  }
  if (connect(it, (struct sockaddr*)&address, sizeof(address))) die("connect");
  if (fork() == 0) {
    copy(0, it);
    shutdown(it, SHUT_WR);
    exit(0);
  }
  copy(it, 1);
  return 0;
}
