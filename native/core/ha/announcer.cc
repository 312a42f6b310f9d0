// ARP (RFC 826), RARP (RFC 903), neighbour discovery (RFC 4861).
#include "ha/announcer.h"

#include <algorithm>

namespace hypertwin::ha {

namespace {

using Bytes = std::vector<uint8_t>;
using View = std::span<const uint8_t>;

constexpr size_t kEthernet = 14, kArp = 28, kIpv6 = 40;
constexpr uint16_t kTypeIpv4 = 0x0800, kTypeArp = 0x0806, kTypeRarp = 0x8035, kTypeIpv6 = 0x86dd;
constexpr uint8_t kIcmpv6 = 58, kSolicitation = 135, kAdvertisement = 136;
constexpr Mac kBroadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

uint16_t get16(View bytes, size_t at) { return static_cast<uint16_t>(bytes[at] << 8 | bytes[at + 1]); }

void put16(Bytes& out, unsigned value) {
  out.push_back(static_cast<uint8_t>(value >> 8));
  out.push_back(static_cast<uint8_t>(value));
}

template <class T>
void put(Bytes& out, const T& bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

template <size_t N>
std::array<uint8_t, N> take(View bytes, size_t at) {
  std::array<uint8_t, N> out;
  std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(at), N, out.begin());
  return out;
}

// An address that one machine can have.
bool usable(const std::array<uint8_t, 4>& a) { return a[0] != 0 && a[0] != 127 && a[0] < 224; }
bool usable(const std::array<uint8_t, 16>& a) {
  const bool zeros = std::all_of(a.begin(), a.end() - 1, [](uint8_t byte) { return byte == 0; });
  return a[0] != 0xff && !(zeros && a[15] <= 1);
}

template <class List, class Address>
void add(List& list, const Address& address) {
  auto same =
      std::find_if(list.begin(), list.end(), [&](const auto& a) { return a.address == address.address; });
  if (same != list.end())
    *same = address;
  else if (list.size() < Announcer::kMaxAddresses)
    list.push_back(address);
}

Bytes ethernet(const Mac& to, const Mac& from, uint16_t type) {
  Bytes out;
  put(out, to);
  put(out, from);
  put16(out, type);
  return out;
}

Bytes arp(uint16_t type, uint16_t operation, const Mac& mac, const std::array<uint8_t, 4>& ip,
          const Mac& target) {
  Bytes out = ethernet(kBroadcast, mac, type);
  put16(out, 1);
  put16(out, kTypeIpv4);
  out.push_back(6);
  out.push_back(4);
  put16(out, operation);
  put(out, mac);
  put(out, ip);
  put(out, target);
  put(out, ip);
  out.resize(60);
  return out;
}

Bytes advertisement(const Mac& mac, const std::array<uint8_t, 16>& ip) {
  constexpr std::array<uint8_t, 16> kAllNodes{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  Bytes body{kAdvertisement, 0, 0, 0, 0x20 /* override */, 0, 0, 0};
  put(body, ip);
  body.push_back(2);  // target link-layer address, 8 bytes
  body.push_back(1);
  put(body, mac);
  Bytes out = ethernet({0x33, 0x33, 0, 0, 0, 1}, mac, kTypeIpv6);
  put(out, std::array<uint8_t, 4>{0x60, 0, 0, 0});
  put16(out, static_cast<unsigned>(body.size()));
  out.push_back(kIcmpv6);
  out.push_back(255);
  put(out, ip);
  put(out, kAllNodes);
  Bytes summed;
  put(summed, ip);
  put(summed, kAllNodes);
  put16(summed, 0);
  put16(summed, static_cast<unsigned>(body.size()));
  put16(summed, 0);
  put16(summed, kIcmpv6);
  put(summed, body);
  uint32_t sum = 0;
  for (size_t i = 0; i < summed.size(); i += 2) sum += get16(summed, i);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  body[2] = static_cast<uint8_t>(~sum >> 8);
  body[3] = static_cast<uint8_t>(~sum);
  put(out, body);
  return out;
}

}  // namespace

void Announcer::learn(uint32_t device, View frame) {
  if (device >= devices_.size() || frame.size() < kEthernet) return;
  Device& of = devices_[device];
  const Mac source = take<6>(frame, 6);
  const uint16_t type = get16(frame, 12);
  const View body = frame.subspan(kEthernet);
  // Nobody is announced as a group, or as nobody.
  if ((source[0] & 1) || source == Mac{}) return;
  if (type == kTypeArp) {
    if (body.size() < kArp || get16(body, 0) != 1 || get16(body, 2) != kTypeIpv4 || body[4] != 6 ||
        body[5] != 4)
      return;
    const auto ip = take<4>(body, 14);
    if (take<6>(body, 8) == source && usable(ip)) add(of.ipv4, Address<4>{source, ip});
  } else if (type == kTypeIpv4) {
    if (!of.ipv4.empty() || body.size() < 20 || body[0] >> 4 != 4) return;
    const auto ip = take<4>(body, 12);
    if (source == of.mac && usable(ip)) of.seen.assign(1, {source, ip});
  } else if (type == kTypeIpv6) {
    if (body.size() < kIpv6 + 24 || body[0] >> 4 != 6 || body[6] != kIcmpv6) return;
    const View icmp = body.subspan(kIpv6);
    std::array<uint8_t, 16> ip;
    if (icmp[0] == kAdvertisement)
      ip = take<16>(icmp, 8);
    else if (icmp[0] == kSolicitation)
      ip = take<16>(body, 8);
    else
      return;
    if (usable(ip)) add(of.ipv6, Address<16>{source, ip});
  }
}

std::vector<Bytes> Announcer::frames(uint32_t device) const {
  std::vector<Bytes> out;
  if (device >= devices_.size()) return out;
  const Device& of = devices_[device];
  for (const auto& a : of.ipv4.empty() ? of.seen : of.ipv4)
    out.push_back(arp(kTypeArp, 1, a.mac, a.address, {}));
  for (const auto& a : of.ipv6) out.push_back(advertisement(a.mac, a.address));
  out.push_back(arp(kTypeRarp, 3, of.mac, {}, of.mac));
  return out;
}

}  // namespace hypertwin::ha
