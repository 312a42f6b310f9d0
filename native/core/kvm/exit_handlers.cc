// The table of native exit handlers.
#include "kvm/exit_handlers.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/error.h"

namespace hypertwin::kvm {
namespace {
constexpr uint64_t kMaxRam = 1 << 20;
}

ExitHandler::ExitHandler(const Options& options) : options_(options) {
  if (options.length == 0 || options.address + (options.length - 1) < options.address)
    throw Error("ERANGE", "an exit handler's range must have at least one byte and not wrap around");
  if (options.space == Space::kPort && last() > 0xffff)
    throw Error("ERANGE", "port " + std::to_string(last()) + " does not exist: ports end at 65535");
  if (options.action == Action::kRam) {
    if (options.length > kMaxRam)
      throw Error("ERANGE", "an exit handler keeps at most 1 MiB: map a memory slot for more");
    ram_.resize(options.length);
  }
}

void ExitHandler::read_ram(uint64_t offset, std::span<uint8_t> into) const {
  std::lock_guard lock(mutex_);
  if (offset > ram_.size() || into.size() > ram_.size() - offset)
    throw Error("ERANGE", "outside of the handler's " + std::to_string(ram_.size()) + " bytes");
  if (!into.empty()) std::memcpy(into.data(), ram_.data() + offset, into.size());
}

void ExitHandler::write_ram(uint64_t offset, std::span<const uint8_t> from) {
  std::lock_guard lock(mutex_);
  if (offset > ram_.size() || from.size() > ram_.size() - offset)
    throw Error("ERANGE", "outside of the handler's " + std::to_string(ram_.size()) + " bytes");
  if (!from.empty()) std::memcpy(ram_.data() + offset, from.data(), from.size());
}

void ExitHandler::access(uint64_t address, bool write, uint8_t* data, uint32_t size) {
  uint64_t hits = hits_.fetch_add(1, std::memory_order_relaxed) + 1;
  switch (options_.action) {
    case Action::kSink:
      if (!write) std::memset(data, 0xff, size);
      break;
    case Action::kConstant:
    case Action::kCounter: {
      uint64_t value = options_.action == Action::kCounter ? hits : options_.value;
      if (!write)
        for (uint32_t i = 0; i < size; ++i) data[i] = static_cast<uint8_t>(value >> (8 * (i % 8)));
      break;
    }
    case Action::kRam: {
      std::lock_guard lock(mutex_);
      uint8_t* at = ram_.data() + (address - options_.address);
      if (write)
        std::memcpy(at, data, size);
      else
        std::memcpy(data, at, size);
      break;
    }
  }
}

std::shared_ptr<ExitHandler> ExitHandlers::add(const ExitHandler::Options& options) {
  auto handler = std::make_shared<ExitHandler>(options);
  auto& space = spaces_[options.space == ExitHandler::Space::kMmio];
  auto next = std::find_if(space.begin(), space.end(),
                           [&](const auto& other) { return other->last() >= options.address; });
  if (next != space.end() && (*next)->options().address <= handler->last())
    throw Error("EOVERLAP", "an exit handler already answers at " +
                                std::to_string((*next)->options().address) + " to " +
                                std::to_string((*next)->last()));
  space.insert(next, handler);
  return handler;
}

void ExitHandlers::remove(const std::shared_ptr<ExitHandler>& handler) {
  for (auto& space : spaces_) std::erase(space, handler);
}

ExitHandler* ExitHandlers::find(ExitHandler::Space kind, uint64_t address, uint32_t size) const {
  const auto& space = spaces_[kind == ExitHandler::Space::kMmio];
  auto found = std::lower_bound(space.begin(), space.end(), address,
                                [](const auto& handler, uint64_t at) { return handler->last() < at; });
  if (found == space.end() || address < (*found)->options().address || size == 0 ||
      size - 1 > (*found)->last() - address)
    return nullptr;
  return found->get();
}

}  // namespace hypertwin::kvm
