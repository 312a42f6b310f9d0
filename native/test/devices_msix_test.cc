// Message-signalled interrupts of a virtio function, and ACPI's fixed hardware.
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "devices/acpi_pm.h"
#include "devices/msix.h"
#include "devices_board.h"

namespace hypertwin::devices {
namespace {

struct FakeSink : MessageSink {
  std::map<unsigned, Message> messages;
  std::vector<unsigned> signals;
  void set_message(unsigned vector, const Message& message) override { messages[vector] = message; }
  void signal(unsigned vector) override {
    EXPECT_TRUE(messages.contains(vector)) << "its message comes first";
    signals.push_back(vector);
  }
  int event(unsigned vector) override { return static_cast<int>(100 + vector); }
};

struct MsixCard {
  TestBoard board;
  FakeLine line;
  FakeSink sink;
  VirtioPci card{board.net, line, &sink};
  const uint8_t capability = capability_of(card, Msix::kCapability);

  MsixCard() { card.config_write(4, 2, 7); }
  void control(uint16_t value) { card.config_write(static_cast<uint8_t>(capability + 2), 2, value); }
  void entry(unsigned vector, uint64_t address, uint32_t data, bool masked) {
    const uint32_t at = vector * Msix::kEntrySize;
    card.bar_write(4, at, 4, static_cast<uint32_t>(address));
    card.bar_write(4, at + 4, 4, static_cast<uint32_t>(address >> 32));
    card.bar_write(4, at + 8, 4, data);
    card.bar_write(4, at + 12, 4, masked);
  }
  void queue_vector(uint16_t queue, uint16_t vector) {
    card.bar_write(0, VirtioPci::kMemoryCommon + 22, 2, queue);
    card.bar_write(0, VirtioPci::kMemoryCommon + 26, 2, vector);
  }
  uint32_t queue_vector(uint16_t queue) {
    card.bar_write(0, VirtioPci::kMemoryCommon + 22, 2, queue);
    return card.bar_read(0, VirtioPci::kMemoryCommon + 26, 2);
  }
};

TEST(MsixTable, AVectorForEachQueueAndOneMore) {
  MsixCard c;
  ASSERT_NE(c.capability, 0);
  EXPECT_EQ(c.card.config_read(static_cast<uint8_t>(c.capability + 2), 2) & 0x7ff, 2u) << "three, less one";
  EXPECT_EQ(c.card.config_read(static_cast<uint8_t>(c.capability + 4), 4), 4u) << "BAR 4, offset 0";
  EXPECT_EQ(c.card.bar_read(4, 12, 4), 1u) << "masked from the start";
  TestBoard plain;
  FakeLine line;
  VirtioPci without(plain.net, line);
  EXPECT_EQ(capability_of(without, Msix::kCapability), 0);
}

TEST(MsixTable, MessagesTakeThePlaceOfTheLine) {
  MsixCard c;
  c.queue_vector(1, 2);
  c.card.queue_interrupt(1);
  EXPECT_TRUE(c.line.level) << "MSI-X is off";
  c.card.bar_read(0, VirtioPci::kMemoryIsr, 1);
  c.control(Msix::kEnable);
  c.entry(2, 0xfee01000, 0x41, false);
  c.card.queue_interrupt(1);
  EXPECT_FALSE(c.line.level);
  EXPECT_EQ(c.sink.signals, (std::vector<unsigned>{2}));
  EXPECT_EQ(c.sink.messages[2], (Message{0xfee01000, 0x41}));
  c.card.queue_interrupt(0);
  EXPECT_EQ(c.sink.signals.size(), 1u) << "that queue has no vector";
}

TEST(MsixTable, WhatIsMaskedWaits) {
  MsixCard c;
  c.control(Msix::kEnable);
  c.queue_vector(0, 0);
  c.entry(0, 0xfee00000, 0x30, true);
  c.card.queue_interrupt(0);
  c.card.queue_interrupt(0);
  EXPECT_TRUE(c.sink.signals.empty());
  EXPECT_EQ(c.card.bar_read(4, 0x800, 4), 1u) << "pending";
  c.entry(0, 0xfee00000, 0x31, false);
  EXPECT_EQ(c.sink.signals, (std::vector<unsigned>{0})) << "once";
  EXPECT_EQ(c.sink.messages[0].data, 0x31u) << "by what the entry is now";
  EXPECT_EQ(c.card.bar_read(4, 0x800, 4), 0u);
  c.control(Msix::kEnable | Msix::kMaskAll);
  c.card.queue_interrupt(0);
  EXPECT_EQ(c.sink.signals.size(), 1u);
  c.control(Msix::kEnable);
  EXPECT_EQ(c.sink.signals.size(), 2u);
}

// The way past this process: only where the guest would be interrupted at once.
TEST(MsixTable, AnEventServesWhileNothingIsInItsWay) {
  MsixCard c;
  int changes = 0;
  c.card.watch_interrupts([&] { ++changes; });
  c.queue_vector(0, 1);
  EXPECT_EQ(changes, 1);
  EXPECT_EQ(c.card.queue_event(0), -1) << "MSI-X is off";
  c.control(Msix::kEnable);
  EXPECT_EQ(changes, 2);
  EXPECT_EQ(c.card.queue_event(0), -1) << "masked";
  c.entry(1, 0xfee00000, 0x30, false);
  EXPECT_EQ(changes, 6);
  EXPECT_EQ(c.card.queue_event(0), 101);
  EXPECT_EQ(c.card.queue_event(1), -1) << "no vector";
  c.control(Msix::kEnable | Msix::kMaskAll);
  EXPECT_EQ(c.card.queue_event(0), -1);
}

TEST(MsixTable, NonsenseGoesNowhere) {
  MsixCard c;
  c.control(Msix::kEnable);
  c.queue_vector(0, 3);
  EXPECT_EQ(c.queue_vector(0), 0xffffu) << "there is no such vector";
  c.queue_vector(0, 0xfffe);
  EXPECT_EQ(c.queue_vector(0), 0xffffu);
  c.queue_vector(7, 0);
  EXPECT_EQ(c.queue_vector(7), 0xffffu) << "there is no such queue";
  for (uint32_t at : {48u, 0x7fcu, 0xffcu}) {
    c.card.bar_write(4, at, 4, ~0u);
    c.card.bar_read(4, at, 4);
  }
  c.card.bar_write(4, 0, 4, ~0u);
  EXPECT_EQ(c.card.bar_read(4, 0, 4), ~3u) << "addresses are of whole words";
  c.card.bar_write(4, 12, 4, ~0u);
  EXPECT_EQ(c.card.bar_read(4, 12, 4), 1u) << "the mask is all that there is";
  c.queue_vector(0, 1);
  c.card.bar_write(0, VirtioPci::kMemoryCommon + 20, 1, 0);
  EXPECT_EQ(c.queue_vector(0), 0xffffu) << "a reset takes them away";
}

TEST(MsixTable, AStateHoldsNoMoreThanAGuestCanWrite) {
  struct Sink : MessageSink {
    std::vector<Message> messages;
    void set_message(unsigned, const Message& message) override { messages.push_back(message); }
    void signal(unsigned) override {}
  } sink;
  ByteWriter state;
  state.u16(Msix::kEnable);
  for (unsigned i = 0; i < Msix::kEntrySize; ++i) state.u8(i == 12 ? 0xfe : 0xff);
  state.u8(0);
  const auto bytes = state.take();
  Msix table(1, sink);
  ByteReader in(bytes, "state");
  table.load(in);
  EXPECT_EQ(table.read(12, 4), 0u);
  ASSERT_EQ(sink.messages.size(), 1u);
  EXPECT_EQ(sink.messages[0].address, ~uint64_t{3});
}

TEST(MsixTable, OutlivesASnapshot) {
  MsixCard c;
  c.control(Msix::kEnable);
  c.queue_vector(1, 1);
  c.entry(1, 0xfee02000, 0x55, false);
  c.entry(2, 0xfee02000, 0x56, true);
  c.queue_vector(0, 2);
  c.card.queue_interrupt(0);
  ByteWriter state;
  c.card.save(state);
  MsixCard twin;
  ByteReader in(state.data(), "the card");
  twin.card.load(in);
  in.expect_done();
  EXPECT_EQ(twin.sink.messages[1], (Message{0xfee02000, 0x55}));
  twin.card.queue_interrupt(1);
  twin.entry(2, 0xfee02000, 0x56, false);
  EXPECT_EQ(twin.sink.signals, (std::vector<unsigned>{1, 2})) << "the pending one, too";
  auto torn = state.data();
  ByteReader cut(std::span<const uint8_t>(torn).first(torn.size() / 2), "the card");
  MsixCard other;
  EXPECT_THROW(other.card.load(cut), Error);
}

TEST(AcpiPm, TheButtonInterruptsWhoListens) {
  FakeHost host;
  FakeLine sci;
  AcpiPm pm(host, sci);
  EXPECT_FALSE(pm.press_power_button());
  EXPECT_FALSE(sci.level);
  pm.port_write(AcpiPm::kEvents + 2, 2, 1 << 8);
  EXPECT_TRUE(pm.press_power_button());
  EXPECT_TRUE(sci.level);
  EXPECT_EQ(pm.port_read(AcpiPm::kEvents, 2), 1u << 8);
  pm.port_write(AcpiPm::kEvents, 2, 1 << 8);
  EXPECT_FALSE(sci.level);
  EXPECT_EQ(pm.port_read(AcpiPm::kControl, 2) & 1, 1u) << "always in ACPI mode";
}

TEST(AcpiPm, SleepsForGoodAlone) {
  FakeHost host;
  FakeLine sci;
  AcpiPm pm(host, sci);
  pm.port_write(AcpiPm::kControl, 2, 1 << 13 | 3 << 10);
  EXPECT_TRUE(host.power_events.empty()) << "S3 is none of its states";
  pm.port_write(AcpiPm::kControl, 2, 1 << 13 | AcpiPm::kPowerOffType << 10);
  EXPECT_EQ(host.power_events, (std::vector<PowerEvent>{PowerEvent::kPowerOff}));
}

TEST(AcpiPm, ItsTimerCounts24Bits) {
  FakeHost host;
  FakeLine sci;
  AcpiPm pm(host, sci);
  host.time = 1000000000;
  EXPECT_EQ(pm.port_read(AcpiPm::kTimer, 4), AcpiPm::kFrequency);
  host.time = 10000000000;
  EXPECT_EQ(pm.port_read(AcpiPm::kTimer, 4), (10 * AcpiPm::kFrequency) & 0xffffff);
  for (uint16_t port = AcpiPm::kEvents; port < AcpiPm::kEvents + 12; ++port)
    for (unsigned size : {1u, 2u, 4u}) {
      pm.port_read(port, size);
      pm.port_write(port, size, 0);
    }
}

}  // namespace
}  // namespace hypertwin::devices
