// One reference to an object of libvirt's. Whoever uses the object shares the handle; when the last one lets
// go of it libvirt's own reference is dropped, on the pool: dropping may talk to a daemon, and wait for it. A
// stream is aborted then, which does nothing to one that has ended.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "libvirt/descriptor.h"

namespace hypertwin::libvirt {

class Handle {
  struct Token {};

 public:
  Handle(Token, Class type, void* object) : type_(type), object_(object) {}
  // Takes over a reference. `object` is not null. Any thread.
  static std::shared_ptr<Handle> adopt(Class type, void* object);
  // Adds a reference. On a thread that may call libvirt; throws LibvirtError.
  static std::shared_ptr<Handle> share(Class type, void* object);

  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  Class type() const { return type_; }
  void* object() const { return object_; }

  // What it was made of, while that is open: of a stream its connection. Set before others know the handle.
  void set_origin(const std::shared_ptr<Handle>& origin) { origin_ = origin; }
  std::shared_ptr<Handle> origin() const { return origin_.lock(); }

  // Of a stream: whether its calls wait for the other side. Set before others know the handle.
  void set_blocking(bool blocking) { blocking_ = blocking; }
  bool blocking() const { return blocking_; }
  // Of a stream: shared by the calls that use it, held alone by the one that ends it, which frees what the
  // others work on. Never taken on a thread that must not block.
  std::shared_mutex& in_use() { return in_use_; }

  // `run` is called, on the pool if that can be, once libvirt's reference is dropped. It must not throw.
  void when_freed(std::function<void()> run);

 private:
  const Class type_;
  void* const object_;
  std::weak_ptr<Handle> origin_;
  bool blocking_ = false;
  std::shared_mutex in_use_;
  std::mutex mutex_;  // guards freed_
  std::vector<std::function<void()>> freed_;
};

// How many there are in this process.
size_t handle_count();

}  // namespace hypertwin::libvirt
