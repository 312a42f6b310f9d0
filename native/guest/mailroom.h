// The mailroom's parts: operations (mailroom.c), journal (mailroom_journal.c), network and main loop
// (mailroom_net.c).
#pragma once

#include "mailroom_protocol.h"
#include "runtime/guest.h"

struct reply_buffer {
  struct mailroom_reply head;
  uint8_t body[MAILROOM_REPLY_BODY_MAX];
};

extern struct mailroom_stats stats;
extern uint64_t digest;

// ---- operations. A request given to these has a known op, a user below MAILROOM_USERS, and its whole body.
void rooms_open(uint32_t mails);
// All state that must be durable, as it lies in memory.
struct rooms {
  void* users;
  void* mails;
  uint32_t user_size, mail_size;
  uint32_t mail_slots, free_slots;
};
struct rooms rooms_state(void);
// After both arrays were filled again.
void rooms_restore(uint32_t mail_slots, uint32_t free_slots);
bool is_mutating(const struct mailroom_request* r);
enum turn { kNew, kAgain, kOld };
enum turn whose_turn(const struct mailroom_request* r);
// Each returns the reply's size.
uint32_t execute(const struct mailroom_request* r, const uint8_t* body, const struct reply_buffer** reply);
uint32_t last_reply(const struct mailroom_request* r, const struct reply_buffer** reply);
uint32_t refuse(const struct mailroom_request* r, uint16_t status, struct reply_buffer* reply);
uint32_t answer_query(const struct mailroom_request* r, struct reply_buffer* reply);

// ---- journal
enum { kCommitMax = 64 * 1024 };
// Opens the first disk, and executes what it holds. Panics when the disk holds something else.
void journal_open(void);
// Before the request is executed. Commits by itself when the group is full. False: the disk is
// too small.
bool journal_add(const struct mailroom_request* r, const uint8_t* body);
// Makes everything added durable. Panics when the disk fails: nothing undurable is ever acknowledged.
void journal_commit(void);
