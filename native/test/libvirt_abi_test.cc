// The generated structures against libvirt's own headers, where those are installed.
#include <gtest/gtest.h>

#include <string_view>

#include "libvirt/descriptor.h"

#if __has_include(<libvirt/libvirt.h>)
#include <libvirt/libvirt.h>
#endif

namespace hypertwin::libvirt {
namespace {

const Struct* find_struct(std::string_view name) {
  for (const Struct& one : structs())
    if (one.name == name) return &one;
  return nullptr;
}

#if __has_include(<libvirt/libvirt.h>)

// The last field's place tells of all before it.
template <class T>
void expect_same(std::string_view name, std::string_view field, size_t offset) {
  const Struct* found = find_struct(name);
  ASSERT_NE(found, nullptr) << name;
  EXPECT_EQ(found->size, sizeof(T)) << name;
  for (const Field& one : found->fields)
    if (one.name == field) {
      EXPECT_EQ(one.offset, offset) << name << '.' << field;
      return;
    }
  FAIL() << name << " has no field " << field;
}

#define EXPECT_SAME(type, name, member, field) expect_same<type>(name, field, offsetof(type, member))

TEST(LibvirtAbi, StructuresAreLibvirts) {
  EXPECT_SAME(virDomainBlockInfo, "DomainBlockInfo", physical, "physical");
  EXPECT_SAME(virDomainBlockJobInfo, "DomainBlockJobInfo", end, "end");
  EXPECT_SAME(virDomainBlockStatsStruct, "DomainBlockStats", errs, "errs");
  EXPECT_SAME(virDomainControlInfo, "DomainControlInfo", stateTime, "stateTime");
  EXPECT_SAME(virDomainDiskError, "DomainDiskError", error, "error");
  EXPECT_SAME(virDomainFSInfo, "DomainFSInfo", devAlias, "devAlias");
  EXPECT_SAME(virDomainIOThreadInfo, "DomainIOThreadInfo", cpumap, "cpumap");
  EXPECT_SAME(virDomainIPAddress, "DomainIPAddress", prefix, "prefix");
  EXPECT_SAME(virDomainInfo, "DomainInfo", cpuTime, "cpuTime");
  EXPECT_SAME(virDomainInterface, "DomainInterface", addrs, "addrs");
  EXPECT_SAME(virDomainInterfaceStatsStruct, "DomainInterfaceStats", tx_drop, "txDrop");
  EXPECT_SAME(virDomainJobInfo, "DomainJobInfo", fileRemaining, "fileRemaining");
  EXPECT_SAME(virDomainMemoryStatStruct, "DomainMemoryStat", val, "val");
  EXPECT_SAME(virDomainStatsRecord, "DomainStatsRecord", params, "params");
  EXPECT_SAME(virNetworkDHCPLease, "NetworkDHCPLease", clientid, "clientid");
  EXPECT_SAME(virNodeCPUStats, "NodeCPUStats", value, "value");
  EXPECT_SAME(virNodeInfo, "NodeInfo", threads, "threads");
  EXPECT_SAME(virNodeMemoryStats, "NodeMemoryStats", value, "value");
  EXPECT_SAME(virSecurityLabel, "SecurityLabel", enforcing, "enforcing");
  EXPECT_SAME(virSecurityModel, "SecurityModel", doi, "doi");
  EXPECT_SAME(virStoragePoolInfo, "StoragePoolInfo", available, "available");
  EXPECT_SAME(virStorageVolInfo, "StorageVolInfo", allocation, "allocation");
  EXPECT_SAME(virVcpuInfo, "VcpuInfo", cpu, "cpu");
  EXPECT_SAME(virDomainEventGraphicsAddress, "DomainEventGraphicsAddress", service, "service");
  EXPECT_SAME(virDomainEventGraphicsSubject, "DomainEventGraphicsSubject", identities, "identities");
  EXPECT_SAME(virDomainEventGraphicsSubjectIdentity, "DomainEventGraphicsSubjectIdentity", name, "name");
  EXPECT_EQ(structs().size(), 26u) << "a structure is not compared here";
}

#endif

// What the interpreter relies on without looking.
TEST(LibvirtTable, IsWellFormed) {
  EXPECT_GE(functions().size(), 440u);
  EXPECT_EQ(classes().size(), static_cast<size_t>(Class::count));
  for (const Function& function : functions()) {
    const auto count = static_cast<int>(function.params.size());
    EXPECT_NE(function.thunk, nullptr) << function.name;
    EXPECT_GT(function.since, 0u) << function.name;
    for (const Param& param : function.params) {
      for (const int8_t place : {param.length, param.times, param.filled})
        EXPECT_TRUE(place == kNone || place == kReturn || (place >= 0 && place < count))
            << function.name << ' ' << param.name;
      switch (param.kind) {
        case Kind::in_strings:
        case Kind::in_values:
        case Kind::in_bytes:
        case Kind::in_typed:
          EXPECT_EQ(function.params[static_cast<size_t>(param.length)].kind, Kind::length)
              << function.name << ' ' << param.name;
          break;
        case Kind::capacity:
          EXPECT_TRUE(param.count != nullptr || param.fixed > 0) << function.name << ' ' << param.name;
          break;
        case Kind::in_struct:
        case Kind::out_struct:
        case Kind::out_structs:
        case Kind::out_list_structs:
          EXPECT_LT(param.type, structs().size()) << function.name << ' ' << param.name;
          break;
        case Kind::in_handle:
        case Kind::out_list_handles:
          EXPECT_GT(param.type, 0) << function.name << ' ' << param.name;
          EXPECT_LT(param.type, classes().size()) << function.name << ' ' << param.name;
          break;
        default:
          break;
      }
    }
  }
  for (const Struct& one : structs())
    for (const Field& field : one.fields) EXPECT_LE(field.offset + field.size, one.size) << one.name;
}

}  // namespace
}  // namespace hypertwin::libvirt
