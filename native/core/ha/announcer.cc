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
void use(List& list, const Address& address) {
  std::erase_if(list, [&](const auto& a) { return a.address == address.address; });
  if (list.size() == Announcer::kMaxAddresses) list.erase(list.begin());
  list.push_back(address);
}

// Calls found(MAC, address) with what the sender of an ARP or of a neighbour discovery says that it has.
template <class Found>
void find_claim(View frame, Found found) {
  if (frame.size() < kEthernet) return;
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
    if (take<6>(body, 8) == source && usable(ip)) found(source, ip);
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
    if (usable(ip)) found(source, ip);
  }
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

void Announcer::learn(uint32_t device, View frame, uint64_t now) {
  if (device >= devices_.size() || frame.size() < kEthernet) return;
  Device& of = devices_[device];
  find_claim(frame, [&]<size_t N>(const Mac& mac, const std::array<uint8_t, N>& ip) {
    if constexpr (N == 4)
      use(of.ipv4, Address<4>{mac, ip, now});
    else
      use(of.ipv6, Address<16>{mac, ip, now});
  });
  const Mac source = take<6>(frame, 6);
  const View body = frame.subspan(kEthernet);
  const auto sends_from = [&]<size_t N>(std::vector<Address<N>>& list, const std::array<uint8_t, N>& ip) {
    for (auto& a : list)
      if (a.address == ip && a.mac == source) return use(list, Address<N>{source, ip, now});
  };
  if (get16(frame, 12) == kTypeIpv4 && body.size() >= 20 && body[0] >> 4 == 4) {
    const auto ip = take<4>(body, 12);
    sends_from(of.ipv4, ip);
    if (of.ipv4.empty() && source == of.mac && usable(ip)) of.seen.assign(1, {source, ip, now});
  } else if (get16(frame, 12) == kTypeIpv6 && body.size() >= kIpv6 && body[0] >> 4 == 6) {
    sends_from(of.ipv6, take<16>(body, 8));
  }
}

void Announcer::heard(uint32_t device, View frame) {
  if (device >= devices_.size()) return;
  Device& of = devices_[device];
  find_claim(frame, [&]<size_t N>(const Mac& mac, const std::array<uint8_t, N>& ip) {
    const auto lost = [&](const auto& a) { return a.address == ip && a.mac != mac; };
    if constexpr (N == 4) {
      std::erase_if(of.ipv4, lost);
      std::erase_if(of.seen, lost);
    } else {
      std::erase_if(of.ipv6, lost);
    }
  });
}

std::vector<Bytes> Announcer::frames(uint32_t device, uint64_t now) const {
  std::vector<Bytes> out;
  if (device >= devices_.size()) return out;
  const Device& of = devices_[device];
  const auto used = [&](const auto& a) { return a.used_ns + kUnused > now; };
  for (const auto& a : of.ipv4.empty() ? of.seen : of.ipv4)
    if (used(a)) out.push_back(arp(kTypeArp, 1, a.mac, a.address, {}));
  for (const auto& a : of.ipv6)
    if (used(a)) out.push_back(advertisement(a.mac, a.address));
  out.push_back(arp(kTypeRarp, 3, of.mac, {}, of.mac));
  return out;
}

}  // namespace hypertwin::ha
