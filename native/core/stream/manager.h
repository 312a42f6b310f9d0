// The process that brings chunks into the cache (lib/stream/door.ts), asked for some that are missing. Each
// request has a connection of its own, which is used again; when that process is not there, it is waited for.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"

namespace hypertwin::stream {

// A chunk that the cache has no room for.
struct Loose {
  uint32_t chunk;
  std::vector<uint8_t> contents;
};

class Manager {
 public:
  // `folder`: the cache's, open. `pause(ms)`: waits, false when there is no use in waiting any longer.
  Manager(int folder, uint32_t chunk_size, std::function<bool(int)> pause);

  // Returns when the chunks are in the cache, or throws; those that it has no room for come as they are.
  // `enough` says that they are there by now, which a new process in the old one's place may not need to be
  // asked for. Throws Error: ESHUTDOWN when there is no use in waiting, EIO when a chunk cannot be had,
  // BAD_CACHE when the folder is gone.
  std::vector<Loose> need(uint32_t first, uint32_t count, const std::function<bool()>& enough);

 private:
  // Throws Error of code "EPIPE" when the connection is of no use, and "EIO" when the chunk cannot be had.
  std::vector<Loose> ask(const Fd& socket, uint32_t first, uint32_t count) const;
  void receive(const Fd& socket, void* to, size_t size) const;
  Fd take();
  void give_back(Fd socket);

  const int folder_;
  const std::string path_;
  const uint32_t chunk_size_;
  const std::function<bool(int)> pause_;
  std::mutex mutex_;
  std::vector<Fd> idle_;  // guarded by mutex_
};

}  // namespace hypertwin::stream
