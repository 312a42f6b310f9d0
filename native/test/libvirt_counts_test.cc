// How much room libvirt's answers need, asked of a libvirt that a test stands in for.
#include "libvirt/counts.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>

#include "base/error.h"

namespace hypertwin::libvirt {
namespace {

struct NodeInfo {
  char model[32];
  unsigned long memory;
  unsigned cpus, mhz, nodes, sockets, cores, threads;
};

int connection;
void* connect_of(void*) { return &connection; }
int map_of_11(void* of, unsigned char** map, unsigned* online, unsigned flags) {
  return of == &connection && !map && !online && flags == 0 ? 11 : -1;
}
int no_map(void*, unsigned char**, unsigned*, unsigned) { return -1; }
int info_of_48(void* of, NodeInfo* info) {
  if (of != &connection) return -1;
  *info = {.model = "x86_64",
           .memory = 1,
           .cpus = 7,
           .mhz = 1,
           .nodes = 2,
           .sockets = 3,
           .cores = 4,
           .threads = 2};
  return 0;
}
int no_info(void*, NodeInfo*) { return -1; }

class LibvirtCounts : public ::testing::Test {
 protected:
  template <class F>
  void has(const char* name, F* function) {
    functions_[name] = reinterpret_cast<void*>(function);
  }
  int64_t cpumap_bytes() {
    const Slot args[1] = {};
    return count_cpumap_bytes_of_domain(resolver_, args);
  }

 private:
  std::map<std::string, void*> functions_;
  const Resolver resolver_{[](void* loader, Library, const char* name, uint32_t) {
                             auto& functions = *static_cast<std::map<std::string, void*>*>(loader);
                             const auto found = functions.find(name);
                             if (found == functions.end()) throw Error("LIBVIRT_TOO_OLD", name);
                             return found->second;
                           },
                           &functions_};
};

TEST_F(LibvirtCounts, BytesOfACpuMap) {
  has("virDomainGetConnect", connect_of);
  has("virNodeGetCPUMap", map_of_11);
  has("virNodeGetInfo", no_info);
  EXPECT_EQ(cpumap_bytes(), 2);
}

TEST_F(LibvirtCounts, WithoutAMapOfTheHostTheTopologyTells) {
  has("virDomainGetConnect", connect_of);
  has("virNodeGetCPUMap", no_map);
  has("virNodeGetInfo", info_of_48);
  EXPECT_EQ(cpumap_bytes(), 6);
  has("virNodeGetInfo", no_info);
  EXPECT_EQ(cpumap_bytes(), -1) << "libvirt's error stands";
}

TEST_F(LibvirtCounts, AnOlderLibvirtIsNamed) {
  try {
    cpumap_bytes();
    FAIL() << "it needs functions that are not there";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LIBVIRT_TOO_OLD");
  }
  EXPECT_THROW(call_for_int({[](void*, Library, const char* name, uint32_t) -> void* {
                               throw Error("LIBVIRT_TOO_OLD", name);
                             },
                             nullptr},
                            0, nullptr),
               Error);
}

}  // namespace
}  // namespace hypertwin::libvirt
