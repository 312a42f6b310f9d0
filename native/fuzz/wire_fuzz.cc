// Fuzzes the wire's receiver: the input is what a peer sends, as it is, or (first byte) as the payloads of
// right frames with one byte changed: then nothing but what was sent may be received. Addresses beside it.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/digest.h"
#include "base/error.h"
#include "wire/channel.h"

namespace {

using namespace hypertwin;
using namespace hypertwin::wire;

// Gives its bytes in pieces of at most `piece`.
class MemoryStream : public Stream {
 public:
  MemoryStream(std::span<const uint8_t> bytes, size_t piece) : bytes_(bytes), piece_(piece) {}
  size_t read(std::span<uint8_t> into) override {
    const size_t count = std::min({into.size(), bytes_.size(), piece_});
    std::copy_n(bytes_.begin(), count, into.begin());
    bytes_ = bytes_.subspan(count);
    return count;
  }
  void write(std::span<const std::span<const uint8_t>>) override {}
  void shutdown() noexcept override {}
  std::string peer() const override { return "the fuzzer"; }

 private:
  std::span<const uint8_t> bytes_;
  const size_t piece_;
};

void receive_all(std::span<const uint8_t> bytes, size_t piece,
                 const std::vector<std::span<const uint8_t>>* sent) {
  Channel channel(std::make_unique<MemoryStream>(bytes, piece));
  size_t count = 0;
  uint64_t sum = 0;
  try {
    while (const auto frame = channel.receive()) {
      if (frame->sequence != count) std::abort();
      if (sent != nullptr &&
          (count >= sent->size() || !std::equal(frame->payload.begin(), frame->payload.end(),
                                                (*sent)[count].begin(), (*sent)[count].end())))
        std::abort();
      sum += checksum64(frame->payload) + static_cast<unsigned char>(*frame_name(frame->type));
      count++;
    }
  } catch (const Error& error) {
    if (error.code() != "PROTOCOL" && error.code() != "PEER_LOST") std::abort();
  }
  if (channel.received_bytes() > bytes.size()) std::abort();
  // Every byte of a payload is read, whatever the compiler thinks of it.
  asm volatile("" : : "r"(sum));
}

void parse_address(std::span<const uint8_t> bytes) {
  try {
    const Address address = Address::parse(std::string(as_text(bytes)));
    const Address again = Address::parse(address.text());
    if (again.kind != address.kind || again.host != address.host || again.port != address.port) std::abort();
  } catch (const Error& error) {
    if (error.code() != "BAD_ADDRESS") std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  const uint8_t kind = data[0];
  const size_t piece = 1 + data[1] * size_t{64};
  const size_t change_at = get_le<uint32_t>(data + 2);
  const uint8_t change = data[6];
  auto rest = std::span(data, size).subspan(8);
  if (kind % 4 == 0) parse_address(rest);
  if (kind % 4 == 1) receive_all(rest, piece, nullptr);
  if (kind % 4 < 2) return 0;
  std::vector<uint8_t> bytes;
  std::vector<std::span<const uint8_t>> sent;
  while (rest.size() >= 3) {
    const auto payload = rest.subspan(3, std::min<size_t>(get_le<uint16_t>(rest.data()), rest.size() - 3));
    std::array<uint8_t, kHeaderBytes> head;
    encode_header({static_cast<FrameType>(rest[2]), static_cast<uint32_t>(payload.size()), sent.size()},
                  checksum64(payload), head);
    bytes.insert(bytes.end(), head.begin(), head.end());
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    sent.push_back(payload);
    rest = rest.subspan(3 + payload.size());
  }
  if (!bytes.empty() && kind % 4 == 3) bytes[change_at % bytes.size()] ^= change;
  receive_all(bytes, piece, &sent);
  return 0;
}
