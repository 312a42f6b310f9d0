// Packets of the guest to events, and events to packets, with the credit of both sides.
#include "devices/virtio_vsock.h"

#include <algorithm>

#include "base/error.h"
#include "devices/state.h"

namespace hypertwin::devices {

namespace {
constexpr unsigned kQueues = 3;
constexpr uint64_t kStream = 1 << 0;
constexpr uint16_t kTypeStream = 1;
constexpr uint32_t kTransportReset = 0;
enum Operation : uint16_t {
  kRequest = 1,
  kResponse = 2,
  kRst = 3,
  kShutdown = 4,
  kRw = 5,
  kCreditUpdate = 6,
  kCreditRequest = 7
};
constexpr size_t kHeaderSize = 44;
}  // namespace

struct VirtioVsock::Header {
  uint64_t source_cid, destination_cid;
  uint32_t source_port, destination_port;
  uint32_t length;
  uint16_t type, operation;
  uint32_t flags, window, forwarded;

  static Header parse(const uint8_t* p) {
    return {.source_cid = get_le<uint64_t>(p),
            .destination_cid = get_le<uint64_t>(p + 8),
            .source_port = get_le<uint32_t>(p + 16),
            .destination_port = get_le<uint32_t>(p + 20),
            .length = get_le<uint32_t>(p + 24),
            .type = get_le<uint16_t>(p + 28),
            .operation = get_le<uint16_t>(p + 30),
            .flags = get_le<uint32_t>(p + 32),
            .window = get_le<uint32_t>(p + 36),
            .forwarded = get_le<uint32_t>(p + 40)};
  }
  void write(uint8_t* p) const {
    p = put_le(p, source_cid);
    p = put_le(p, destination_cid);
    p = put_le(p, source_port);
    p = put_le(p, destination_port);
    p = put_le(p, length);
    p = put_le(p, type);
    p = put_le(p, operation);
    p = put_le(p, flags);
    p = put_le(p, window);
    put_le(p, forwarded);
  }
};

VirtioVsock::VirtioVsock(VsockHost& host, uint32_t id, std::string name, GuestRam& ram, uint64_t guest_cid)
    : VirtioDevice(id, std::move(name), ram, kQueues, kStream), host_(host) {
  set_cid(guest_cid);
}

uint64_t VirtioVsock::guest_cid() const { return get_le<uint64_t>(config_.data()); }

void VirtioVsock::set_cid(uint64_t cid) {
  if (cid <= kHostCid || cid >= UINT32_MAX)
    throw Error("EINVAL", "a guest's CID is 3 to 4294967294, not " + std::to_string(cid));
  put_le(config_.data(), cid);
}

void VirtioVsock::tell_host(VsockEvent event) { host_.vsock_event(id(), std::move(event)); }

uint64_t VirtioVsock::number_of(const Ports& ports) const {
  auto found = by_ports_.find(ports);
  return found == by_ports_.end() ? UINT64_MAX : found->second;
}

void VirtioVsock::remove(uint64_t number) {
  auto found = connections_.find(number);
  if (found->second.ready) std::erase(ready_, number);
  by_ports_.erase(found->second.ports);
  connections_.erase(found);
}

void VirtioVsock::reset_guest(const Ports& ports) { resets_.push_back(ports); }

void VirtioVsock::end(uint64_t number, bool guest, bool host) {
  if (guest) reset_guest(connections_.at(number).ports);
  remove(number);
  if (host) tell_host({.operation = VsockOperation::kReset, .connection = number, .data = {}});
}

// ---- From the guest

void VirtioVsock::on_live() {
  send_event();
  take_packets();
}

void VirtioVsock::on_notify(unsigned queue) {
  if (queue == kEvents) return send_event();
  if (queue == kReceive) fill();
  take_packets();
}

void VirtioVsock::take_packets() {
  VirtQueue& queue = queues_[kTransmit];
  while (live() && !host_.vsock_busy(id())) {
    // Answers first: a guest that takes none of them has to wait (5.10.6.1).
    if (resets_.size() >= kMaxResets) fill();
    if (!live() || resets_.size() >= kMaxResets) break;
    VirtQueue::Pop pop = queue.pop(ram_, chain_);
    if (pop == VirtQueue::Pop::kEmpty) break;
    if (pop == VirtQueue::Pop::kBroken || !take(chain_)) {
      break_device();
      break;
    }
    queue.push(ram_, chain_.head, 0);
  }
  publish(kTransmit);
  fill();
}

// False when it is no packet.
bool VirtioVsock::take(const Chain& chain) {
  std::array<uint8_t, kHeaderSize> bytes;
  if (copy_from(ram_, chain.readable, 0, bytes) != kHeaderSize) return false;
  const Header header = Header::parse(bytes.data());
  if (header.length > chain.readable_bytes - kHeaderSize) return false;
  // Neither from this guest nor for the host: nobody's, and dropped.
  if (header.source_cid == guest_cid() && header.destination_cid == kHostCid) take(header, chain);
  return true;
}

void VirtioVsock::take(const Header& header, const Chain& chain) {
  const Ports ports{header.destination_port, header.source_port};
  const uint64_t number = number_of(ports);
  auto found = connections_.find(number);
  if (header.type != kTypeStream) {
    if (header.operation != kRst) reset_guest(ports);
    return;
  }
  if (found == connections_.end()) {
    // Who begins anew, or ends, has done with what an answer on its way is about.
    if (header.operation == kRequest || header.operation == kRst) std::erase(resets_, ports);
    if (header.operation == kRequest)
      begin(header);
    else if (header.operation != kRst)
      reset_guest(ports);
    return;
  }
  Connection& connection = found->second;
  connection.guest_window = header.window;
  connection.guest_forwarded = header.forwarded;
  switch (header.operation) {
    case kRst:
      return end(number, false, true);
    case kResponse:
      if (connection.state != State::kByHost || connection.owed & kOwesRequest)
        return end(number, true, true);
      connection.state = State::kOpen;
      tell_host({.operation = VsockOperation::kAccept, .connection = number, .data = {}});
      break;
    case kShutdown: {
      if (connection.state != State::kOpen) return end(number, true, true);
      const uint32_t before = connection.guest_shutdown;
      connection.guest_shutdown |= header.flags & (kVsockNoReceive | kVsockNoSend);
      if (connection.guest_shutdown & kVsockNoReceive) connection.data.clear();  // nobody reads it
      if (connection.guest_shutdown != before)
        tell_host({.operation = VsockOperation::kShutdown,
                   .connection = number,
                   .value = connection.guest_shutdown,
                   .data = {}});
      break;
    }
    case kRw: {
      const uint32_t under_way = connection.received - connection.forwarded;
      if (connection.state != State::kOpen || connection.guest_shutdown & kVsockNoSend ||
          header.length > kVsockWindow - under_way)
        return end(number, true, true);
      if (header.length == 0 || connection.host_shutdown & kVsockNoReceive) break;
      VsockEvent event{.operation = VsockOperation::kData, .connection = number, .data = {}};
      event.data.resize(header.length);
      copy_from(ram_, chain.readable, kHeaderSize, event.data);
      connection.received += header.length;
      tell_host(std::move(event));
      break;
    }
    case kCreditUpdate:
      break;
    case kCreditRequest:
      connection.owed |= kOwesCredit;
      break;
    default:
      return end(number, true, true);
  }
  make_ready(number, connection);
}

void VirtioVsock::begin(const Header& header) {
  const Ports ports{header.destination_port, header.source_port};
  if (connections_.size() >= kMaxVsockConnections) return reset_guest(ports);
  const uint64_t number = next_number_++;
  Connection& connection = connections_[number];
  connection.ports = ports;
  connection.state = State::kByGuest;
  connection.guest_window = header.window;
  connection.guest_forwarded = header.forwarded;
  by_ports_[ports] = number;
  tell_host({.operation = VsockOperation::kConnect,
             .connection = number,
             .host_port = ports.first,
             .guest_port = ports.second,
             .data = {}});
}

// ---- From the host

bool VirtioVsock::input(const VsockEvent& event) {
  const uint64_t number = event.connection;
  auto found = connections_.find(number);
  if (event.operation == VsockOperation::kConnect) {
    const Ports ports{event.host_port, event.guest_port};
    if (found != connections_.end()) return false;
    if (number & kVsockByGuest || !live() || connections_.size() >= kMaxVsockConnections ||
        by_ports_.contains(ports)) {
      tell_host({.operation = VsockOperation::kReset, .connection = number, .data = {}});
      return false;
    }
    Connection& connection = connections_[number];
    connection.ports = ports;
    connection.state = State::kByHost;
    connection.owed = kOwesRequest;
    by_ports_[ports] = number;
    make_ready(number, connection);
    fill();
    return true;
  }
  if (found == connections_.end()) return false;
  Connection& connection = found->second;
  bool sound = connection.state == State::kOpen;
  switch (event.operation) {
    case VsockOperation::kAccept:
      sound = connection.state == State::kByGuest;
      if (!sound) break;
      connection.state = State::kOpen;
      connection.owed |= kOwesResponse;
      break;
    case VsockOperation::kData:
      sound = sound && !(connection.host_shutdown & kVsockNoSend) &&
              event.data.size() <= kVsockWindow - connection.data.size();
      // A guest that reads no more has said so to the host, which is on its way there.
      if (sound && !(connection.guest_shutdown & kVsockNoReceive))
        connection.data.insert(connection.data.end(), event.data.begin(), event.data.end());
      break;
    case VsockOperation::kRoom:
      sound = sound && event.value <= connection.received - connection.forwarded;
      if (!sound) break;
      connection.forwarded += event.value;
      // Told late enough to be worth a packet, and early enough for the guest never to stand still.
      if (connection.forwarded - connection.told_forwarded >= kVsockWindow / 4)
        connection.owed |= kOwesCredit;
      break;
    case VsockOperation::kShutdown:
      if (!sound) break;
      connection.host_shutdown |= event.value & (kVsockNoReceive | kVsockNoSend);
      connection.owed |= kOwesShutdown;
      break;
    default:
      sound = event.operation == VsockOperation::kReset;
      if (!sound) break;
      // A request that the guest has not seen is taken back unseen, here and below.
      end(number, !(connection.owed & kOwesRequest), false);
      fill();
      return true;
  }
  if (sound)
    make_ready(number, connection);
  else
    end(number, !(connection.owed & kOwesRequest), true);
  fill();
  return sound;
}

void VirtioVsock::transport_reset(uint64_t guest_cid) {
  set_cid(guest_cid);
  connections_.clear();
  by_ports_.clear();
  ready_.clear();
  resets_.clear();
  event_pending_ = true;
  send_event();
}

void VirtioVsock::send_event() {
  if (!event_pending_ || !live()) return;
  VirtQueue::Pop pop = queues_[kEvents].pop(ram_, chain_);
  if (pop == VirtQueue::Pop::kEmpty) return;
  std::array<uint8_t, 4> event;
  put_le(event.data(), kTransportReset);
  if (pop == VirtQueue::Pop::kBroken || copy_to(ram_, chain_.writable, 0, event) != event.size())
    return break_device();
  event_pending_ = false;
  queues_[kEvents].push(ram_, chain_.head, static_cast<uint32_t>(event.size()));
  publish(kEvents);
}

// ---- To the guest

uint32_t VirtioVsock::credit(const Connection& connection) const {
  const uint32_t under_way = connection.sent - connection.guest_forwarded;
  return under_way < connection.guest_window ? connection.guest_window - under_way : 0;
}

bool VirtioVsock::wants(const Connection& connection) const {
  if (connection.state == State::kByGuest) return false;
  if (connection.owed & (kOwesRequest | kOwesResponse | kOwesCredit | kAsksCredit)) return true;
  if (!connection.data.empty()) return credit(connection) > 0;
  return connection.owed & kOwesShutdown;
}

void VirtioVsock::make_ready(uint64_t number, Connection& connection) {
  // Asked once: a guest whose buffer is full answers that, and says by itself when it is not.
  if (credit(connection) > 0) {
    connection.asked_credit = false;
  } else if (!connection.data.empty() && !connection.asked_credit) {
    connection.asked_credit = true;
    connection.owed |= kAsksCredit;
  }
  if (connection.ready || !wants(connection)) return;
  connection.ready = true;
  ready_.push_back(number);
}

void VirtioVsock::fill() {
  VirtQueue& queue = queues_[kReceive];
  while (live() && (!resets_.empty() || !ready_.empty())) {
    VirtQueue::Pop pop = queue.pop(ram_, receive_chain_);
    if (pop == VirtQueue::Pop::kEmpty) break;
    // With data there is at least one byte of it.
    if (pop == VirtQueue::Pop::kBroken || receive_chain_.writable_bytes <= kHeaderSize) {
      break_device();
      break;
    }
    queue.push(ram_, receive_chain_.head, put_packet(receive_chain_));
  }
  publish(kReceive);
}

uint32_t VirtioVsock::put_packet(const Chain& chain) {
  if (!resets_.empty()) {
    const Ports ports = resets_.front();
    resets_.pop_front();
    scratch_.assign(kHeaderSize, 0);
    Header{.source_cid = kHostCid,
           .destination_cid = guest_cid(),
           .source_port = ports.first,
           .destination_port = ports.second,
           .length = 0,
           .type = kTypeStream,
           .operation = kRst,
           .flags = 0,
           .window = 0,
           .forwarded = 0}
        .write(scratch_.data());
    return static_cast<uint32_t>(copy_to(ram_, chain.writable, 0, scratch_));
  }
  const uint64_t number = ready_.front();
  ready_.pop_front();
  Connection& connection = connections_.at(number);
  connection.ready = false;
  const size_t before = connection.data.size();
  const uint32_t bytes = put_packet(chain, connection);
  const uint32_t sent = static_cast<uint32_t>(before - connection.data.size());
  make_ready(number, connection);
  if (sent) tell_host({.operation = VsockOperation::kRoom, .connection = number, .value = sent, .data = {}});
  return bytes;
}

uint32_t VirtioVsock::put_packet(const Chain& chain, Connection& connection) {
  Header header{.source_cid = kHostCid,
                .destination_cid = guest_cid(),
                .source_port = connection.ports.first,
                .destination_port = connection.ports.second,
                .length = 0,
                .type = kTypeStream,
                .operation = kCreditUpdate,
                .flags = 0,
                .window = kVsockWindow,
                .forwarded = connection.forwarded};
  auto owes = [&](uint8_t what) {
    const bool owed = connection.owed & what;
    connection.owed &= static_cast<uint8_t>(~what);
    return owed;
  };
  if (owes(kOwesRequest)) {
    header.operation = kRequest;
  } else if (owes(kOwesResponse)) {
    header.operation = kResponse;
  } else if (owes(kAsksCredit)) {
    header.operation = kCreditRequest;
  } else if (!connection.data.empty() && credit(connection) > 0) {
    header.operation = kRw;
    header.length = static_cast<uint32_t>(
        std::min<uint64_t>({connection.data.size(), credit(connection), chain.writable_bytes - kHeaderSize}));
  } else if (connection.data.empty() && owes(kOwesShutdown)) {
    header.operation = kShutdown;
    header.flags = connection.host_shutdown;
  }
  // Whatever it is, it carries the credit.
  (void)owes(kOwesCredit);
  connection.told_forwarded = connection.forwarded;
  connection.sent += header.length;
  scratch_.resize(kHeaderSize);
  header.write(scratch_.data());
  auto data_end = connection.data.begin() + static_cast<ptrdiff_t>(header.length);
  scratch_.insert(scratch_.end(), connection.data.begin(), data_end);
  connection.data.erase(connection.data.begin(), data_end);
  return static_cast<uint32_t>(copy_to(ram_, chain.writable, 0, scratch_));
}

// ---- Reset and state

void VirtioVsock::on_reset() {
  std::map<uint64_t, Connection> gone;
  gone.swap(connections_);
  by_ports_.clear();
  ready_.clear();
  resets_.clear();
  event_pending_ = false;
  for (const auto& [number, connection] : gone)
    tell_host({.operation = VsockOperation::kReset, .connection = number, .data = {}});
}

void VirtioVsock::save_state(ByteWriter& out) const {
  out.raw(config_);
  out.u64(next_number_);
  out.u8(event_pending_);
  out.varint(connections_.size());
  for (const auto& [number, connection] : connections_) {
    out.u64(number);
    out.u32(connection.ports.first);
    out.u32(connection.ports.second);
    out.u8(static_cast<uint8_t>(connection.state));
    out.u8(connection.owed);
    out.u8(connection.asked_credit);
    out.u8(static_cast<uint8_t>(connection.guest_shutdown));
    out.u8(static_cast<uint8_t>(connection.host_shutdown));
    for (uint32_t count : {connection.guest_window, connection.guest_forwarded, connection.sent,
                           connection.received, connection.forwarded, connection.told_forwarded})
      out.u32(count);
    out.blob(std::vector<uint8_t>(connection.data.begin(), connection.data.end()));
  }
  out.varint(ready_.size());
  for (uint64_t number : ready_) out.u64(number);
  out.varint(resets_.size());
  for (const Ports& ports : resets_) {
    out.u32(ports.first);
    out.u32(ports.second);
  }
}

void VirtioVsock::load_state(ByteReader& in) {
  const uint64_t cid = in.u64();
  if (cid <= kHostCid || cid >= UINT32_MAX) in.corrupt("a CID that no guest has");
  set_cid(cid);
  next_number_ = in.u64();
  if (next_number_ >> 62 != 2) in.corrupt("a connection's number is out of range");
  event_pending_ = load_flag(in);
  connections_.clear();
  by_ports_.clear();
  ready_.clear();
  resets_.clear();
  uint64_t count = in.varint();
  if (count > kMaxVsockConnections) in.corrupt("too many connections");
  while (count--) load_connection(in);
  count = in.varint();
  if (count > connections_.size()) in.corrupt("too many connections have something to send");
  while (count--) {
    const uint64_t number = in.u64();
    auto found = connections_.find(number);
    if (found == connections_.end() || found->second.ready) in.corrupt("a connection that cannot send");
    found->second.ready = true;
    ready_.push_back(number);
  }
  for (const auto& [number, connection] : connections_)
    if (wants(connection) && !connection.ready) in.corrupt("a connection that would never send");
  count = in.varint();
  if (count > kMaxResets + kMaxVsockConnections) in.corrupt("too many answers");
  while (count--) {
    const uint32_t host_port = in.u32();
    resets_.emplace_back(host_port, in.u32());
  }
}

void VirtioVsock::load_connection(ByteReader& in) {
  const uint64_t number = in.u64();
  Connection connection;
  connection.ports.first = in.u32();
  connection.ports.second = in.u32();
  const uint8_t state = in.u8();
  connection.state = static_cast<State>(state);
  connection.owed = in.u8();
  connection.asked_credit = load_flag(in);
  connection.guest_shutdown = in.u8();
  connection.host_shutdown = in.u8();
  for (uint32_t* each : {&connection.guest_window, &connection.guest_forwarded, &connection.sent,
                         &connection.received, &connection.forwarded, &connection.told_forwarded})
    *each = in.u32();
  auto data = in.blob(kVsockWindow);
  connection.data.assign(data.begin(), data.end());
  constexpr uint8_t kAll = kOwesRequest | kOwesResponse | kOwesShutdown | kOwesCredit | kAsksCredit;
  if (state > 2 || connection.owed & ~kAll || connection.guest_shutdown > 3 || connection.host_shutdown > 3 ||
      connection.received - connection.forwarded > kVsockWindow ||
      (connection.state == State::kByGuest) > !!(number & kVsockByGuest) ||
      (connection.state == State::kByHost) > !(number & kVsockByGuest) ||
      (number & kVsockByGuest && number >= next_number_))
    in.corrupt("a connection is out of range");
  if (!by_ports_.emplace(connection.ports, number).second ||
      !connections_.emplace(number, std::move(connection)).second)
    in.corrupt("two connections are one");
}

}  // namespace hypertwin::devices
