// Events on libvirt's test driver and, for the kinds that it does not have, through the callbacks that
// libvirt would call.
#include "libvirt/events.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "libvirt/abi.h"
#include "libvirt/error.h"
#include "libvirt_util.h"

namespace hypertwin::libvirt {
namespace {

using namespace test;

class LibvirtEvents : public Libvirt {
 protected:
  std::shared_ptr<Subscription> subscribe(const Event* event, size_t limit = 4096,
                                          std::shared_ptr<Handle> about = nullptr) {
    SubscriptionOptions options;
    options.event = event;
    options.connection = connection_;
    options.object = std::move(about);
    options.limit = limit;
    options.notify = [this] {
      std::lock_guard lock(mutex_);
      ++told_;
      changed_.notify_all();
    };
    return std::make_shared<Subscription>(std::move(options));
  }
  std::shared_ptr<Subscription> start(EventFamily family, int id) {
    auto subscription = subscribe(find_event(family, id));
    subscription->start();
    return subscription;
  }
  void wait_told(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return told_ >= count; });
  }
  int told() {
    std::lock_guard lock(mutex_);
    return told_;
  }
  static void stop(Subscription& subscription) {
    std::promise<void> done;
    subscription.stop([&] { done.set_value(); });
    done.get_future().wait();
  }
  void SetUp() override {
    Libvirt::SetUp();
    if (!IsSkipped()) connection_ = open_test();
  }
  void TearDown() override {
    connection_ = nullptr;
    Libvirt::TearDown();
  }

  std::shared_ptr<Handle> connection_;

 private:
  std::mutex mutex_;  // guards told_
  std::condition_variable changed_;
  int told_ = 0;
};

TEST_F(LibvirtEvents, LifecycleOfADomain) {
  const auto subscription = start(EventFamily::domain, 0);
  const auto domain = handle_in(call("virDomainLookupByName", {of(connection_), text("test")}));
  call("virDomainSuspend", {of(domain)});
  wait_told(1);
  std::vector<EventRecord> records = subscription->take();
  call("virDomainResume", {of(domain)});
  wait_told(2);
  for (EventRecord& record : subscription->take()) records.push_back(std::move(record));
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].sequence, 1u);
  EXPECT_EQ(records[1].sequence, 2u);
  EXPECT_EQ(records[0].arguments, (Object{{"event", number(3)}, {"detail", number(0)}})) << "suspended";
  EXPECT_EQ(records[1].arguments, (Object{{"event", number(4)}, {"detail", number(0)}})) << "resumed";
  EXPECT_EQ(records[0].object.type, Class::domain);
  EXPECT_EQ(call("virDomainGetName", {Value(records[0].object)}), text("test"))
      << "its object is a reference";
  EXPECT_GT(records[0].time, 1.6e12);
  stop(*subscription);
  call("virDomainSuspend", {of(domain)});
  call("virDomainResume", {of(domain)});
  EXPECT_TRUE(subscription->take().empty());
}

TEST_F(LibvirtEvents, OfOneObjectOnly) {
  const auto other = handle_in(
      call("virDomainDefineXML",
           {of(connection_),
            text("<domain "
                 "type='test'><name>other</name><memory>65536</memory><os><type>hvm</type></os></domain>")}));
  const auto domain = handle_in(call("virDomainLookupByName", {of(connection_), text("test")}));
  const auto subscription = subscribe(find_event(EventFamily::domain, 0), 4096, domain);
  subscription->start();
  call("virDomainCreate", {of(other)});
  call("virDomainSuspend", {of(domain)});
  wait_told(1);
  const auto records = subscription->take();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(call("virDomainGetName", {Value(records[0].object)}), text("test"));
  stop(*subscription);
}

TEST_F(LibvirtEvents, OtherFamilies) {
  const auto networks = start(EventFamily::network, 0);
  const auto pools = start(EventFamily::storage_pool, 1);
  const auto network = handle_in(call("virNetworkLookupByName", {of(connection_), text("default")}));
  call("virNetworkDestroy", {of(network)});
  wait_told(1);
  ASSERT_EQ(networks->take().size(), 1u);
  const auto storage = handle_in(call("virStoragePoolLookupByName", {of(connection_), text("default-pool")}));
  call("virStoragePoolRefresh", {of(storage), number(0)});
  wait_told(2);
  const auto records = pools->take();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].object.type, Class::storage_pool);
  stop(*networks);
  stop(*pools);
}

TEST_F(LibvirtEvents, DropsTheOldestAndSaysHowMany) {
  const auto subscription = subscribe(find_event(EventFamily::domain, 0), 3);
  const auto domain = handle_in(call("virDomainLookupByName", {of(connection_), text("test")}));
  const Event& event = *find_event(EventFamily::domain, 0);
  Slot slots[4] = {{.p = connection_->object()}, {.p = domain->object()}, {.i = 0}, {.i = 0}};
  for (int i = 0; i < 10; ++i) {
    slots[2].i = i;
    subscription->deliver(event, slots);
  }
  EXPECT_EQ(told(), 1) << "one call for all that waits";
  const auto records = subscription->take();
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].sequence, 8u);
  EXPECT_EQ(records[0].dropped, 7u);
  EXPECT_EQ(records[1].dropped, 0u);
  EXPECT_EQ(records[2].sequence, 10u);
  subscription->deliver(event, slots);
  EXPECT_EQ(told(), 2);
  EXPECT_EQ(subscription->take()[0].dropped, 0u);
}

TEST_F(LibvirtEvents, StopBeforeAndDuringTheStart) {
  const auto early = subscribe(find_event(EventFamily::domain, 0));
  early->stop();
  EXPECT_EQ(failure([&] { early->start(); }).first, "CLOSED");
  for (int i = 0; i < 50; ++i) {
    const auto subscription = subscribe(find_event(EventFamily::domain, i % 27));
    std::thread starter([&] { failure([&] { subscription->start(); }); });
    subscription->stop();
    starter.join();
    stop(*subscription);
  }
}

TEST_F(LibvirtEvents, TooOldAndNotOfThisDriver) {
  Event later = *find_event(EventFamily::domain, 0);
  later.since = 99000000;
  const auto [code, message] = failure([&] { subscribe(&later)->start(); });
  EXPECT_EQ(code, "LIBVIRT_TOO_OLD");
  EXPECT_NE(message.find("lifecycle came with libvirt 99.0.0"), std::string::npos) << message;
  EXPECT_EQ(failure([&] { subscribe(find_event(EventFamily::qemu_monitor, 0))->start(); }).first,
            "LIBVIRT_ERROR");
}

TEST_F(LibvirtEvents, SeveralShareOneRegistration) {
  const auto domain = handle_in(call("virDomainLookupByName", {of(connection_), text("test")}));
  const auto again = handle_in(call("virDomainLookupByName", {of(connection_), text("test")}));
  const Event* event = find_event(EventFamily::domain, 0);
  const auto a = subscribe(event, 4096, domain);
  const auto b = subscribe(event, 4096, again);
  const auto all = subscribe(event);
  for (const auto& one : {a, b, all}) one->start();
  call("virDomainSuspend", {of(domain)});
  wait_told(3);
  for (const auto& one : {a, b, all}) EXPECT_EQ(one->take().size(), 1u);
  stop(*a);
  call("virDomainResume", {of(domain)});
  wait_told(5);
  EXPECT_TRUE(a->take().empty());
  EXPECT_EQ(b->take().size(), 1u);
  stop(*b);
  stop(*all);
}

TEST_F(LibvirtEvents, ManyThreadsComeAndGo) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      for (int n = 0; n < 50; ++n) {
        const auto one = start(EventFamily::domain, (n + i) % 3);
        if (n % 2)
          stop(*one);
        else
          one->stop();
      }
    });
  const auto domain = handle_in(call("virDomainLookupByName", {of(connection_), text("test")}));
  for (int n = 0; n < 50; ++n) {
    call("virDomainSuspend", {of(domain)});
    call("virDomainResume", {of(domain)});
  }
  for (std::thread& one : threads) one.join();
}

TEST_F(LibvirtEvents, SeveralHearOfOneConnectionsEnd) {
  const Event* event = find_event(EventFamily::close, 0);
  std::vector<std::shared_ptr<Subscription>> several;
  for (int i = 0; i < 3; ++i) {
    several.push_back(subscribe(event));
    several.back()->start();
  }
  stop(*several[0]);
  // The hub is what libvirt would call; its holder is libvirt's, so a listener of its own stands in.
  Slot slots[3] = {{.p = connection_->object()}, {.p = nullptr}, {.i = 2}};
  for (const auto& one : several) one->deliver(*event, slots);
  EXPECT_TRUE(several[0]->take().empty()) << "it has left";
  for (size_t i : {1u, 2u}) {
    const auto records = several[i]->take();
    ASSERT_EQ(records.size(), 1u);
    EXPECT_EQ(records[0].arguments, (Object{{"reason", number(2)}}));
    EXPECT_FALSE(records[0].object.handle);
  }
  stop(*several[1]);
  stop(*several[2]);
  const auto again = subscribe(event);
  again->start();
  stop(*again);
}

// What libvirt would call, with what it would give.
class Fired : public LibvirtEvents {
 protected:
  void SetUp() override {
    LibvirtEvents::SetUp();
    if (!IsSkipped()) domain_ = handle_in(call("virDomainLookupByName", {of(connection_), text("test")}));
  }
  void TearDown() override {
    domain_ = nullptr;
    LibvirtEvents::TearDown();
  }
  template <class... Arguments>
  Object fire(int id, Arguments... arguments) {
    const Event* event = find_event(EventFamily::domain, id);
    if (!event) return {};
    const auto subscription = subscribe(event);
    auto holder = std::make_unique<std::shared_ptr<EventTarget>>(subscription);
    reinterpret_cast<void (*)(void*, void*, Arguments..., void*)>(event->callback)(
        connection_->object(), domain_->object(), arguments..., holder.get());
    const auto records = subscription->take();
    if (records.size() != 1 || records[0].object.type != Class::domain) return {{"no record", Value(Null{})}};
    seen_.push_back(id);
    return records[0].arguments;
  }

  std::shared_ptr<Handle> domain_;
  std::vector<int> seen_;
};

TEST_F(Fired, All27KindsOfADomain) {
  using Text = const char*;
  abi::TypedParameter parameters[2] = {};
  std::strcpy(parameters[0].field, "data_total");
  parameters[0].type = abi::kUllong;
  parameters[0].value.ul = 1ull << 40;
  std::strcpy(parameters[1].field, "cpu");
  parameters[1].type = abi::kInt;
  parameters[1].value.i = -1;
  const Object typed{{"data_total", Value(uint64_t{1} << 40)}, {"cpu", number(-1)}};
  char node[] = "127.0.0.1", service[] = "5900", x509[] = "x509dname", name[] = "CN=x";
  abi::GraphicsAddress address{0, node, service};
  abi::GraphicsIdentity identity{x509, name};
  abi::GraphicsSubject subject{1, &identity};

  EXPECT_EQ(fire(0, 2, 1), (Object{{"event", number(2)}, {"detail", number(1)}}));
  EXPECT_EQ(fire(1), Object{});
  EXPECT_EQ(fire(2, -3600ll), (Object{{"utcoffset", Value(int64_t{-3600})}}));
  EXPECT_EQ(fire(3, 4), (Object{{"action", number(4)}}));
  EXPECT_EQ(fire(4, Text{"/disk"}, Text{"vda"}, 1),
            (Object{{"srcPath", text("/disk")}, {"devAlias", text("vda")}, {"action", number(1)}}));
  const Object graphics =
      fire(5, 1, &address, static_cast<abi::GraphicsAddress*>(nullptr), Text{"vnc"}, &subject);
  EXPECT_EQ(*property(graphics, "local"),
            Value(Object{{"family", number(0)}, {"node", text("127.0.0.1")}, {"service", text("5900")}}));
  EXPECT_EQ(*property(graphics, "remote"), Value(Undefined{}));
  EXPECT_EQ(*property(*property(graphics, "subject")->as<Object>(), "identities"),
            Value(Array{Value(Object{{"type", text("x509dname")}, {"name", text("CN=x")}})}));
  EXPECT_EQ(*property(fire(6, Text{"/disk"}, Text{"vda"}, 1, Text{"enospc"}), "reason"), text("enospc"));
  EXPECT_EQ(fire(7), Object{});
  EXPECT_EQ(fire(8, Text{"/disk"}, 2, 3),
            (Object{{"disk", text("/disk")}, {"type", number(2)}, {"status", number(3)}}));
  EXPECT_EQ(fire(9, Text{nullptr}, Text{"/new"}, Text{"ide0"}, 1), (Object{{"oldSrcPath", Value(Undefined{})},
                                                                           {"newSrcPath", text("/new")},
                                                                           {"devAlias", text("ide0")},
                                                                           {"reason", number(1)}}));
  EXPECT_EQ(fire(10, Text{"cd0"}, 1), (Object{{"devAlias", text("cd0")}, {"reason", number(1)}}));
  for (const int id : {11, 12, 14}) EXPECT_EQ(fire(id, 7), (Object{{"reason", number(7)}})) << id;
  EXPECT_EQ(fire(13, 1ull << 33), (Object{{"actual", Value(uint64_t{1} << 33)}}));
  EXPECT_EQ(fire(15, Text{"net0"}), (Object{{"devAlias", text("net0")}}));
  EXPECT_EQ(fire(16, Text{"vda"}, 2, 3),
            (Object{{"disk", text("vda")}, {"type", number(2)}, {"status", number(3)}}));
  EXPECT_EQ(fire(17, &parameters[0], 2), (Object{{"params", Value(typed)}}));
  EXPECT_EQ(fire(18, 1, 2), (Object{{"state", number(1)}, {"reason", number(2)}}));
  EXPECT_EQ(fire(19, Text{"net0"}), (Object{{"devAlias", text("net0")}}));
  EXPECT_EQ(fire(20, 5), (Object{{"iteration", number(5)}}));
  EXPECT_EQ(fire(21, &parameters[0], 2), (Object{{"params", Value(typed)}}));
  EXPECT_EQ(fire(22, Text{"net0"}), (Object{{"devAlias", text("net0")}}));
  EXPECT_EQ(fire(23, 2, Text{"http://x"}), (Object{{"type", number(2)}, {"nsuri", text("http://x")}}));
  EXPECT_EQ(fire(24, Text{"vda"}, Text{"/disk"}, 5ull, 6ull), (Object{{"dev", text("vda")},
                                                                      {"path", text("/disk")},
                                                                      {"threshold", Value(uint64_t{5})},
                                                                      {"excess", Value(uint64_t{6})}}));
  EXPECT_EQ(fire(25, 1, 2, 3u),
            (Object{{"recipient", number(1)}, {"action", number(2)}, {"flags", number(3)}}));
  EXPECT_EQ(fire(26, Text{"mem0"}, 1ull << 40),
            (Object{{"alias", text("mem0")}, {"size", Value(uint64_t{1} << 40)}}));
  for (int id = 0; id < 27; ++id) EXPECT_EQ(std::count(seen_.begin(), seen_.end(), id), 1) << "event " << id;
}

}  // namespace
}  // namespace hypertwin::libvirt
