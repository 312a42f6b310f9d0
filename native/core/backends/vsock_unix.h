// The host's side of virtio-vsock by UNIX stream sockets, with one thread of its own (`ht-vsock`). Who
// connects to `path` and writes "CONNECT <port>\n" reaches that port of the guest, and reads "OK <host
// port>\n" first. Who listens at `path`_<port> is reached by a guest that connects to that port of CID 2.
// Knows no device and no guest.
#pragma once

#include <sys/epoll.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "devices/vsock.h"

namespace hypertwin::backends {

class VsockUnix {
 public:
  // Connections in all, those whose CONNECT is still to come included.
  static constexpr size_t kMaxPeers = devices::kMaxVsockConnections;
  static constexpr size_t kMaxQueued = 16384;
  // Of the CONNECT line.
  static constexpr size_t kMaxLine = 32;

  // Called on the backend's thread; must not throw, and must take the event: vsock.h bounds them.
  using OnEvent = std::function<void(devices::VsockEvent)>;
  // Called there when it is busy() no more.
  using OnIdle = std::function<void()>;

  // Makes the socket at `path`, which must not exist. Throws Error: EADDRINUSE, EACCES, ...;
  // ENAMETOOLONG when the path, or that of a port, does not fit in a socket's address.
  VsockUnix(std::string path, OnEvent on_event, OnIdle on_idle = {});
  // Ends the thread, closes all connections and removes the socket.
  ~VsockUnix();
  VsockUnix(const VsockUnix&) = delete;
  VsockUnix& operator=(const VsockUnix&) = delete;

  const std::string& path() const { return path_; }
  // An event of the device. Any thread; never waits, since the device may be locked. An event that breaks the
  // rules of vsock.h ends its connection.
  void submit(devices::VsockEvent event);
  // kMaxQueued events are not done: a guest that connects and resets in a loop has to wait for on_idle.
  bool busy() const;

 private:
  enum class State : uint8_t { kLine, kAsked, kOpen, kDraining };
  struct Peer {
    Fd fd;
    State state = State::kLine;
    uint32_t host_port = 0;
    uint32_t watched = 0;         // what epoll looks for; 0: it is not in epoll
    uint32_t window = 0;          // bytes that may go to the guest
    uint32_t guest_shutdown = 0;  // kVsockNoReceive, kVsockNoSend
    bool ended = false;           // nothing more comes from the socket
    bool deaf = false;            // the socket takes nothing more
    std::string line;             // the CONNECT line, and what came with it
    std::vector<uint8_t> out;     // for the socket
    size_t written = 0;           // of out
  };
  using Peers = std::map<uint64_t, Peer>;

  void run();
  void take_events();
  void take(devices::VsockEvent& event);
  void accept_peers();
  void dial(const devices::VsockEvent& event);
  // Each of these may end the peer, and is its last use then.
  void serve(uint64_t number, uint32_t events);
  bool read_line(uint64_t number, Peer& peer);
  bool read_stream(uint64_t number, Peer& peer, bool hung_up);
  bool write_stream(uint64_t number, Peer& peer);
  // Looks for what can happen next to the peer.
  void watch(uint64_t number, Peer& peer);
  void reset(uint64_t number);
  // The socket is closed: the guest ends the connection in the device when it has read all.
  void leave(uint64_t number);
  void remove(uint64_t number);
  void emit(devices::VsockOperation operation, uint64_t number, uint32_t value = 0);
  void watch_listener(bool on);

  std::string path_;
  OnEvent on_event_;
  OnIdle on_idle_;
  Fd listener_;
  Fd epoll_;
  Fd wake_;
  mutable std::mutex mutex_;  // guards the next two
  std::vector<devices::VsockEvent> inbox_;
  bool stop_ = false;
  // The thread's own from here on.
  Peers peers_;
  uint64_t next_number_;
  uint32_t next_port_;
  bool listening_ = false;
  std::vector<uint8_t> scratch_;
  std::thread thread_;
};

}  // namespace hypertwin::backends
