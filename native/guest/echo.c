// echo: what is typed at the virtio-console comes back there, behind "echo ". All that it shares with the
// device lies from `base=` (4M) on, each part in pages of its own; the payload never touches the bytes.
#include "runtime/guest.h"
#include "runtime/virtio.h"

enum { kPage = 4096, kBuffers = 4 };

struct shared {
  struct ring receive, transmit;
  char words[kPage];
  char typed[kBuffers][kPage];
};

static struct virtio_device console;
static struct virtio_queue receive, transmit;

void guest_main(void) {
  const uint64_t base = option_number("base", 4u << 20);
  if (base % kPage != 0 || base < (uintptr_t)image_end || base > memory_size() ||
      memory_size() - base < sizeof(struct shared))
    panic("base= does not name memory behind the program");
  struct shared* shared = (struct shared*)base;
  static const char kWords[] = "echo ";
  memcpy(shared->words, kWords, sizeof kWords);
  if (!virtio_open(&console, kVirtioConsole, 0, 0)) panic("no virtio-console");
  virtio_queue_open(&receive, &console, 0, &shared->receive);
  virtio_queue_open(&transmit, &console, 1, &shared->transmit);
  // Of each answer two descriptors, of which the second one's size is still to come.
  for (unsigned i = 0; i < kBuffers; i++) {
    const uintptr_t typed = (uintptr_t)shared->typed[i];
    shared->receive.descriptors[i] = (struct ring_descriptor){typed, kPage, kRingDeviceWrites, 0};
    shared->transmit.descriptors[2 * i] = (struct ring_descriptor){
        base + offsetof(struct shared, words), sizeof kWords - 1, kRingNext, (uint16_t)(2 * i + 1)};
    shared->transmit.descriptors[2 * i + 1] = (struct ring_descriptor){typed, 0, 0, 0};
    virtio_offer(&receive, i);
  }
  virtio_start(&console);
  virtio_publish(&receive);
  virtio_notify(&receive);
  put_text("echo ready\n");
  for (;;) {
    idle();
    unsigned head;
    uint32_t written;
    while (virtio_take(&transmit, &head, &written)) {
      virtio_offer(&receive, head / 2);
      if (virtio_publish(&receive)) virtio_notify(&receive);
    }
    while (virtio_take(&receive, &head, &written)) {
      shared->transmit.descriptors[2 * head + 1].size = written;
      virtio_offer(&transmit, 2 * head);
      if (virtio_publish(&transmit)) virtio_notify(&transmit);
    }
  }
}
