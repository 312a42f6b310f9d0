// Driver for "modern" virtio devices on PCI, with split rings. It uses the registers in an I/O BAR where the
// device offers them, else those in memory, and INTx. What the device writes is checked before it is used.
#pragma once

#include "guest.h"

enum { kVirtioNet = 1, kVirtioBlk = 2, kVirtioConsole = 3, kRingSize = 256 };

struct ring_descriptor {
  uint64_t address;
  uint32_t size;
  uint16_t flags, next;
};
enum { kRingNext = 1, kRingDeviceWrites = 2 };

// The memory that driver and device share.
struct __attribute__((aligned(4096))) ring {
  struct ring_descriptor descriptors[kRingSize];
  struct {
    uint16_t flags, index, heads[kRingSize];
  } avail;
  struct {
    __attribute__((aligned(4))) uint16_t flags;
    uint16_t index;
    struct {
      uint32_t head, size;
    } elements[kRingSize];
  } used;
};

struct virtio_device;

struct virtio_queue {
  struct ring* ring;
  struct virtio_device* device;
  uint16_t index, size;
  uint16_t next_avail;  // offered so far, published or not
  uint16_t next_used;
  uint64_t notify;
};

struct virtio_device {
  bool io;  // registers are ports
  uint8_t line;
  uint64_t common, isr, config, notify;
  uint32_t notify_multiplier;
};

// Finds the nth device of a type, resets it and takes the features in `wanted` that it offers besides
// VERSION_1. False when there is none.
bool virtio_open(struct virtio_device* d, unsigned type, unsigned nth, uint64_t wanted);
// Gives the queue its memory. Between open and start.
void virtio_queue_open(struct virtio_queue* q, struct virtio_device* d, unsigned index, struct ring* memory);
// Driver ready; its interrupts come on from now.
void virtio_start(struct virtio_device* d);
uint32_t virtio_config8(const struct virtio_device* d, unsigned offset);
uint32_t virtio_config32(const struct virtio_device* d, unsigned offset);

// Offers the chain at `head`; the device sees it after virtio_publish().
void virtio_offer(struct virtio_queue* q, unsigned head);
// Shows the device everything offered. Whether it asks to be told of it.
bool virtio_publish(struct virtio_queue* q);
// Tells it, at the next idle() or flush_deferred().
void virtio_notify(struct virtio_queue* q);
// Takes one used chain; false when there is none.
bool virtio_take(struct virtio_queue* q, unsigned* head, uint32_t* written);
// Asks the device (it may ignore this) to interrupt for used chains or not to.
void virtio_interrupts(struct virtio_queue* q, bool wanted);
