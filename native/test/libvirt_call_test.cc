// Calls through the generated table, on libvirt's test driver: the library and its absence, arguments that
// are refused, results, errors, and that everything is given back.
#include "libvirt/call.h"

#include <cstdlib>
#include <cstring>
#include <thread>

#include "libvirt/error.h"
#include "libvirt/typed.h"
#include "libvirt/uuid.h"
#include "libvirt_util.h"

namespace hypertwin::libvirt {
namespace {

using namespace test;

const char* const kDomain =
    "<domain type='test'><name>calls</name><memory>65536</memory><os><type>hvm</type></os></domain>";

using LibvirtCall = Libvirt;

TEST(LibvirtLoader, SaysWhatToInstall) {
  Loader loader({"libhypertwin-nowhere.so.0", "b.so", "c.so", "d.so"});
  for (int i = 0; i < 2; ++i) {
    const auto [code, message] = failure([&] { loader.load(); });
    EXPECT_EQ(code, "LIBVIRT_MISSING");
    EXPECT_NE(message.find("libhypertwin-nowhere.so.0"), std::string::npos) << message;
    EXPECT_NE(message.find("apt-get install libvirt0"), std::string::npos) << message;
  }
  EXPECT_EQ(failure([&] { loader.symbol(Library::main, "virConnectOpen", 1000); }).first, "LIBVIRT_MISSING");
  EXPECT_EQ(failure([&] { loader.version(); }).first, "LIBVIRT_MISSING");
}

TEST_F(LibvirtCall, TooOldNamesBothVersions) {
  const auto [code, message] = failure([] { loader().symbol(Library::main, "virDomainTeleport", 99001002); });
  EXPECT_EQ(code, "LIBVIRT_TOO_OLD");
  EXPECT_NE(message.find("virDomainTeleport came with libvirt 99.1.2"), std::string::npos) << message;
  EXPECT_NE(message.find("this is libvirt " + version_text(loader().version())), std::string::npos)
      << message;
  EXPECT_EQ(loader().find(Library::main, "virDomainTeleport"), nullptr);
  EXPECT_NE(loader().find(Library::main, "virDomainCreate"), nullptr);
}

TEST_F(LibvirtCall, OpensAndAsks) {
  const auto connection = open_test();
  EXPECT_EQ(call("virConnectGetURI", {of(connection)}), text("test:///default"));
  EXPECT_EQ(call("virConnectGetType", {of(connection)}), text("TEST")) << "a string that stays libvirt's";
  const auto domain = handle_in(call("virDomainLookupByName", {of(connection), text("test")}));
  ASSERT_TRUE(domain);
  const Value uuid = call("virDomainGetUUIDString", {of(domain)});
  EXPECT_EQ(call("virDomainGetUUID", {of(domain)}), uuid);
  const auto again = handle_in(call("virDomainLookupByUUID", {of(connection), uuid}));
  ASSERT_TRUE(again);
  EXPECT_EQ(call("virDomainGetName", {of(again)}), text("test"));
}

TEST_F(LibvirtCall, StructuresAndLists) {
  const auto connection = open_test();
  const Value info = call("virNodeGetInfo", {of(connection)});
  const auto* fields = info.as<Object>();
  ASSERT_TRUE(fields);
  EXPECT_EQ(*property(*fields, "model"), text("i686"));
  EXPECT_EQ(*property(*fields, "cpus"), number(16));
  EXPECT_TRUE(property(*fields, "memory")->as<uint64_t>()) << "an unsigned long is a bigint";
  const Value domains = call("virConnectListAllDomains", {of(connection), number(0)});
  ASSERT_TRUE(domains.as<Array>());
  EXPECT_EQ(domains.as<Array>()->size(), 1u);
  EXPECT_EQ(call("virConnectListDomains", {of(connection)}), Value(Array{number(1)}));
}

TEST_F(LibvirtCall, TypedParametersBothWays) {
  const auto connection = open_test();
  const auto domain = handle_in(call("virDomainLookupByName", {of(connection), text("test")}));
  EXPECT_EQ(call("virDomainGetSchedulerParameters", {of(domain)}), Value(Object{{"weight", number(50)}}));
  const Object tune{{"total_bytes_sec", Value(uint64_t{1048576})}};
  const auto [code, message] = failure([&] {
    call("virDomainSetBlockIoTune", {of(domain), text("nodisk"), Value(tune), number(0)});
  });
  EXPECT_EQ(code, "LIBVIRT_ERROR");
  EXPECT_NE(message.find("nodisk"), std::string::npos) << message;
}

TEST_F(LibvirtCall, ErrorsAreCopiedOnTheirThread) {
  const auto connection = open_test();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      const std::string name = "nobody-" + std::to_string(i);
      for (int n = 0; n < 200; ++n) try {
          call("virDomainDefineXML", {of(connection), Value("<" + name + "/>")});
          ADD_FAILURE() << "defined";
        } catch (const LibvirtError& error) {
          EXPECT_EQ(error.function(), "virDomainDefineXML");
          EXPECT_EQ(error.code(), "LIBVIRT_ERROR");
          EXPECT_EQ(error.details().code, 27) << "VIR_ERR_XML_ERROR";
          EXPECT_EQ(error.details().level, 2);
          EXPECT_NE(error.details().message.find(name), std::string::npos) << error.what();
        }
    });
  for (std::thread& one : threads) one.join();
  EXPECT_EQ(call("virConnectGetURI", {of(connection)}), text("test:///default"))
      << "an old error is not taken for new";
}

TEST_F(LibvirtCall, RefusesWrongArguments) {
  const auto connection = open_test();
  const auto domain = handle_in(call("virDomainLookupByName", {of(connection), text("test")}));
  const Value closed(HandleValue{Class::domain, nullptr});
  const struct {
    const char* function;
    std::vector<Value> arguments;
    const char* code;
    const char* says;
  } cases[] = {
      {"virDomainGetName", {}, "EINVAL", "argument domain must be a Domain; it is undefined"},
      {"virDomainGetName", {of(connection)}, "EINVAL", "must be a Domain; it is a Connect"},
      {"virDomainGetName", {Value(Foreign{"a function"})}, "EINVAL", "it is a function"},
      {"virDomainGetName", {Value(Object())}, "EINVAL", "it is an object"},
      {"virDomainGetName", {closed}, "CLOSED", "is a Domain that is closed"},
      {"virDomainGetName", {of(domain), number(1)}, "EINVAL", "takes 1 arguments, and there are 2"},
      {"virDomainLookupByName",
       {of(connection), number(5)},
       "EINVAL",
       "must be a string; it is the number 5"},
      {"virDomainLookupByName", {of(connection), Value(std::string("a\0b", 3))}, "EINVAL", "NUL"},
      {"virDomainLookupByID",
       {of(connection), number(2147483648.0)},
       "EINVAL",
       "from -2147483648 to 2147483647"},
      {"virDomainLookupByID", {of(connection), number(1.5)}, "EINVAL", "it is the number 1.5"},
      {"virDomainLookupByID", {of(connection), number(__builtin_nan(""))}, "EINVAL", "an integer"},
      {"virDomainLookupByID", {of(connection), Value(uint64_t{1} << 63)}, "EINVAL", "9223372036854775808"},
      {"virDomainLookupByUUID", {of(connection), text("6695eb01")}, "EINVAL", "a UUID such as"},
      {"virDomainCreateWithFlags", {of(domain), number(-1)}, "EINVAL", "from 0 to 4294967295"},
      {"virDomainSetMemory", {of(domain), Value(int64_t{-1})}, "EINVAL", "integer or bigint from 0"},
      {"virDomainPinVcpu", {of(domain), number(0), Value(Array{number(1)})}, "EINVAL", "a Uint8Array"},
      {"virDomainSetSchedulerParameters", {of(domain), text("weight")}, "EINVAL", "an object of parameters"},
      {"virDomainSetSchedulerParameters",
       {of(domain), Value(Object{{std::string(80, 'x'), number(1)}})},
       "EINVAL",
       "1 to 79 bytes"},
      {"virDomainSetSchedulerParameters",
       {of(domain), Value(Object{{"w", Value(Null{})}, {"v", Value(Bytes())}})},
       "EINVAL",
       "a byte array"},
      {"virDomainSetSchedulerParameters",
       {of(domain), Value(Object{{"w", Value(Object{{"type", text("float")}, {"value", number(1)}})}})},
       "EINVAL",
       "{type, value}"},
  };
  for (const auto& one : cases) {
    const auto [code, message] = failure([&] { call(one.function, one.arguments); });
    EXPECT_EQ(code, one.code) << message;
    EXPECT_NE(message.find(one.says), std::string::npos) << message << "\nwants: " << one.says;
    EXPECT_EQ(message.find(one.function), 0u) << message;
  }
}

// Every function of the table with every argument wrong, in turn: refused by us or by libvirt, never a crash.
TEST_F(LibvirtCall, NoFunctionTakesNonsense) {
  const auto connection = open_test();
  size_t refused = 0;
  for (const Function& function : functions()) {
    std::vector<Value> arguments;
    for (const Param& param : function.params)
      if (param.kind <= Kind::in_struct) arguments.emplace_back(Foreign{"a symbol"});
    if (arguments.empty()) continue;
    const auto [code, message] = failure([&] { const Call prepared(function, arguments); });
    EXPECT_EQ(code, "EINVAL") << function.name << ": " << message;
    EXPECT_EQ(message.find(std::string(function.name) + ": argument "), 0u) << message;
    ++refused;
  }
  EXPECT_GT(refused, 400u);
}

// A call whose object is given up by all others while it runs.
TEST_F(LibvirtCall, KeepsItsObjects) {
  auto connection = open_test();
  auto domain = handle_in(call("virDomainLookupByName", {of(connection), text("test")}));
  auto prepared = std::make_unique<Call>(*find_function("virDomainGetName"), std::vector<Value>{of(domain)});
  std::promise<void> freed;
  domain->when_freed([&] { freed.set_value(); });
  domain.reset();
  connection.reset();
  pool().drain();
  EXPECT_EQ(prepared->run(), text("test"));
  prepared.reset();
  freed.get_future().wait();
}

TEST(LibvirtTyped, TypesByNameByValueAndByWord) {
  const TypedField known[] = {{"limit", 4}};
  const Object object{{"limit", number(7)},
                      {"flag", Value(true)},
                      {"name", text("x")},
                      {"small", number(-3)},
                      {"large", number(3e9)},
                      {"huge", number(1e12)},
                      {"below", number(-1e12)},
                      {"part", number(0.5)},
                      {"big", Value(uint64_t{1} << 63)},
                      {"deep", Value(int64_t{-5})},
                      {"word", Value(Object{{"type", text("uint")}, {"value", number(1)}})},
                      {"gone", Value(Undefined{})},
                      {"disk", Value(Array{text("vda"), text("vdb")})}};
  const TypedParameters written = write_typed(object, known, "it");
  const std::pair<const char*, int> wanted[] = {
      {"limit", 4}, {"flag", 6}, {"name", 7}, {"small", 1}, {"large", 2}, {"huge", 4}, {"below", 3},
      {"part", 5},  {"big", 4},  {"deep", 3}, {"word", 2},  {"disk", 7},  {"disk", 7}};
  ASSERT_EQ(written.list.size(), std::size(wanted));
  for (size_t i = 0; i < std::size(wanted); ++i) {
    EXPECT_STREQ(written.list[i].field, wanted[i].first);
    EXPECT_EQ(written.list[i].type, wanted[i].second) << wanted[i].first;
  }
  const Object read = read_typed_list(written.list.data(), written.list.size());
  EXPECT_EQ(*property(read, "limit"), Value(uint64_t{7}));
  EXPECT_EQ(*property(read, "below"), Value(int64_t{-1000000000000}));
  EXPECT_EQ(*property(read, "flag"), Value(true));
  EXPECT_EQ(*property(read, "part"), number(0.5));
  EXPECT_EQ(*property(read, "disk"), Value(Array{text("vda"), text("vdb")}));
  EXPECT_EQ(failure([&] {
              write_typed({{"limit", number(-1)}}, known, "f: argument p");
            }).second.substr(0, 19),
            "f: argument p.limit");
}

TEST(LibvirtUuid, ReadsWhatItWrites) {
  const std::string text = "6695eb01-f6a4-8304-79aa-97f2502e193f";
  ASSERT_TRUE(parse_uuid(text));
  EXPECT_EQ(format_uuid(parse_uuid(text)->data()), text);
  EXPECT_EQ(format_uuid(parse_uuid("6695EB01F6A4830479AA97F2502E193F")->data()), text);
  for (const char* bad :
       {"", "6695eb01", "6695eb01-f6a4-8304-79aa-97f2502e193", "6695eb01-f6a4-8304-79aa-97f2502e193g",
        "6695eb01f-6a4-8304-79aa-97f2502e193f", "6695eb01-f6a4-8304-79aa-97f2502e193f0"})
    EXPECT_FALSE(parse_uuid(bad)) << bad;
}

// HYPERTWIN_LIBVIRT_CYCLES sets how many; under valgrind and ASan what leaks is reported at the end.
TEST_F(LibvirtCall, CyclesGiveEverythingBack) {
  const char* wanted = std::getenv("HYPERTWIN_LIBVIRT_CYCLES");
  const int cycles = wanted ? std::atoi(wanted) : 100;
  for (int i = 0; i < cycles; ++i) {
    const auto connection = open_test();
    const auto domain = handle_in(call("virDomainDefineXML", {of(connection), text(kDomain)}));
    ASSERT_TRUE(domain);
    call("virDomainCreate", {of(domain)});
    EXPECT_EQ(call("virConnectListAllDomains", {of(connection), number(0)}).as<Array>()->size(), 2u);
    call("virConnectGetAllDomainStats", {of(connection), number(0), number(0)});
    call("virDomainGetXMLDesc", {of(domain), number(0)});
    call("virDomainGetVcpus", {of(domain)});
    call("virConnectListAllStoragePools", {of(connection), number(0)});
    failure([&] { call("virDomainLookupByName", {of(connection), text("nobody")}); });
    failure([&] { call("virDomainCreate", {of(domain)}); });
    call("virDomainDestroy", {of(domain)});
    call("virDomainUndefine", {of(domain)});
    if (i % 50 == 49) pool().drain();
  }
}

}  // namespace
}  // namespace hypertwin::libvirt
