// virtio-vsock as the driver sees it: handshakes, streams, credit, ends, and packets that break the rules.
#include <gtest/gtest.h>

#include "devices/virtio_vsock.h"
#include "devices_virtio.h"

namespace hypertwin::devices {
namespace {

constexpr uint64_t kPacket = 0x40000, kBuffers = 0x60000;
constexpr uint32_t kBufferSize = 8192;
constexpr uint64_t kCid = 42;
constexpr uint16_t kRequest = 1, kResponse = 2, kRst = 3, kShutdown = 4, kRw = 5, kCreditUpdate = 6,
                   kCreditRequest = 7;

struct FakeVsockHost : VsockHost {
  std::vector<VsockEvent> events;
  void vsock_event(uint32_t, VsockEvent event) override { events.push_back(std::move(event)); }
};

struct Packet {
  uint64_t source_cid = kCid, destination_cid = 2;
  uint32_t source_port = 0, destination_port = 0, length = 0;
  uint16_t type = 1, operation = 0;
  uint32_t flags = 0, window = 1 << 18, forwarded = 0;
  std::string data;
};

class VirtioVsockTest : public testing::Test {
 protected:
  void SetUp() override { start(); }
  void start() {
    ASSERT_TRUE(driver.start(1));
    read = 0;
    sent = 0;
    host.events.clear();
    driver.give(2, 0, {{kPacket + 0x8000, 8, true}});
  }
  void buffers(unsigned n = 8) {
    for (unsigned i = 0; i < n; ++i) {
      uint16_t head = driver.rings[0].available % 16;
      driver.rings[0].offer(head, {{kBuffers + kBufferSize * uint64_t{head}, kBufferSize, true}});
    }
    vsock.notify(0);
  }
  // Sends a packet of the guest; the header's length is that of the data unless it says another.
  void send(Packet packet) {
    uint8_t* p = put_le(board.at(kPacket), packet.source_cid);
    p = put_le(p, packet.destination_cid);
    p = put_le(p, packet.source_port);
    p = put_le(p, packet.destination_port);
    p = put_le(p, packet.length ? packet.length : static_cast<uint32_t>(packet.data.size()));
    p = put_le(p, packet.type);
    p = put_le(p, packet.operation);
    p = put_le(p, packet.flags);
    p = put_le(p, packet.window);
    p = put_le(p, packet.forwarded);
    std::memcpy(p, packet.data.data(), packet.data.size());
    driver.give(1, sent++ % 16, {{kPacket, static_cast<uint32_t>(44 + packet.data.size())}});
  }
  void send(uint16_t operation, std::string data = "", uint32_t flags = 0) {
    send({.source_port = guest_port,
          .destination_port = host_port,
          .operation = operation,
          .flags = flags,
          .window = window,
          .forwarded = forwarded,
          .data = std::move(data)});
  }
  // The next packet for the guest; operation 0 when there is none.
  Packet receive() {
    Ring& ring = driver.rings[0];
    if (ring.used_index() == read) return {};
    auto [head, size] = ring.used(read++);
    const uint8_t* p = board.at(kBuffers + kBufferSize * uint64_t{head});
    Packet packet;
    packet.source_cid = get_le<uint64_t>(p);
    packet.destination_cid = get_le<uint64_t>(p + 8);
    packet.source_port = get_le<uint32_t>(p + 16);
    packet.destination_port = get_le<uint32_t>(p + 20);
    packet.length = get_le<uint32_t>(p + 24);
    packet.type = get_le<uint16_t>(p + 28);
    packet.operation = get_le<uint16_t>(p + 30);
    packet.flags = get_le<uint32_t>(p + 32);
    packet.window = get_le<uint32_t>(p + 36);
    packet.forwarded = get_le<uint32_t>(p + 40);
    packet.data.assign(reinterpret_cast<const char*>(p) + 44, size - 44);
    EXPECT_EQ(packet.source_cid, 2u);
    EXPECT_EQ(packet.destination_cid, kCid);
    EXPECT_EQ(packet.type, 1u);
    EXPECT_EQ(packet.length, packet.data.size());
    if (packet.operation == kRw) forwarded += packet.length;
    return packet;
  }
  VsockEvent event() {
    if (host.events.empty()) return {.operation = static_cast<VsockOperation>(99), .data = {}};
    VsockEvent first = std::move(host.events.front());
    host.events.erase(host.events.begin());
    return first;
  }
  bool input(VsockOperation operation, uint64_t number, uint32_t value = 0, std::string_view data = "") {
    auto bytes = as_bytes(data);
    return vsock.input({.operation = operation,
                        .connection = number,
                        .host_port = host_port,
                        .guest_port = guest_port,
                        .value = value,
                        .data = {bytes.begin(), bytes.end()}});
  }
  // A connection that the guest begins, open on both sides.
  uint64_t open() {
    send(kRequest);
    VsockEvent connect = event();
    EXPECT_EQ(connect.operation, VsockOperation::kConnect);
    EXPECT_TRUE(connect.connection & kVsockByGuest);
    EXPECT_EQ(connect.host_port, host_port);
    EXPECT_EQ(connect.guest_port, guest_port);
    EXPECT_TRUE(input(VsockOperation::kAccept, connect.connection));
    buffers(1);
    EXPECT_EQ(receive().operation, kResponse);
    return connect.connection;
  }

  TestBoard board;
  FakeVsockHost host;
  VirtioVsock vsock{host, 5, "vsock0", board.ram, kCid};
  BareDriver driver{board, vsock};
  uint16_t read = 0, sent = 0;
  uint32_t host_port = 80, guest_port = 5000, window = 1 << 18, forwarded = 0;
};

TEST_F(VirtioVsockTest, Configuration) {
  EXPECT_EQ(vsock.type(), 19);
  EXPECT_EQ(driver.config(0, 8), kCid);
  EXPECT_EQ(vsock.offered() & 7, 1u);
  for (uint64_t cid : {0ull, 1ull, 2ull, 0xffffffffull, 1ull << 32})
    EXPECT_THROW(VirtioVsock(host, 5, "v", board.ram, cid), Error);
}

TEST_F(VirtioVsockTest, AStreamThatTheGuestBegins) {
  uint64_t number = open();
  send(kRw, "hello");
  VsockEvent data = event();
  EXPECT_EQ(data.operation, VsockOperation::kData);
  EXPECT_EQ(as_text(data.data), "hello");
  EXPECT_TRUE(input(VsockOperation::kData, number, 0, "world"));
  EXPECT_EQ(receive().operation, 0);  // no buffer
  buffers();
  Packet packet = receive();
  EXPECT_EQ(packet.operation, kRw);
  EXPECT_EQ(packet.data, "world");
  EXPECT_EQ(packet.window, kVsockWindow);
  EXPECT_EQ(packet.source_port, host_port);
  EXPECT_EQ(packet.destination_port, guest_port);
  VsockEvent room = event();
  EXPECT_EQ(room.operation, VsockOperation::kRoom);
  EXPECT_EQ(room.value, 5u);
  // The guest closes: SHUTDOWN, answered by RST.
  send(kShutdown, "", 3);
  VsockEvent shut = event();
  EXPECT_EQ(shut.operation, VsockOperation::kShutdown);
  EXPECT_EQ(shut.value, 3u);
  EXPECT_TRUE(input(VsockOperation::kReset, number));
  EXPECT_EQ(receive().operation, kRst);
  EXPECT_EQ(vsock.connections(), 0u);
  EXPECT_TRUE(host.events.empty());
  EXPECT_FALSE(input(VsockOperation::kData, number, 0, "late"));
}

TEST_F(VirtioVsockTest, AStreamThatTheHostBegins) {
  buffers();
  EXPECT_TRUE(input(VsockOperation::kConnect, 7));
  EXPECT_EQ(receive().operation, kRequest);
  send(kResponse);
  VsockEvent accept = event();
  EXPECT_EQ(accept.operation, VsockOperation::kAccept);
  EXPECT_EQ(accept.connection, 7u);
  EXPECT_TRUE(input(VsockOperation::kData, 7, 0, "x"));
  EXPECT_EQ(receive().data, "x");
  EXPECT_EQ(event().operation, VsockOperation::kRoom);
  // The same ports again, or a number of the guest's: refused.
  EXPECT_FALSE(input(VsockOperation::kConnect, 8));
  EXPECT_EQ(event().connection, 8u);
  EXPECT_FALSE(input(VsockOperation::kConnect, kVsockByGuest | 9));
  EXPECT_EQ(event().operation, VsockOperation::kReset);
  EXPECT_TRUE(input(VsockOperation::kShutdown, 7, kVsockNoSend));
  Packet shut = receive();
  EXPECT_EQ(shut.operation, kShutdown);
  EXPECT_EQ(shut.flags, kVsockNoSend);
  send(kRst);
  EXPECT_EQ(event().operation, VsockOperation::kReset);
  EXPECT_EQ(receive().operation, 0);  // no answer to a reset
}

TEST_F(VirtioVsockTest, ARefusedConnection) {
  buffers();
  send(kRequest);
  uint64_t number = event().connection;
  EXPECT_TRUE(input(VsockOperation::kReset, number));
  EXPECT_EQ(receive().operation, kRst);
  EXPECT_TRUE(input(VsockOperation::kConnect, 7));
  EXPECT_EQ(receive().operation, kRequest);
  send(kRst);
  EXPECT_EQ(event().operation, VsockOperation::kReset);
  EXPECT_EQ(vsock.connections(), 0u);
}

TEST_F(VirtioVsockTest, ARequestTakenBackBeforeTheGuestSawIt) {
  EXPECT_TRUE(input(VsockOperation::kConnect, 7));
  EXPECT_TRUE(input(VsockOperation::kReset, 7));
  EXPECT_TRUE(input(VsockOperation::kConnect, 8));
  EXPECT_FALSE(input(VsockOperation::kData, 8, 0, "early"));  // breaks the rules
  buffers();
  EXPECT_EQ(receive().operation, 0);
}

TEST_F(VirtioVsockTest, TheGuestsCreditIsKept) {
  window = 10;
  uint64_t number = open();
  EXPECT_TRUE(input(VsockOperation::kData, number, 0, "0123456789abcdef"));
  buffers();
  EXPECT_EQ(receive().data, "0123456789");
  EXPECT_EQ(receive().operation, kCreditRequest);
  EXPECT_EQ(receive().operation, 0);
  EXPECT_EQ(event().value, 10u);
  forwarded = 0;
  send(kCreditUpdate);  // its buffer is still full: not asked again
  EXPECT_EQ(receive().operation, 0);
  forwarded = 4;
  send(kCreditUpdate);
  EXPECT_EQ(receive().data, "abcd");
  EXPECT_EQ(receive().operation, kCreditRequest);
  forwarded = 14;
  send(kCreditUpdate);
  EXPECT_EQ(receive().data, "ef");
  // An end comes behind the data.
  EXPECT_TRUE(input(VsockOperation::kData, number, 0, "0123456789"));
  EXPECT_TRUE(input(VsockOperation::kShutdown, number, 3));
  EXPECT_EQ(receive().data, "01234567");
  EXPECT_EQ(receive().operation, kCreditRequest);
  EXPECT_EQ(receive().operation, 0);
  buffers(4);
  EXPECT_EQ(receive().operation, 0);
  send(kCreditUpdate);
  EXPECT_EQ(receive().data, "89");
  Packet shut = receive();
  EXPECT_EQ(shut.operation, kShutdown);
  EXPECT_EQ(shut.flags, 3u);
  EXPECT_FALSE(input(VsockOperation::kData, number, 0, "behind the end"));
}

TEST_F(VirtioVsockTest, OurCreditIsKeptAndRenewed) {
  uint64_t number = open();
  buffers();
  send(kCreditRequest);
  Packet update = receive();
  EXPECT_EQ(update.operation, kCreditUpdate);
  EXPECT_EQ(update.forwarded, 0u);
  for (unsigned i = 0; i < kVsockWindow / 4096; ++i) send(kRw, std::string(4096, 'x'));
  EXPECT_EQ(host.events.size(), kVsockWindow / 4096);
  host.events.clear();
  EXPECT_TRUE(input(VsockOperation::kRoom, number, 4096));
  EXPECT_EQ(receive().operation, 0);  // not worth a packet yet
  EXPECT_TRUE(input(VsockOperation::kRoom, number, kVsockWindow / 4));
  update = receive();
  EXPECT_EQ(update.operation, kCreditUpdate);
  EXPECT_EQ(update.forwarded, kVsockWindow / 4 + 4096);
  for (unsigned i = 0; i < 5; ++i) send(kRw, std::string(4096, 'x'));
  EXPECT_EQ(host.events.size(), 5u);
  host.events.clear();
  send(kRw, "one too many");
  EXPECT_EQ(event().operation, VsockOperation::kReset);
  EXPECT_EQ(receive().operation, kRst);
  EXPECT_EQ(vsock.connections(), 0u);
}

TEST_F(VirtioVsockTest, TheHostsRules) {
  uint64_t number = open();
  buffers();
  EXPECT_FALSE(input(VsockOperation::kRoom, number, 1));  // nothing was sent
  EXPECT_EQ(receive().operation, kRst);
  EXPECT_EQ(event().operation, VsockOperation::kReset);
  window = 0;
  number = open();
  buffers(1);
  EXPECT_TRUE(input(VsockOperation::kData, number, 0, std::string(kVsockWindow, 'x')));
  EXPECT_FALSE(input(VsockOperation::kData, number, 0, "x"));
  EXPECT_FALSE(input(static_cast<VsockOperation>(17), number));
}

TEST_F(VirtioVsockTest, PacketsOutOfPlaceAreReset) {
  buffers(14);
  for (uint16_t operation : {kResponse, kShutdown, kRw, kCreditUpdate, kCreditRequest}) {
    send(operation);
    EXPECT_EQ(receive().operation, kRst) << operation;
  }
  send(kRst);
  EXPECT_EQ(receive().operation, 0);
  for (uint16_t operation : {kRequest, kResponse, kRw, uint16_t{0}, uint16_t{8}}) {
    send(kRequest);
    EXPECT_EQ(event().operation, VsockOperation::kConnect);
    send(operation, operation == kRw ? "x" : "");
    EXPECT_EQ(event().operation, VsockOperation::kReset) << operation;
    EXPECT_EQ(receive().operation, kRst) << operation;
  }
  send({.source_port = 1, .destination_port = 2, .type = 2, .operation = kRequest, .data = ""});
  EXPECT_EQ(receive().operation, kRst);
  send({.source_cid = 3, .source_port = 1, .destination_port = 2, .operation = kRequest, .data = ""});
  send({.destination_cid = 1, .source_port = 1, .destination_port = 2, .operation = kRequest, .data = ""});
  EXPECT_EQ(receive().operation, 0);
  EXPECT_TRUE(host.events.empty());
  EXPECT_EQ(vsock.connections(), 0u);
  EXPECT_FALSE(driver.broken());
}

TEST_F(VirtioVsockTest, ConnectionsAndAnswersAreBounded) {
  for (unsigned i = 0; i < kMaxVsockConnections; ++i) {
    guest_port = i;
    send(kRequest);
  }
  EXPECT_EQ(vsock.connections(), kMaxVsockConnections);
  EXPECT_EQ(host.events.size(), kMaxVsockConnections);
  host.events.clear();
  EXPECT_FALSE(input(VsockOperation::kConnect, 1));
  EXPECT_EQ(event().operation, VsockOperation::kReset);
  guest_port = 1u << 20;
  for (unsigned i = 0; i < VirtioVsock::kMaxResets; ++i) send(kRw);
  uint16_t used = driver.rings[1].used_index();
  send(kRw);
  EXPECT_EQ(driver.rings[1].used_index(), used);  // waits
  buffers(1);
  EXPECT_EQ(driver.rings[1].used_index(), static_cast<uint16_t>(used + 1));
  EXPECT_EQ(vsock.connections(), kMaxVsockConnections);
  EXPECT_EQ(receive().operation, kRst);
}

TEST_F(VirtioVsockTest, AResetAndATransportResetEndAllConnections) {
  uint64_t number = open();
  vsock.reset();
  EXPECT_EQ(event().operation, VsockOperation::kReset);
  EXPECT_FALSE(input(VsockOperation::kConnect, 3));
  EXPECT_EQ(event().operation, VsockOperation::kReset);
  start();
  EXPECT_NE(open(), number);
  vsock.transport_reset(43);
  EXPECT_EQ(driver.config(0, 8), 43u);
  EXPECT_EQ(vsock.connections(), 0u);
  EXPECT_TRUE(host.events.empty());
  EXPECT_EQ(driver.rings[2].used(0), std::pair(0u, 4u));
  EXPECT_EQ(get_le<uint32_t>(board.at(kPacket + 0x8000)), 0u);
  vsock.transport_reset(44);  // no buffer: told when there is one
  EXPECT_EQ(driver.rings[2].used_index(), 1);
  driver.give(2, 1, {{kPacket + 0x8000, 8, true}});
  EXPECT_EQ(driver.rings[2].used_index(), 2);
}

TEST_F(VirtioVsockTest, RingsThatBreakTheRules) {
  for (unsigned queue : {0u, 1u, 2u})
    for (const BadRing& bad : bad_rings()) {
      ASSERT_TRUE(driver.start(1 | kVirtioIndirect));
      host.events.clear();
      bad.write(board, driver.rings[queue], kPacket, queue != 1);
      if (queue == 0) input(VsockOperation::kConnect, 1);
      if (queue == 2) vsock.transport_reset(kCid);
      vsock.notify(queue);
      EXPECT_TRUE(driver.broken()) << queue << ' ' << bad.name;
      EXPECT_EQ(driver.rings[queue].used_index(), 0) << queue << ' ' << bad.name;
      EXPECT_TRUE(host.events.empty());
    }
  ASSERT_TRUE(driver.start(1));
  driver.give(1, 0, {{kPacket, 43}});
  EXPECT_TRUE(driver.broken());
  start();
  send({.source_port = 1, .destination_port = 2, .length = 6, .operation = kRw, .data = "short"});
  EXPECT_TRUE(driver.broken());
  start();
  driver.give(0, 0, {{kBuffers, 44, true}});  // no room for a byte
  input(VsockOperation::kConnect, 2);
  EXPECT_TRUE(driver.broken());
  EXPECT_FALSE(input(VsockOperation::kConnect, 4));
}

TEST_F(VirtioVsockTest, StateSurvivesSaveAndLoad) {
  uint64_t number = open();
  send(kRw, "abc");
  guest_port = 5001;
  send(kRw);  // an answer waits
  guest_port = 5002;
  EXPECT_TRUE(input(VsockOperation::kConnect, 3));  // a request waits
  guest_port = 5000;
  EXPECT_TRUE(input(VsockOperation::kData, number, 0, std::string(10000, 'd')));
  TestBoard there;
  there.copy_memory(board);
  VirtioVsock other(host, 5, "vsock0", there.ram, 7);
  load_state_of(other, state_of(vsock));
  EXPECT_EQ(state_of(other), state_of(vsock));
  EXPECT_EQ(other.guest_cid(), kCid);
  buffers();
  std::memcpy(there.at(0x10000), board.at(0x10000), 0x1010);  // the same descriptors and available ring
  std::memcpy(there.at(0x11000), board.at(0x11000), 0x100);
  other.notify(0);
  EXPECT_EQ(receive().operation, kRst);
  EXPECT_EQ(receive().operation, kRequest);
  EXPECT_EQ(receive().data.size(), kBufferSize - 44);
  EXPECT_EQ(receive().data.size(), 10000 - (kBufferSize - 44));
  EXPECT_EQ(std::memcmp(board.at(0), there.at(0), TestBoard::kRam), 0);
  EXPECT_EQ(state_of(other), state_of(vsock));
}

TEST_F(VirtioVsockTest, BadStates) {
  uint64_t number = open();
  guest_port = 5001;
  send(kRw);
  EXPECT_TRUE(input(VsockOperation::kConnect, 3));
  EXPECT_TRUE(input(VsockOperation::kData, number, 0, "data"));
  int refused = try_bad_states(
      state_of(vsock), [&] { return std::make_unique<VirtioVsock>(host, 5, "v", board.ram, kCid); },
      [&](VirtioDevice& device) {
        auto& loaded = static_cast<VirtioVsock&>(device);
        for (uint64_t each : {number, uint64_t{3}}) {
          loaded.input({.operation = VsockOperation::kRoom, .connection = each, .value = 1, .data = {}});
          loaded.input({.operation = VsockOperation::kReset, .connection = each, .data = {}});
        }
        loaded.input({.operation = VsockOperation::kConnect, .connection = 99, .data = {}});
        for (unsigned queue : {0u, 1u, 2u}) device.notify(queue);
      });
  EXPECT_GT(refused, 60);
}

}  // namespace
}  // namespace hypertwin::devices
