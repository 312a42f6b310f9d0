// virtio-vsock (virtio 1.2, section 5.10): streams between the guest and the host (CID 2). The device keeps
// the connections and their credit; what they carry goes to VsockHost and comes through input(), as events.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "devices/virtio.h"
#include "devices/vsock.h"

namespace hypertwin::devices {

// Where a device's events go. It must not call back into the device.
class VsockHost {
 public:
  virtual ~VsockHost() = default;
  virtual void vsock_event(uint32_t device, VsockEvent event) = 0;
  // So many events are not done that the guest's packets have to wait: the transmit queue is to be notified
  // when they are.
  virtual bool vsock_busy(uint32_t /*device*/) { return false; }
};

class VirtioVsock final : public VirtioDevice {
 public:
  static constexpr unsigned kReceive = 0, kTransmit = 1, kEvents = 2;  // its queues
  static constexpr uint64_t kHostCid = 2;
  // Answers to packets without a connection; when so many wait, the guest's transmit queue does too.
  static constexpr size_t kMaxResets = 256;

  // `id` names the device in VsockHost::vsock_event. Throws Error("EINVAL") unless the CID is one of a guest:
  // 3 to 2^32 - 2.
  VirtioVsock(VsockHost& host, uint32_t id, std::string name, GuestRam& ram, uint64_t guest_cid);

  // An event of the host's side. False when it means nothing: the connection is gone, or the event breaks the
  // rules of vsock.h, which ends the connection. A kConnect that cannot be is answered by kReset.
  bool input(const VsockEvent& event);
  // All connections end, and the guest is told so and to read its CID anew: the host's side was replaced (a
  // restored or cloned machine). Nothing goes to the host's side.
  void transport_reset(uint64_t guest_cid);
  size_t connections() const { return connections_.size(); }
  uint64_t guest_cid() const;

  uint16_t type() const override { return 19; }
  uint32_t class_code() const override { return 0x078000; }
  std::span<const uint8_t> config() const override { return config_; }

 private:
  struct Header;
  using Ports = std::pair<uint32_t, uint32_t>;                          // the host's, the guest's
  enum class State : uint8_t { kByHost = 0, kByGuest = 1, kOpen = 2 };  // the first two: not answered yet
  // What the guest is to be told, besides data.
  enum Owed : uint8_t {
    kOwesRequest = 1,
    kOwesResponse = 2,
    kOwesShutdown = 4,
    kOwesCredit = 8,
    kAsksCredit = 16
  };
  struct Connection {
    Ports ports;
    State state = State::kOpen;
    uint8_t owed = 0;
    bool asked_credit = false;    // since there was credit
    bool ready = false;           // listed in ready_
    uint32_t guest_shutdown = 0;  // kVsockNoReceive, kVsockNoSend
    uint32_t host_shutdown = 0;
    // Counters of bytes as virtio has them: free-running, 32 bits.
    uint32_t guest_window = 0;     // buf_alloc of the guest
    uint32_t guest_forwarded = 0;  // fwd_cnt of the guest
    uint32_t sent = 0;             // to the guest
    uint32_t received = 0;         // from the guest
    uint32_t forwarded = 0;        // of these, taken by the host
    uint32_t told_forwarded = 0;   // of these, told the guest
    std::deque<uint8_t> data;      // for the guest
  };

  void on_notify(unsigned queue) override;
  void on_live() override;
  void on_reset() override;
  void save_state(ByteWriter& out) const override;
  void load_state(ByteReader& in) override;

  void take_packets();
  bool take(const Chain& chain);
  void take(const Header& header, const Chain& chain);
  void begin(const Header& header);
  void fill();
  // Whether there is something to send now.
  bool wants(const Connection& connection) const;
  uint32_t credit(const Connection& connection) const;
  void make_ready(uint64_t number, Connection& connection);
  // The next packet into the buffer; returns its bytes.
  uint32_t put_packet(const Chain& chain);
  uint32_t put_packet(const Chain& chain, Connection& connection);
  void send_event();
  void reset_guest(const Ports& ports);
  void remove(uint64_t number);
  // Ends a connection; the sides that are to be told are.
  void end(uint64_t number, bool tell_guest, bool tell_host);
  void tell_host(VsockEvent event);
  uint64_t number_of(const Ports& ports) const;
  void set_cid(uint64_t cid);
  void load_connection(ByteReader& in);

  VsockHost& host_;
  std::array<uint8_t, 8> config_{};
  uint64_t next_number_ = kVsockByGuest;
  std::map<uint64_t, Connection> connections_;
  std::map<Ports, uint64_t> by_ports_;
  std::deque<uint64_t> ready_;    // connections that have something for the guest, in turn
  std::deque<Ports> resets_;      // to be answered by RST
  bool event_pending_ = false;    // a transport reset that the guest has not been told
  Chain chain_;                   // reused
  Chain receive_chain_;           // reused
  std::vector<uint8_t> scratch_;  // reused
};

}  // namespace hypertwin::devices
