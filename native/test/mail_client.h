// Users of the mailroom for C++ tests: frames in and out, each user one request at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "../guest/mailroom_protocol.h"

namespace hypertwin::mail {

inline constexpr std::array<uint8_t, 6> kClientMac{0x52, 0x54, 0, 0, 0, 0x99};
inline constexpr std::array<uint8_t, 6> kServerMac{0x52, 0x54, 0x00, 0x68, 0x74, 0x01};
inline constexpr uint32_t kClientIp = 0x0a4d0001;  // 10.77.0.1
inline constexpr uint32_t kServerIp = 0x0a4d0002;

inline void put16(std::vector<uint8_t>& out, uint16_t v) {
  out.push_back(static_cast<uint8_t>(v >> 8));
  out.push_back(static_cast<uint8_t>(v));
}
inline void put32(std::vector<uint8_t>& out, uint32_t v) {
  put16(out, static_cast<uint16_t>(v >> 16));
  put16(out, static_cast<uint16_t>(v));
}

inline std::vector<uint8_t> frame(std::span<const uint8_t> payload, uint16_t port) {
  std::vector<uint8_t> out;
  out.reserve(42 + payload.size());
  for (uint8_t byte : kServerMac) out.push_back(byte);
  for (uint8_t byte : kClientMac) out.push_back(byte);
  put16(out, 0x0800);
  size_t ip = out.size();
  put16(out, 0x4500);
  put16(out, static_cast<uint16_t>(28 + payload.size()));
  put32(out, 0);
  put16(out, 0x4011);
  put16(out, 0);
  put32(out, kClientIp);
  put32(out, kServerIp);
  uint32_t sum = 0;
  for (size_t i = ip; i < out.size(); i += 2) sum += static_cast<uint32_t>(out[i] << 8 | out[i + 1]);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  out[ip + 10] = static_cast<uint8_t>(~sum >> 8);
  out[ip + 11] = static_cast<uint8_t>(~sum);
  put16(out, port);
  put16(out, MAILROOM_PORT);
  put16(out, static_cast<uint16_t>(8 + payload.size()));
  put16(out, 0);  // no UDP checksum
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

inline std::vector<uint8_t> request(mailroom_op op, uint16_t user, uint64_t seq, uint32_t session,
                                    uint32_t arg0 = 0, uint32_t arg1 = 0,
                                    std::span<const uint8_t> body = {}) {
  mailroom_request head{};
  head.magic = MAILROOM_REQUEST_MAGIC;
  head.version = MAILROOM_VERSION;
  head.op = static_cast<uint8_t>(op);
  head.user = user;
  head.seq = seq;
  head.session = session;
  head.arg0 = arg0;
  head.arg1 = arg1;
  head.body_size = static_cast<uint16_t>(body.size());
  std::vector<uint8_t> payload(sizeof(head) + body.size());
  std::memcpy(payload.data(), &head, sizeof(head));
  if (!body.empty()) std::memcpy(payload.data() + sizeof(head), body.data(), body.size());
  return frame(payload, static_cast<uint16_t>(40000 + user));
}

struct Reply {
  mailroom_reply head{};
  std::vector<uint8_t> body;
};

inline std::optional<Reply> parse(std::span<const uint8_t> packet) {
  constexpr size_t kHeaders = 14 + 20 + 8;
  if (packet.size() < kHeaders + sizeof(mailroom_reply) || packet[12] != 8 || packet[23] != 17)
    return std::nullopt;
  Reply reply;
  std::memcpy(&reply.head, packet.data() + kHeaders, sizeof(reply.head));
  if (reply.head.magic != MAILROOM_REPLY_MAGIC) return std::nullopt;
  size_t size = std::min<size_t>(reply.head.body_size, packet.size() - kHeaders - sizeof(reply.head));
  reply.body.assign(packet.begin() + kHeaders + sizeof(reply.head),
                    packet.begin() + static_cast<long>(kHeaders + sizeof(reply.head) + size));
  return reply;
}

}  // namespace hypertwin::mail
