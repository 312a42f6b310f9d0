// The mailroom's network: Ethernet, ARP, IPv4, ICMP echo and UDP, just enough to serve one port; and the main
// loop. A frame is trusted in nothing: what does not check out is dropped and counted.
#include "mailroom.h"
#include "runtime/virtio.h"

enum {
  kBuffer = 2048,
  kHeader = 12,  // virtio_net_hdr with VERSION_1
  kEthernet = 14,
  kIp = 20,
  kUdp = 8,
  kFrameMax = 1514,
  kArpType = 0x0806,
  kIpType = 0x0800,
};

static struct ring receive_ring, transmit_ring;
static struct virtio_device nic;
static struct virtio_queue receive, transmit;
static uint8_t receive_buffers[kRingSize][kBuffer], transmit_buffers[kRingSize][kBuffer];
static uint16_t free_buffers[kRingSize];
static unsigned free_count, offered;
static uint8_t mac[6], ip[4];

static uint16_t get16(const uint8_t* p) { return (uint16_t)(p[0] << 8 | p[1]); }

static void put16(uint8_t* p, uint32_t v) {
  p[0] = (uint8_t)(v >> 8);
  p[1] = (uint8_t)v;
}

// The Internet checksum's sum, to be folded by finish().
static uint32_t sum_words(uint32_t sum, const uint8_t* p, uint32_t size) {
  for (; size > 1; size -= 2, p += 2) sum += get16(p);
  return size > 0 ? sum + (uint32_t)(p[0] << 8) : sum;
}

static uint16_t finish(uint32_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~sum;
}

// ---- out

static void reclaim(void) {
  unsigned head;
  uint32_t written;
  while (virtio_take(&transmit, &head, &written)) {
    if (free_count == transmit.size) panic("virtio-net returned a buffer twice");
    free_buffers[free_count++] = (uint16_t)head;
  }
}

// A frame's buffer, or NULL when the device holds all of them.
static uint8_t* new_frame(void) {
  if (free_count == 0) reclaim();
  return free_count > 0 ? transmit_buffers[free_buffers[free_count - 1]] + kHeader : NULL;
}

// Sends what new_frame() gave; it leaves with the batch.
static void send_frame(uint32_t size) {
  unsigned n = free_buffers[--free_count];
  if (size < 60) {
    memset(transmit_buffers[n] + kHeader + size, 0, 60 - size);
    size = 60;
  }
  transmit_ring.descriptors[n].size = kHeader + size;
  virtio_offer(&transmit, n);
  offered++;
}

// Ethernet and IP headers of an answer to `in`, whose header they mirror.
static void start_answer(uint8_t* out, const uint8_t* in, uint8_t protocol, uint32_t payload) {
  memcpy(out, in + 6, 6);
  memcpy(out + 6, mac, 6);
  put16(out + 12, kIpType);
  uint8_t* h = out + kEthernet;
  memset(h, 0, kIp);
  h[0] = 0x45;
  put16(h + 2, kIp + payload);
  h[6] = 0x40;  // don't fragment
  h[8] = 64;
  h[9] = protocol;
  memcpy(h + 12, ip, 4);
  memcpy(h + 16, in + kEthernet + 12, 4);
  put16(h + 10, finish(sum_words(0, h, kIp)));
}

static uint32_t pseudo_sum(const uint8_t* ip_header, uint32_t udp_size) {
  return sum_words(17 + udp_size, ip_header + 12, 8);
}

static void answer_udp(const uint8_t* in, const uint8_t* in_udp, const void* data, uint32_t size) {
  uint8_t* out = new_frame();
  if (out == NULL) return;  // the client asks again
  start_answer(out, in, 17, kUdp + size);
  uint8_t* udp = out + kEthernet + kIp;
  put16(udp, MAILROOM_PORT);
  memcpy(udp + 2, in_udp, 2);
  put16(udp + 4, kUdp + size);
  put16(udp + 6, 0);
  memcpy(udp + kUdp, data, size);
  uint16_t sum = finish(sum_words(pseudo_sum(out + kEthernet, kUdp + size), udp, kUdp + size));
  put16(udp + 6, sum == 0 ? 0xffff : sum);
  send_frame(kEthernet + kIp + kUdp + size);
}

// ---- in. Each handler: false when the frame is malformed.

static bool on_request(const uint8_t* frame, const uint8_t* udp, uint32_t size) {
  struct mailroom_request r;
  if (size < sizeof r) return false;
  memcpy(&r, udp + kUdp, sizeof r);
  const uint8_t* body = udp + kUdp + sizeof r;
  if (r.magic != MAILROOM_REQUEST_MAGIC || r.version != MAILROOM_VERSION || r.op < MAILROOM_LOGIN ||
      r.op > MAILROOM_STATS || r.user >= MAILROOM_USERS || r.body_size != size - sizeof r ||
      r.body_size > MAILROOM_BODY_MAX || r.reserved != 0)
    return false;

  static struct reply_buffer scratch;
  const struct reply_buffer* reply = &scratch;
  uint32_t reply_size;
  enum turn turn = whose_turn(&r);
  if (r.op == MAILROOM_DIGEST || r.op == MAILROOM_STATS) {
    reply_size = answer_query(&r, &scratch);
  } else if (turn == kAgain) {
    stats.retransmissions++;
    reply_size = last_reply(&r, &reply);
  } else if (turn == kOld) {
    stats.stale++;
    reply_size = refuse(&r, MAILROOM_STALE, &scratch);
  } else if (is_mutating(&r) && !journal_add(&r, body)) {
    reply_size = refuse(&r, MAILROOM_JOURNAL_FULL, &scratch);
  } else {
    reply_size = execute(&r, body, &reply);
  }
  answer_udp(frame, udp, reply, reply_size);
  return true;
}

static bool on_icmp(const uint8_t* frame, const uint8_t* icmp, uint32_t size) {
  if (size < 8 || finish(sum_words(0, icmp, size)) != 0) return false;
  uint8_t* out = icmp[0] == 8 && icmp[1] == 0 ? new_frame() : NULL;
  if (out == NULL) return true;
  start_answer(out, frame, 1, size);
  uint8_t* p = out + kEthernet + kIp;
  memcpy(p, icmp, size);
  put16(p, 0);
  put16(p + 2, 0);
  put16(p + 2, finish(sum_words(0, p, size)));
  send_frame(kEthernet + kIp + size);
  return true;
}

static bool on_ip(const uint8_t* frame, uint32_t size) {
  const uint8_t* h = frame + kEthernet;
  size -= kEthernet;
  if (size < kIp || h[0] >> 4 != 4) return false;
  uint32_t header = (h[0] & 15u) * 4, total = get16(h + 2);
  if (header < kIp || total < header || total > size || finish(sum_words(0, h, header)) != 0) return false;
  if (memcmp(h + 16, ip, 4) != 0) return true;
  if ((get16(h + 6) & 0x3fff) != 0) return false;  // a fragment
  // A source that nobody has would make answers a broadcast.
  if (h[12] == 0 || h[12] == 127 || h[12] >= 224 || (frame[6] & 1) != 0) return false;
  const uint8_t* payload = h + header;
  uint32_t payload_size = total - header;
  if (h[9] == 1) return on_icmp(frame, payload, payload_size);
  if (h[9] != 17) return true;
  if (payload_size < kUdp) return false;
  uint32_t udp_size = get16(payload + 4);
  if (udp_size < kUdp || udp_size > payload_size) return false;
  if (get16(payload + 6) != 0 && finish(sum_words(pseudo_sum(h, udp_size), payload, udp_size)) != 0)
    return false;
  if (get16(payload + 2) != MAILROOM_PORT || get16(payload) == 0) return true;
  return on_request(frame, payload, udp_size - kUdp);
}

static bool on_arp(const uint8_t* frame, uint32_t size) {
  static const uint8_t kRequest[8] = {0, 1, 8, 0, 6, 4, 0, 1};
  const uint8_t* arp = frame + kEthernet;
  if (size < kEthernet + 28) return false;
  if (memcmp(arp, kRequest, 8) != 0 || memcmp(arp + 24, ip, 4) != 0) return true;
  if ((frame[6] & 1) != 0) return false;
  uint8_t* out = new_frame();
  if (out == NULL) return true;
  memcpy(out, frame + 6, 6);
  memcpy(out + 6, mac, 6);
  put16(out + 12, kArpType);
  memcpy(out + kEthernet, kRequest, 8);
  out[kEthernet + 7] = 2;
  memcpy(out + kEthernet + 8, mac, 6);
  memcpy(out + kEthernet + 14, ip, 4);
  memcpy(out + kEthernet + 18, arp + 8, 10);
  send_frame(kEthernet + 28);
  return true;
}

static void on_frame(const uint8_t* frame, uint32_t size) {
  static const uint8_t kBroadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  stats.frames++;
  bool good = size >= kEthernet && size <= kFrameMax;
  bool ours = good && memcmp(frame, mac, 6) == 0;
  if (good && get16(frame + 12) == kArpType && (ours || memcmp(frame, kBroadcast, 6) == 0))
    good = on_arp(frame, size);
  else if (ours && get16(frame + 12) == kIpType)
    good = on_ip(frame, size);
  if (!good) stats.malformed++;
}

// ---- the loop

// Handles what has been received, at most as many frames as there are answers to hold; how many.
static unsigned receive_batch(void) {
  unsigned head, n = 0;
  uint32_t written;
  reclaim();
  while (n < transmit.size && (free_count > 0 || offered == 0) && virtio_take(&receive, &head, &written)) {
    if (written > kHeader && written <= kBuffer) on_frame(receive_buffers[head] + kHeader, written - kHeader);
    virtio_offer(&receive, head);
    n++;
  }
  return n;
}

// Gives the taken buffers back. A device that has buffers left does not wait to be told of more.
static void refill(uint16_t avail_before) {
  bool wanted = virtio_publish(&receive);
  uint16_t left = (uint16_t)(avail_before - *(volatile uint16_t*)&receive_ring.used.index);
  if (wanted && left < receive.size / 4) virtio_notify(&receive);
}

static void serve(void) {
  virtio_interrupts(&receive, false);
  for (;;) {
    uint16_t avail_before = receive.next_avail;
    if (receive_batch() > 0) {
      refill(avail_before);
      journal_commit();
      if (offered > 0 && virtio_publish(&transmit)) virtio_notify(&transmit);
      offered = 0;
    }
    // All was taken: sleep. Deferred notifications go out with the same exit to CPL 0.
    virtio_interrupts(&receive, true);
    if (*(volatile uint16_t*)&receive_ring.used.index == receive.next_used) {
      stats.wakeups++;
      idle();
    } else {
      flush_deferred();
    }
    virtio_interrupts(&receive, false);
  }
}

static void read_address(void) {
  const char* p = option("ip");
  if (p == NULL) p = "10.77.0.2";
  for (int i = 0; i < 4; i++, p++) {
    unsigned v = 0;
    for (; *p >= '0' && *p <= '9' && v < 256; p++) v = v * 10 + (unsigned)(*p - '0');
    if (v > 255 || (i < 3 && *p != '.')) panic("bad ip=");
    ip[i] = (uint8_t)v;
  }
}

void guest_main(void) {
  read_address();
  rooms_open((uint32_t)option_number("mails", 16384));
  journal_open();
  if (!virtio_open(&nic, kVirtioNet, 0, 1u << 5)) panic("no network");  // VIRTIO_NET_F_MAC
  virtio_queue_open(&receive, &nic, 0, &receive_ring);
  virtio_queue_open(&transmit, &nic, 1, &transmit_ring);
  for (unsigned i = 0; i < 6; i++) mac[i] = (uint8_t)virtio_config8(&nic, i);
  for (unsigned i = 0; i < receive.size; i++) {
    receive_ring.descriptors[i] =
        (struct ring_descriptor){(uintptr_t)receive_buffers[i], kBuffer, kRingDeviceWrites, 0};
    virtio_offer(&receive, i);
  }
  for (unsigned i = 0; i < transmit.size; i++) {
    transmit_ring.descriptors[i].address = (uintptr_t)transmit_buffers[i];
    free_buffers[free_count++] = (uint16_t)i;
  }
  virtio_interrupts(&transmit, false);
  virtio_start(&nic);
  virtio_publish(&receive);
  virtio_notify(&receive);
  put_text("mailroom ready\n");
  serve();
}
