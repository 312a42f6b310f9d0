// The mailroom's requests and replies as they lie in a UDP payload, little endian, and the disk's records.
// Plain C, so that host programs and tests can include it. docs/guests.md says what each means.
#pragma once

#include <stdint.h>

enum {
  MAILROOM_PORT = 2525,
  MAILROOM_VERSION = 1,
  MAILROOM_USERS = 256,     // user ids 0..255
  MAILROOM_BODY_MAX = 512,  // of one mail
  MAILROOM_LIST_MAX = 64,   // entries in one reply
  MAILROOM_REPLY_BODY_MAX = 768,
};
#define MAILROOM_REQUEST_MAGIC 0x524d5448u  // "HTMR"
#define MAILROOM_REPLY_MAGIC 0x504d5448u    // "HTMP"

enum mailroom_op {
  MAILROOM_LOGIN = 1,
  MAILROOM_LIST = 2,
  MAILROOM_READ = 3,
  MAILROOM_SEND = 4,
  MAILROOM_FLAG = 5,
  MAILROOM_DELETE = 6,
  MAILROOM_DIGEST = 7,
  MAILROOM_STATS = 8,
};

enum mailroom_status {
  MAILROOM_OK = 0,
  MAILROOM_NOT_LOGGED_IN = 1,  // the session is not the user's last login
  MAILROOM_NO_SUCH_MAIL = 2,
  MAILROOM_BAD_ARGUMENT = 3,
  MAILROOM_MAIL_FULL = 4,     // no room for one more mail until some is deleted
  MAILROOM_JOURNAL_FULL = 5,  // not executed: the disk is too small for the mails held
  MAILROOM_STALE = 6,         // not executed: seq is below the last one, which is in value
};

struct mailroom_request {
  uint32_t magic;
  uint8_t version;
  uint8_t op;
  uint16_t user;
  uint64_t seq;
  uint32_t arg0;
  uint32_t arg1;
  uint32_t session;
  uint16_t body_size;
  uint16_t reserved;  // 0
  // body_size bytes follow
};

struct mailroom_reply {
  uint32_t magic;
  uint8_t version;
  uint8_t op;
  uint16_t user;
  uint64_t seq;
  uint16_t status;
  uint16_t body_size;
  uint32_t arg0;
  uint64_t value;
  // body_size bytes follow
};

struct mailroom_list_entry {
  uint32_t id;
  uint16_t from;
  uint16_t body_size;
  uint8_t flags;
  uint8_t reserved[3];
};

struct mailroom_digest {  // body of a digest reply
  uint64_t digest;
  uint64_t operations;
};

struct mailroom_stats {  // body of a stats reply
  uint64_t operations;   // acknowledged, as in mailroom_digest
  uint64_t mails;        // held now
  uint64_t mail_capacity;
  uint64_t retransmissions;  // requests answered from the last reply
  uint64_t stale;
  uint64_t malformed;  // frames for us that were dropped
  uint64_t commits;
  uint64_t checkpoints;
  uint64_t journal_bytes;     // used of the disk's current half
  uint64_t journal_capacity;  // of a half; 0: no disk
  uint64_t wakeups;
  uint64_t frames;  // received
};

// The digest, FNV-1a: starts with the basis; for each operation takes in user (2 bytes), seq (8), op (1),
// arg0 (4), arg1 (4), status (2), each little endian, then the body.
#define MAILROOM_DIGEST_BASIS 0xcbf29ce484222325u
#define MAILROOM_DIGEST_PRIME 0x100000001b3u

// ---- disk. Sector 0 holds the superblock. The rest is two halves of whole sectors; the current one starts
// with a checkpoint (users, then mails, each padded to 512 bytes), and commits follow.
#define MAILROOM_DISK_MAGIC 0x314a4d5448ULL  // "HTMJ1"

struct mailroom_superblock {
  uint64_t magic;
  uint64_t half;      // 0 or 1: the current one
  uint64_t number;    // of the last commit before the checkpoint
  uint64_t checksum;  // of users and mails, before padding; the next commit's is chained to it
  uint64_t digest;    // at the checkpoint
  uint64_t operations;
  uint32_t user_size, mail_size;  // of one record, as this version has them
  uint32_t mail_slots;
  uint32_t free_slots;  // the first free slot + 1, or 0
  uint64_t mails;
};

struct mailroom_commit {
  uint64_t magic;     // MAILROOM_DISK_MAGIC
  uint64_t number;    // one more than the previous
  uint64_t checksum;  // over 8-byte words of the whole commit with the previous checksum here
  uint64_t digest;    // after this commit
  uint64_t operations;
  uint32_t records;
  uint32_t size;  // bytes with this header, a multiple of 512
  // the requests (struct mailroom_request and body), each padded to 8 bytes
};
