// virtio 1.2 over PCI: see virtio.h. Each ordering that the specification asks for is a compiler barrier:
// x86 keeps the rest, but for a store before a load.
#include "virtio.h"

enum {
  kDeviceFeatureSelect = 0,
  kDeviceFeature = 4,
  kDriverFeatureSelect = 8,
  kDriverFeature = 12,
  kStatus = 20,
  kQueueSelect = 22,
  kQueueSize = 24,
  kQueueEnable = 28,
  kQueueNotifyOff = 30,
  kQueueDescriptors = 32,
  kQueueDriver = 40,
  kQueueDevice = 48,
};
enum { kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8 };

static struct virtio_device* devices[8];
static unsigned device_count;

static void barrier(void) { __asm__ volatile("" ::: "memory"); }

// ---- PCI configuration, mechanism 1

static uint32_t pci_read(unsigned slot, unsigned offset) {
  out32(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
  return in32(0xcfc);
}

static void pci_write(unsigned slot, unsigned offset, uint32_t v) {
  out32(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
  out32(0xcfc, v);
}

static uint8_t pci_read8(unsigned slot, unsigned offset) {
  return (uint8_t)(pci_read(slot, offset) >> offset % 4 * 8);
}

// ---- registers

static uint32_t read_register(const struct virtio_device* d, uint64_t at, unsigned size) {
  if (d->io) return size == 1 ? in8((uint16_t)at) : size == 2 ? in16((uint16_t)at) : in32((uint16_t)at);
  if (size == 1) return *(volatile uint8_t*)at;
  return size == 2 ? *(volatile uint16_t*)at : *(volatile uint32_t*)at;
}

static void write_register(const struct virtio_device* d, uint64_t at, unsigned size, uint32_t v) {
  if (d->io) {
    if (size == 1)
      out8((uint16_t)at, (uint8_t)v);
    else if (size == 2)
      out16((uint16_t)at, (uint16_t)v);
    else
      out32((uint16_t)at, v);
  } else if (size == 1) {
    *(volatile uint8_t*)at = (uint8_t)v;
  } else if (size == 2) {
    *(volatile uint16_t*)at = (uint16_t)v;
  } else {
    *(volatile uint32_t*)at = v;
  }
}

static void write_address(const struct virtio_device* d, unsigned offset, const void* p) {
  write_register(d, d->common + offset, 4, (uint32_t)(uintptr_t)p);
  write_register(d, d->common + offset + 4, 4, (uint32_t)((uintptr_t)p >> 32));
}

static void add_status(struct virtio_device* d, uint8_t bits) {
  write_register(d, d->common + kStatus, 1, read_register(d, d->common + kStatus, 1) | bits);
}

// Takes the registers in BARs of one kind; false when some are missing.
static bool find_registers(struct virtio_device* d, unsigned slot, bool io) {
  d->io = io;
  d->common = d->isr = d->config = d->notify = 0;
  unsigned at = pci_read8(slot, 0x34) & 0xfc;
  for (int n = 0; at >= 0x40 && n < 48; n++, at = pci_read8(slot, at + 1) & 0xfc) {
    uint32_t head = pci_read(slot, at);
    unsigned bar = pci_read8(slot, at + 4);
    if ((head & 0xff) != 9 || bar > 5) continue;
    uint32_t base = pci_read(slot, 0x10 + 4 * bar);
    if ((base & 1) != io) continue;
    uint64_t address = base & (io ? 0xfffffffcu : 0xfffffff0u);
    if (!io && (base & 6) == 4 && bar < 5) address |= (uint64_t)pci_read(slot, 0x14 + 4 * bar) << 32;
    if (address == 0 || address >= 0x100000000) continue;
    address += pci_read(slot, at + 8);
    switch (head >> 24) {
      case 1:
        if (d->common == 0) d->common = address;
        break;
      case 2:
        if (d->notify == 0) {
          d->notify = address;
          d->notify_multiplier = pci_read(slot, at + 16);
        }
        break;
      case 3:
        if (d->isr == 0) d->isr = address;
        break;
      case 4:
        if (d->config == 0) d->config = address;
        break;
      default:
        break;
    }
  }
  return d->common != 0 && d->isr != 0 && d->config != 0 && d->notify != 0;
}

// ---- devices

bool virtio_open(struct virtio_device* d, unsigned type, unsigned nth, uint64_t wanted) {
  unsigned slot = 0;
  while (slot < 32 && (pci_read(slot, 0) != (0x10401af4u + (type << 16)) || nth-- > 0)) slot++;
  if (slot == 32) return false;
  if (!find_registers(d, slot, true) && !find_registers(d, slot, false)) return false;
  d->line = pci_read8(slot, 0x3c) & 15;
  pci_write(slot, 4, (pci_read(slot, 4) & 0xfbff) | 7);  // I/O, memory, bus master; INTx on

  write_register(d, d->common + kStatus, 1, 0);
  while (read_register(d, d->common + kStatus, 1) != 0) continue;
  add_status(d, kAcknowledge);
  add_status(d, kDriver);
  wanted |= 1ULL << 32;  // VERSION_1
  for (unsigned half = 0; half < 2; half++) {
    write_register(d, d->common + kDeviceFeatureSelect, 4, half);
    uint32_t taken = read_register(d, d->common + kDeviceFeature, 4) & (uint32_t)(wanted >> 32 * half);
    write_register(d, d->common + kDriverFeatureSelect, 4, half);
    write_register(d, d->common + kDriverFeature, 4, taken);
  }
  add_status(d, kFeaturesOk);
  return (read_register(d, d->common + kStatus, 1) & kFeaturesOk) != 0;
}

void virtio_queue_open(struct virtio_queue* q, struct virtio_device* d, unsigned index, struct ring* memory) {
  write_register(d, d->common + kQueueSelect, 2, index);
  uint32_t size = read_register(d, d->common + kQueueSize, 2);
  while (size > kRingSize) size >>= 1;
  if (size == 0) panic("virtio device lacks a queue");
  write_register(d, d->common + kQueueSize, 2, size);
  write_address(d, kQueueDescriptors, &memory->descriptors);
  write_address(d, kQueueDriver, &memory->avail);
  write_address(d, kQueueDevice, &memory->used);
  uint64_t offset = (uint64_t)read_register(d, d->common + kQueueNotifyOff, 2) * d->notify_multiplier;
  write_register(d, d->common + kQueueEnable, 2, 1);
  *q = (struct virtio_queue){.ring = memory,
                             .device = d,
                             .index = (uint16_t)index,
                             .size = (uint16_t)size,
                             .notify = d->notify + offset};
}

static void read_isr(unsigned line) {
  for (unsigned i = 0; i < device_count; i++)
    if (devices[i]->line == line) read_register(devices[i], devices[i]->isr, 1);
}

void virtio_start(struct virtio_device* d) {
  if (device_count == sizeof devices / sizeof devices[0]) panic("too many virtio devices");
  devices[device_count++] = d;
  irq_enable(d->line, read_isr, true);
  add_status(d, kDriverOk);
}

uint32_t virtio_config8(const struct virtio_device* d, unsigned offset) {
  return read_register(d, d->config + offset, 1);
}

uint32_t virtio_config32(const struct virtio_device* d, unsigned offset) {
  return read_register(d, d->config + offset, 4);
}

// ---- queues

void virtio_offer(struct virtio_queue* q, unsigned head) {
  q->ring->avail.heads[q->next_avail++ & (q->size - 1)] = (uint16_t)head;
}

bool virtio_publish(struct virtio_queue* q) {
  barrier();
  *(volatile uint16_t*)&q->ring->avail.index = q->next_avail;
  __asm__ volatile("lock addl $0, (%%rsp)" ::: "memory", "cc");  // before the flag is read
  return (*(volatile uint16_t*)&q->ring->used.flags & 1) == 0;
}

void virtio_notify(struct virtio_queue* q) {
  if (q->device->io)
    defer_out16((uint16_t)q->notify, q->index);
  else
    write_register(q->device, q->notify, 2, q->index);
}

bool virtio_take(struct virtio_queue* q, unsigned* head, uint32_t* written) {
  if (*(volatile uint16_t*)&q->ring->used.index == q->next_used) return false;
  barrier();
  unsigned i = q->next_used++ & (q->size - 1);
  *head = q->ring->used.elements[i].head;
  *written = q->ring->used.elements[i].size;
  if (*head >= q->size) panic("virtio device returned a chain that is none");
  return true;
}

void virtio_interrupts(struct virtio_queue* q, bool wanted) {
  *(volatile uint16_t*)&q->ring->avail.flags = !wanted;
  __asm__ volatile("lock addl $0, (%%rsp)" ::: "memory", "cc");  // before the used index is read
}
