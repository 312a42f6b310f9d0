// The mailroom's journal: every mutating request, in groups that are durable before any of their replies
// leaves. The chained checksums end the journal at the first commit that is not whole.
#include "mailroom.h"
#include "runtime/virtio.h"

enum { kSector = 512, kSegment = 16384, kWindow = 2 * kCommitMax, kRead = 0, kWrite = 1 };

static struct ring ring;
static struct virtio_device disk;
static struct virtio_queue queue;
static struct {
  uint32_t type, reserved;
  uint64_t sector;
} request;
static volatile uint8_t request_status;

static union {
  struct mailroom_commit head;
  uint8_t bytes[kCommitMax];
} commit __attribute__((aligned(4096)));
static uint32_t commit_size = sizeof commit.head;
static uint8_t window[kWindow] __attribute__((aligned(4096)));

static bool present;
static uint64_t capacity, end;  // bytes of disk; where the next commit goes
static uint64_t last_number, last_checksum;

// ---- disk

static void transfer(uint32_t type, uint64_t at, void* data, uint32_t size) {
  request.type = type;
  request.sector = at / kSector;
  request_status = 0xff;
  ring.descriptors[0] = (struct ring_descriptor){(uintptr_t)&request, 16, kRingNext, 1};
  unsigned n = 1;
  for (uint32_t done = 0; done < size; done += kSegment, n++)
    ring.descriptors[n] = (struct ring_descriptor){
        (uintptr_t)data + done, size - done < kSegment ? size - done : kSegment,
        (uint16_t)(kRingNext | (type == kRead ? kRingDeviceWrites : 0)), (uint16_t)(n + 1)};
  ring.descriptors[n] = (struct ring_descriptor){(uintptr_t)&request_status, 1, kRingDeviceWrites, 0};
  virtio_offer(&queue, 0);
  if (virtio_publish(&queue)) virtio_notify(&queue);
  unsigned head;
  uint32_t written;
  while (!virtio_take(&queue, &head, &written)) idle();
  if (request_status != 0) panic(type == kRead ? "reading the disk failed" : "writing the disk failed");
}

static uint64_t checksum(const void* data, uint32_t size) {
  const uint64_t* p = data;
  uint64_t sum = MAILROOM_DIGEST_BASIS;
  for (uint32_t i = 0; i < size / 8; i++) {
    sum = (sum ^ p[i]) * MAILROOM_DIGEST_PRIME;
    sum ^= sum >> 32;
  }
  return sum;
}

// ---- boot

static bool is_zero(const uint8_t* p, uint32_t size) {
  while (size > 0 && p[size - 1] == 0) size--;
  return size == 0;
}

static uint32_t record_size(const struct mailroom_request* r) {
  return ((uint32_t)sizeof *r + r->body_size + 7) & ~7u;
}

// Whether a whole commit that follows the last one lies at the window's offset.
static bool is_next(struct mailroom_commit* c, uint32_t available) {
  if (available < sizeof *c || c->magic != MAILROOM_DISK_MAGIC || c->number != last_number + 1 ||
      c->size < kSector || c->size > kCommitMax || c->size % kSector != 0 || c->size > available)
    return false;
  uint64_t sum = c->checksum;
  c->checksum = last_checksum;
  bool whole = checksum(c, c->size) == sum;
  c->checksum = sum;
  return whole;
}

static void execute_commit(const struct mailroom_commit* c) {
  const uint8_t *p = (const uint8_t*)(c + 1), *limit = (const uint8_t*)c + c->size;
  for (uint32_t i = 0; i < c->records; i++) {
    const struct mailroom_request* r = (const struct mailroom_request*)p;
    if ((size_t)(limit - p) < sizeof *r || (size_t)(limit - p) < record_size(r) ||
        r->user >= MAILROOM_USERS || !is_mutating(r))
      panic("the journal holds a bad record");
    const struct reply_buffer* reply;
    execute(r, p + sizeof *r, &reply);
    p += record_size(r);
  }
  digest = c->digest;
  stats.operations = c->operations;
  last_number = c->number;
  last_checksum = c->checksum;
  end += c->size;
}

static void replay(void) {
  uint64_t start = kSector;  // of the window
  uint32_t filled = 0;
  for (;;) {
    uint32_t offset = (uint32_t)(end - start);
    struct mailroom_commit* c = (struct mailroom_commit*)(window + offset);
    if (is_next(c, filled - offset)) {
      execute_commit(c);
    } else if (offset > 0 || filled == 0) {
      start = end;
      filled = capacity - start < kWindow ? (uint32_t)(capacity - start) : (uint32_t)kWindow;
      if (filled == 0) break;
      transfer(kRead, start, window, filled);
    } else {
      if (!is_zero(window, kSector)) {
        put_text("mailroom: dropped a torn tail of the journal\n");
        memset(window, 0, kCommitMax);
        transfer(kWrite, end, window, filled < kCommitMax ? filled : kCommitMax);
      }
      break;
    }
  }
  put_text("mailroom: journal ");
  put_decimal(last_number);
  put_text(" commits, ");
  put_decimal(end);
  put_text(" bytes\n");
}

void journal_open(void) {
  if (!option_number("disk", 1) || !virtio_open(&disk, kVirtioBlk, 0, 0)) {
    put_text("mailroom: no disk, nothing is durable\n");
    return;
  }
  virtio_queue_open(&queue, &disk, 0, &ring);
  if (queue.size < kWindow / kSegment + 2) panic("the disk's queue is too short");
  virtio_start(&disk);
  capacity = ((uint64_t)virtio_config32(&disk, 4) << 32 | virtio_config32(&disk, 0)) * kSector;
  if (capacity < 2 * kCommitMax) panic("the disk is too small");
  present = true;
  end = kSector;
  transfer(kRead, 0, window, kSector);
  struct mailroom_superblock* super = (struct mailroom_superblock*)window;
  if (is_zero(window, kSector)) {
    super->magic = MAILROOM_DISK_MAGIC;
    super->checksum_seed = MAILROOM_DIGEST_BASIS;
    transfer(kWrite, 0, window, kSector);
  } else if (super->magic != MAILROOM_DISK_MAGIC) {
    panic("the disk holds something else");
  }
  last_checksum = super->checksum_seed;
  replay();
  stats.journal_capacity = capacity;
  stats.journal_bytes = end;
}

// ---- service

static uint32_t padded(uint32_t size) { return (size + kSector - 1) & ~(uint32_t)(kSector - 1); }

bool journal_add(const struct mailroom_request* r, const uint8_t* body) {
  if (!present) return true;
  uint32_t size = record_size(r);
  if (commit_size + size > kCommitMax) journal_commit();
  if (end + padded(commit_size + size) > capacity) return false;
  memset(commit.bytes + commit_size + size - 8, 0, 8);
  memcpy(commit.bytes + commit_size, r, sizeof *r);
  memcpy(commit.bytes + commit_size + sizeof *r, body, r->body_size);
  commit_size += size;
  commit.head.records++;
  return true;
}

void journal_commit(void) {
  if (commit.head.records == 0) return;
  uint32_t size = padded(commit_size);
  memset(commit.bytes + commit_size, 0, size - commit_size);
  commit.head.magic = MAILROOM_DISK_MAGIC;
  commit.head.number = ++last_number;
  commit.head.digest = digest;
  commit.head.operations = stats.operations;
  commit.head.size = size;
  commit.head.checksum = last_checksum;
  last_checksum = commit.head.checksum = checksum(&commit, size);
  transfer(kWrite, end, &commit, size);
  end += size;
  stats.commits++;
  stats.journal_bytes = end;
  commit.head.records = 0;
  commit_size = sizeof commit.head;
}
