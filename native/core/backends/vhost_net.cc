// /dev/vhost-net.
#include "backends/vhost_net.h"

// Its inline functions are C.
#define VIRTIO_RING_NO_LEGACY
#include <fcntl.h>
#include <linux/vhost.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "devices/virtio_queue.h"

namespace hypertwin::backends {

namespace {
constexpr uint64_t kMergeable = uint64_t{1} << 15;
// What the guest and the kernel must agree on; the rest of a network's features is the tap's.
constexpr uint64_t kRings =
    devices::kVirtioIndirect | devices::kVirtioEventIdx | devices::kVirtioVersion1 | kMergeable;
constexpr uint64_t kLogAll = uint64_t{1} << VHOST_F_LOG_ALL;
// The kernel sets bits byte by byte.
static_assert(std::endian::native == std::endian::little);
}  // namespace

VhostNet::VhostNet(devices::GuestRam& ram) : ram_(ram), broken_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!broken_) throw_errno("eventfd", "for the kernel's side of a network");
  fd_ = Fd(::open("/dev/vhost-net", O_RDWR | O_CLOEXEC));
  if (!fd_) {
    if (errno == ENOENT || errno == ENODEV)
      throw Error::system(errno, "open",
                          "opening /dev/vhost-net (load the kernel module vhost_net: modprobe vhost_net)");
    throw_errno("open", "opening /dev/vhost-net (it needs read and write permission on it)");
  }
  call(VHOST_SET_OWNER, nullptr, "VHOST_SET_OWNER");
  call(VHOST_GET_FEATURES, &offered_, "VHOST_GET_FEATURES");

  const auto& regions = ram.regions();
  std::vector<uint64_t> bytes((sizeof(vhost_memory) + regions.size() * sizeof(vhost_memory_region) + 7) / 8);
  auto* table = reinterpret_cast<vhost_memory*>(bytes.data());
  table->nregions = static_cast<uint32_t>(regions.size());
  for (size_t i = 0; i < regions.size(); ++i)
    table->regions[i] = {.guest_phys_addr = regions[i].guest_address,
                         .memory_size = regions[i].size,
                         .userspace_addr = reinterpret_cast<uintptr_t>(regions[i].host),
                         .flags_padding = 0};
  call(VHOST_SET_MEM_TABLE, table, "VHOST_SET_MEM_TABLE");
  const uint64_t end = regions.back().guest_address + regions.back().size;
  words_ = static_cast<size_t>((end / devices::kPageSize + 63) / 64);
  ram_.add_writer(*this);
}

VhostNet::~VhostNet() {
  ram_.remove_writer(*this);
  // The kernel ends before its log does.
  fd_ = Fd();
}

void VhostNet::call(unsigned long request, const void* argument, const char* name) const {
  if (::ioctl(fd_.get(), request, argument) < 0) throw_errno(name, "for the kernel's side of a network");
}

bool VhostNet::can_serve(uint64_t features) const { return !(features & kRings & ~offered_); }

void VhostNet::set_features() const {
  const uint64_t features = features_ | (logs_ ? kLogAll : 0);
  call(VHOST_SET_FEATURES, &features, "VHOST_SET_FEATURES");
}

void VhostNet::set_backend(unsigned queue, int tap) const {
  const vhost_vring_file file{.index = queue, .fd = tap};
  call(VHOST_NET_SET_BACKEND, &file, "VHOST_NET_SET_BACKEND");
}

void VhostNet::set_up(unsigned index, const Queue& queue, int tap) const {
  const auto at = [&](uint64_t address, uint64_t size) {
    const uint8_t* found = ram_.translate(address, size);
    if (!found) throw Error("BAD_CONFIG", "a queue does not lie in one place");
    return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(found));
  };
  const vhost_vring_addr address{.index = index,
                                 .flags = 0,
                                 .desc_user_addr = at(queue.descriptors, uint64_t{16} * queue.size),
                                 .used_user_addr = at(queue.device, 6 + uint64_t{8} * queue.size),
                                 .avail_user_addr = at(queue.driver, 6 + uint64_t{2} * queue.size),
                                 .log_guest_addr = 0};
  const vhost_vring_state size{.index = index, .num = queue.size};
  const vhost_vring_state next{.index = index, .num = queue.next_available};
  call(VHOST_SET_VRING_NUM, &size, "VHOST_SET_VRING_NUM");
  call(VHOST_SET_VRING_BASE, &next, "VHOST_SET_VRING_BASE");
  call(VHOST_SET_VRING_ADDR, &address, "VHOST_SET_VRING_ADDR");
  const auto give = [&](unsigned long request, int fd, const char* name) {
    const vhost_vring_file file{.index = index, .fd = fd};
    call(request, &file, name);
  };
  give(VHOST_SET_VRING_ERR, broken_.get(), "VHOST_SET_VRING_ERR");
  give(VHOST_SET_VRING_KICK, queue.kick, "VHOST_SET_VRING_KICK");
  give(VHOST_SET_VRING_CALL, queue.call, "VHOST_SET_VRING_CALL");
  set_backend(index, tap);
}

uint16_t VhostNet::next_available(unsigned queue) const {
  vhost_vring_state state{.index = queue, .num = 0};
  call(VHOST_GET_VRING_BASE, &state, "VHOST_GET_VRING_BASE");
  return static_cast<uint16_t>(state.num);
}

bool VhostNet::start(uint64_t features, std::array<Queue, kQueues>& queues, int tap) {
  if (!can_serve(features)) return false;
  std::lock_guard lock(mutex_);
  queues_ = queues;
  unsigned begun = 0;
  try {
    features_ = features & kRings;
    set_features();
    for (; begun < kQueues; ++begun) set_up(begun, queues[begun], tap);
  } catch (const Error&) {
    while (begun-- > 0) {
      set_backend(begun, -1);
      queues[begun].next_available = next_available(begun);
    }
    mark_used_rings();
    return false;
  }
  running_ = true;
  return true;
}

std::array<uint16_t, VhostNet::kQueues> VhostNet::stop() {
  std::lock_guard lock(mutex_);
  std::array<uint16_t, kQueues> next{};
  for (unsigned i = 0; i < kQueues; ++i) {
    set_backend(i, -1);
    next[i] = next_available(i);
  }
  running_ = false;
  mark_used_rings();
  return next;
}

void VhostNet::set_call(unsigned queue, int fd) {
  std::lock_guard lock(mutex_);
  if (!running_ || queues_[queue].call == fd) return;
  const vhost_vring_file file{.index = queue, .fd = fd};
  call(VHOST_SET_VRING_CALL, &file, "VHOST_SET_VRING_CALL");
  queues_[queue].call = fd;
}

void VhostNet::set_log(bool on) {
  std::lock_guard lock(mutex_);
  if (on && !log_) {
    log_ = std::make_unique<std::atomic<uint64_t>[]>(words_);
    const uint64_t base = reinterpret_cast<uintptr_t>(log_.get());
    call(VHOST_SET_LOG_BASE, &base, "VHOST_SET_LOG_BASE");
  }
  logs_ = on;
  set_features();
}

void VhostNet::mark_written() {
  std::lock_guard lock(mutex_);
  // The log has only what lies in buffers.
  if (running_) mark_used_rings();
  if (!log_) return;
  for (size_t w = 0; w < words_; ++w) {
    if (log_[w].load(std::memory_order_relaxed) == 0) continue;
    for (uint64_t bits = log_[w].exchange(0, std::memory_order_acq_rel); bits != 0; bits &= bits - 1)
      ram_.mark_written((w * 64 + static_cast<uint64_t>(std::countr_zero(bits))) * devices::kPageSize,
                        devices::kPageSize);
  }
}

void VhostNet::mark_used_rings() {
  for (const Queue& queue : queues_) ram_.mark_written(queue.device, 6 + uint64_t{8} * queue.size);
}

}  // namespace hypertwin::backends
