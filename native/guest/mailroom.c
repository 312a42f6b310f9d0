// mailroom: a mail-like UDP server, durable on a virtio disk. docs/guests.md has its protocol and options.
// This file: the users, their mails and the operations. It knows neither network nor disk.
#include "mailroom.h"

struct __attribute__((aligned(8))) mail {
  uint32_t id;  // generation << 16 | slot; 0: free
  uint16_t generation;
  uint16_t from, to;
  uint16_t body_size;
  uint8_t flags;
  uint32_t older, newer;  // slots of the same mailbox + 1; `newer` also links the free list
  uint8_t body[MAILROOM_BODY_MAX];
};

struct user {
  uint64_t last_seq;
  uint32_t session;
  uint32_t oldest, newest, mails;
  struct reply_buffer reply;  // to last_seq
};

static struct user users[MAILROOM_USERS] __attribute__((aligned(4096)));
static struct mail* pool;  // behind the program; slots from `used_slots` on were never touched
static uint32_t capacity, used_slots, free_slots;
struct mailroom_stats stats;
uint64_t digest = MAILROOM_DIGEST_BASIS;

void rooms_open(uint32_t wanted) {
  const uint64_t padding = 512;  // of a checkpoint
  uint64_t behind = memory_size() - (uintptr_t)image_end;
  uint64_t room = behind > padding ? (behind - padding) / sizeof(struct mail) : 0;
  pool = (struct mail*)image_end;
  capacity = wanted > 0xffff ? 0xffff : wanted;
  if (capacity > room) capacity = (uint32_t)room;
  stats.mail_capacity = capacity;
}

struct rooms rooms_state(void) {
  return (struct rooms){users, pool, sizeof users[0], sizeof pool[0], used_slots, free_slots};
}

void rooms_restore(uint32_t mail_slots, uint32_t first_free) {
  used_slots = mail_slots;
  free_slots = first_free;
}

static void take_in(const void* data, size_t size) {
  const uint8_t* p = data;
  for (size_t i = 0; i < size; i++) digest = (digest ^ p[i]) * MAILROOM_DIGEST_PRIME;
}

// The user's mail with this id, or NULL.
static struct mail* find(uint16_t user, uint32_t id) {
  uint32_t slot = id & 0xffff;
  if (id == 0 || slot >= used_slots) return NULL;
  struct mail* m = &pool[slot];
  return m->id == id && m->to == user ? m : NULL;
}

static uint16_t send_mail(const struct mailroom_request* r, const uint8_t* body, struct reply_buffer* reply) {
  if (r->arg0 >= MAILROOM_USERS || r->body_size > MAILROOM_BODY_MAX) return MAILROOM_BAD_ARGUMENT;
  uint32_t slot;
  if (free_slots != 0) {
    slot = free_slots - 1;
    free_slots = pool[slot].newer;
  } else if (used_slots < capacity) {
    slot = used_slots++;
    pool[slot].generation = 0;
  } else {
    return MAILROOM_MAIL_FULL;
  }
  struct mail* m = &pool[slot];
  struct user* to = &users[r->arg0];
  if (++m->generation == 0) m->generation = 1;
  m->id = (uint32_t)m->generation << 16 | slot;
  m->from = r->user;
  m->to = (uint16_t)r->arg0;
  m->flags = 0;
  m->body_size = r->body_size;
  memcpy(m->body, body, r->body_size);
  m->newer = 0;
  m->older = to->newest;
  if (to->newest != 0)
    pool[to->newest - 1].newer = slot + 1;
  else
    to->oldest = slot + 1;
  to->newest = slot + 1;
  to->mails++;
  stats.mails++;
  reply->head.arg0 = m->id;
  return MAILROOM_OK;
}

static uint16_t delete_mail(const struct mailroom_request* r) {
  struct mail* m = find(r->user, r->arg0);
  if (m == NULL) return MAILROOM_NO_SUCH_MAIL;
  struct user* u = &users[r->user];
  if (m->older != 0)
    pool[m->older - 1].newer = m->newer;
  else
    u->oldest = m->newer;
  if (m->newer != 0)
    pool[m->newer - 1].older = m->older;
  else
    u->newest = m->older;
  u->mails--;
  stats.mails--;
  m->id = 0;
  m->newer = free_slots;
  free_slots = (uint32_t)(m - pool) + 1;
  return MAILROOM_OK;
}

static uint16_t flag_mail(const struct mailroom_request* r) {
  struct mail* m = find(r->user, r->arg0);
  if (m == NULL) return MAILROOM_NO_SUCH_MAIL;
  if (r->arg1 > 0xff) return MAILROOM_BAD_ARGUMENT;
  m->flags = (uint8_t)r->arg1;
  return MAILROOM_OK;
}

static uint16_t list_mails(const struct mailroom_request* r, struct reply_buffer* reply) {
  uint32_t next = users[r->user].oldest;
  if (r->arg0 != 0) {
    const struct mail* after = find(r->user, r->arg0);
    if (after == NULL) return MAILROOM_NO_SUCH_MAIL;
    next = after->newer;
  }
  uint32_t limit = r->arg1 == 0 || r->arg1 > MAILROOM_LIST_MAX ? MAILROOM_LIST_MAX : r->arg1;
  struct mailroom_list_entry* e = (struct mailroom_list_entry*)reply->body;
  uint32_t n = 0;
  for (; next != 0 && n < limit; n++) {
    const struct mail* m = &pool[next - 1];
    e[n] = (struct mailroom_list_entry){
        .id = m->id, .from = m->from, .body_size = m->body_size, .flags = m->flags};
    next = m->newer;
  }
  reply->head.arg0 = n;
  reply->head.value = users[r->user].mails;
  reply->head.body_size = (uint16_t)(n * sizeof *e);
  return MAILROOM_OK;
}

static uint16_t read_mail(const struct mailroom_request* r, struct reply_buffer* reply) {
  const struct mail* m = find(r->user, r->arg0);
  if (m == NULL) return MAILROOM_NO_SUCH_MAIL;
  memcpy(reply->body, m->body, m->body_size);
  reply->head.body_size = m->body_size;
  reply->head.arg0 = m->flags;
  reply->head.value = m->from;
  return MAILROOM_OK;
}

static uint16_t perform(const struct mailroom_request* r, const uint8_t* body, struct reply_buffer* reply) {
  struct user* u = &users[r->user];
  if (r->op == MAILROOM_LOGIN) {
    reply->head.arg0 = ++u->session;
    return MAILROOM_OK;
  }
  if (u->session == 0 || r->session != u->session) return MAILROOM_NOT_LOGGED_IN;
  if (r->op != MAILROOM_SEND && r->body_size != 0) return MAILROOM_BAD_ARGUMENT;
  switch (r->op) {
    case MAILROOM_LIST:
      return list_mails(r, reply);
    case MAILROOM_READ:
      return read_mail(r, reply);
    case MAILROOM_SEND:
      return send_mail(r, body, reply);
    case MAILROOM_FLAG:
      return flag_mail(r);
    default:
      return delete_mail(r);
  }
}

bool is_mutating(const struct mailroom_request* r) {
  return r->op == MAILROOM_LOGIN || r->op == MAILROOM_SEND || r->op == MAILROOM_FLAG ||
         r->op == MAILROOM_DELETE;
}

enum turn whose_turn(const struct mailroom_request* r) {
  uint64_t last = users[r->user].last_seq;
  return r->seq > last ? kNew : r->seq == last && last != 0 ? kAgain : kOld;
}

static void start_reply(const struct mailroom_request* r, uint16_t status, struct reply_buffer* reply) {
  reply->head = (struct mailroom_reply){.magic = MAILROOM_REPLY_MAGIC,
                                        .version = MAILROOM_VERSION,
                                        .op = r->op,
                                        .user = r->user,
                                        .seq = r->seq,
                                        .status = status};
}

uint32_t execute(const struct mailroom_request* r, const uint8_t* body, const struct reply_buffer** reply) {
  struct user* u = &users[r->user];
  start_reply(r, 0, &u->reply);
  uint16_t status = perform(r, body, &u->reply);
  u->reply.head.status = status;
  u->last_seq = r->seq;
  take_in(&r->user, 2);
  take_in(&r->seq, 8);
  take_in(&r->op, 1);
  take_in(&r->arg0, 4);
  take_in(&r->arg1, 4);
  take_in(&status, 2);
  take_in(body, r->body_size);
  stats.operations++;
  return last_reply(r, reply);
}

uint32_t last_reply(const struct mailroom_request* r, const struct reply_buffer** reply) {
  *reply = &users[r->user].reply;
  return (uint32_t)sizeof(struct mailroom_reply) + (*reply)->head.body_size;
}

uint32_t refuse(const struct mailroom_request* r, uint16_t status, struct reply_buffer* reply) {
  start_reply(r, status, reply);
  if (status == MAILROOM_STALE) reply->head.value = users[r->user].last_seq;
  return sizeof(struct mailroom_reply);
}

uint32_t answer_query(const struct mailroom_request* r, struct reply_buffer* reply) {
  start_reply(r, MAILROOM_OK, reply);
  if (r->op == MAILROOM_DIGEST) {
    *(struct mailroom_digest*)reply->body = (struct mailroom_digest){digest, stats.operations};
    reply->head.body_size = sizeof(struct mailroom_digest);
  } else {
    *(struct mailroom_stats*)reply->body = stats;
    reply->head.body_size = sizeof stats;
  }
  return (uint32_t)sizeof(struct mailroom_reply) + reply->head.body_size;
}
