// The mailroom's journal: every mutating request, in groups that are durable before any of their replies
// leaves. Chained checksums end it at the first commit that is not whole. When half the disk is full, all
// state is written to the other half as a checkpoint, and the journal goes on behind it.
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
static uint64_t half_size, half;  // bytes; 0 or 1
static uint64_t end;              // where the next commit goes, from the disk's start
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

static void transfer_all(uint32_t type, uint64_t at, uint8_t* data, uint32_t size) {
  for (uint32_t done = 0; done < size; done += kCommitMax)
    transfer(type, at + done, data + done, size - done < kCommitMax ? size - done : kCommitMax);
}

static uint64_t checksum(uint64_t sum, const void* data, uint32_t size) {
  const uint64_t* p = data;
  for (uint32_t i = 0; i < size / 8; i++) {
    sum = (sum ^ p[i]) * MAILROOM_DIGEST_PRIME;
    sum ^= sum >> 32;
  }
  return sum;
}

static uint32_t padded(uint32_t size) { return (size + kSector - 1) & ~(uint32_t)(kSector - 1); }

// ---- checkpoint

static uint64_t half_start(uint64_t which) { return kSector + which * half_size; }

static uint32_t users_bytes(const struct rooms* r) { return MAILROOM_USERS * r->user_size; }

static uint64_t rooms_checksum(const struct rooms* r) {
  uint64_t sum = checksum(MAILROOM_DIGEST_BASIS, r->users, users_bytes(r));
  return checksum(sum, r->mails, r->mail_slots * r->mail_size);
}

// Where commits start behind a checkpoint with so many mails.
static uint64_t journal_start(uint64_t which, const struct rooms* r) {
  return half_start(which) + padded(users_bytes(r)) + padded(r->mail_slots * r->mail_size);
}

// Moves to the other half; false, with nothing changed, when it has no room for the state and a full commit.
static bool checkpoint(uint64_t to) {
  struct rooms r = rooms_state();
  uint64_t start = half_start(to), start_of_commits = journal_start(to, &r);
  if (start_of_commits + kCommitMax > start + half_size) return false;
  transfer_all(kWrite, start, r.users, padded(users_bytes(&r)));
  transfer_all(kWrite, start + padded(users_bytes(&r)), r.mails, padded(r.mail_slots * r.mail_size));
  last_checksum = rooms_checksum(&r);
  memset(window, 0, kSector);
  *(struct mailroom_superblock*)window = (struct mailroom_superblock){.magic = MAILROOM_DISK_MAGIC,
                                                                      .half = to,
                                                                      .number = last_number,
                                                                      .checksum = last_checksum,
                                                                      .digest = digest,
                                                                      .operations = stats.operations,
                                                                      .user_size = r.user_size,
                                                                      .mail_size = r.mail_size,
                                                                      .mail_slots = r.mail_slots,
                                                                      .free_slots = r.free_slots,
                                                                      .mails = stats.mails};
  transfer(kWrite, 0, window, kSector);
  half = to;
  end = start_of_commits;
  stats.checkpoints++;
  return true;
}

static void load_checkpoint(const struct mailroom_superblock* super) {
  struct rooms r = rooms_state();
  if (super->half > 1 || super->user_size != r.user_size || super->mail_size != r.mail_size)
    panic("the disk is of another version");
  if (super->mail_slots > stats.mail_capacity) panic("the disk holds more mails than mails= allows");
  r.mail_slots = super->mail_slots;
  half = super->half;
  end = journal_start(half, &r);
  if (end > half_start(half) + half_size) panic("the disk is shorter than it was");
  last_number = super->number;
  last_checksum = super->checksum;
  digest = super->digest;
  stats.operations = super->operations;
  stats.mails = super->mails;
  rooms_restore(super->mail_slots, super->free_slots);
  transfer_all(kRead, half_start(half), r.users, padded(users_bytes(&r)));
  transfer_all(kRead, half_start(half) + padded(users_bytes(&r)), r.mails,
               padded(r.mail_slots * r.mail_size));
  if (rooms_checksum(&r) != last_checksum) panic("the disk's checkpoint is damaged");
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
  bool whole = checksum(MAILROOM_DIGEST_BASIS, c, c->size) == sum;
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
  const uint64_t limit = half_start(half) + half_size;
  uint64_t start = end;  // of the window
  uint32_t filled = 0;
  for (;;) {
    uint32_t offset = (uint32_t)(end - start);
    struct mailroom_commit* c = (struct mailroom_commit*)(window + offset);
    if (is_next(c, filled - offset)) {
      execute_commit(c);
    } else if (offset > 0 || filled == 0) {
      start = end;
      filled = limit - start < kWindow ? (uint32_t)(limit - start) : (uint32_t)kWindow;
      if (filled == 0) break;
      transfer(kRead, start, window, filled);
    } else {
      if (c->magic == MAILROOM_DISK_MAGIC && c->number == last_number + 1)
        put_text("mailroom: dropped a torn tail of the journal\n");
      break;
    }
  }
  put_text("mailroom: journal ");
  put_decimal(last_number);
  put_text(" commits, ");
  put_decimal(end - half_start(half));
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
  uint64_t sectors = (uint64_t)virtio_config32(&disk, 4) << 32 | virtio_config32(&disk, 0);
  half_size = (sectors - 1) / 2 * kSector;
  if (sectors < 2 || sectors >> 32 != 0) panic("the disk's size is no good");
  transfer(kRead, 0, window, kSector);
  static struct mailroom_superblock super;
  super = *(struct mailroom_superblock*)window;
  if (is_zero(window, kSector)) {
    if (!checkpoint(0)) panic("the disk is too small");
  } else if (super.magic != MAILROOM_DISK_MAGIC) {
    panic("the disk holds something else");
  } else {
    load_checkpoint(&super);
    replay();
  }
  present = true;
  stats.journal_capacity = half_size;
  stats.journal_bytes = end - half_start(half);
}

// ---- service

bool journal_add(const struct mailroom_request* r, const uint8_t* body) {
  if (!present) return true;
  uint32_t size = record_size(r);
  if (commit_size + size > kCommitMax) journal_commit();
  if (end + padded(commit_size + size) > half_start(half) + half_size) {
    journal_commit();
    if (!checkpoint(1 - half)) return false;
  }
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
  last_checksum = commit.head.checksum = checksum(MAILROOM_DIGEST_BASIS, &commit, size);
  transfer(kWrite, end, &commit, size);
  end += size;
  stats.commits++;
  stats.journal_bytes = end - half_start(half);
  commit.head.records = 0;
  commit_size = sizeof commit.head;
}
