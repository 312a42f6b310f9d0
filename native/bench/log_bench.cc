// What the event log costs: append, write, read, digests, each beside a baseline of the same run.
// Prints one JSON object a line. With --quick fewer records.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "bench.h"
#include "log/reader.h"
#include "log/writer.h"

namespace {

using namespace hypertwin;
using namespace hypertwin::log;
using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

// The mix of a mail server's log: mostly interrupts and time, some packets.
constexpr size_t kPacketBytes = 120;

uint64_t append_mix(Writer& writer, std::span<const uint8_t> packet, uint64_t from, uint64_t to) {
  uint64_t bytes = 0;
  for (uint64_t i = from; i < to; i++) {
    switch (i % 3) {
      case 0:
        writer.append(i * 5, Time{i * 1000});
        break;
      case 1:
        writer.append(i * 5, PacketRx{0, packet});
        bytes += packet.size();
        break;
      default:
        writer.append(i * 5, Interrupt{33});
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) try {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  const uint64_t records = quick ? 600'000 : 3'000'000;
  const auto directory =
      std::filesystem::temp_directory_path() / ("hypertwin-log-bench-" + std::to_string(::getpid()));
  const std::vector<uint8_t> packet(kPacketBytes, 0x42);
  LogHeader header;
  header.log_id = random_log_id();

  // Append alone: the writer's thread has nothing to do while the clock runs.
  WriterOptions lazy;
  lazy.commit_latency = std::chrono::hours(1);
  lazy.commit_bytes = SIZE_MAX;
  auto writer = Writer::create(directory, header, lazy);
  double append = 0;
  constexpr uint64_t kRound = 20000;
  for (uint64_t i = 0; i < records; i += kRound) {
    auto round = Clock::now();
    append_mix(*writer, packet, i, i + kRound);
    append += seconds(round);
    writer->flush();
  }
  writer->close();
  writer.reset();
  std::filesystem::remove_all(directory);

  // The baseline: the same packets copied one by one.
  std::vector<uint8_t> target(records / 3 * kPacketBytes);
  auto start = Clock::now();
  for (uint64_t i = 0; i < records / 3; i++)
    std::memcpy(target.data() + i * kPacketBytes, packet.data(), kPacketBytes);
  const double copy = seconds(start);

  // The whole way to the file.
  start = Clock::now();
  writer = Writer::create(directory, header);
  const uint64_t inputs = append_mix(*writer, packet, 0, records);
  writer->close();
  const double whole = seconds(start);
  const auto stats = writer->stats();
  writer.reset();

  const auto raw = directory / "raw";
  start = Clock::now();
  {
    Fd file(::open(raw.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    std::vector<uint8_t> block(64u << 10, 0x42);
    for (uint64_t left = stats.bytes; left != 0;) {
      const size_t size = static_cast<size_t>(std::min<uint64_t>(left, block.size()));
      if (::write(file.get(), block.data(), size) != static_cast<ssize_t>(size))
        throw_errno("write", "measuring");
      left -= size;
    }
  }
  const double raw_write = seconds(start);

  start = Clock::now();
  auto reader = Reader::open(directory);
  uint64_t read = 0;
  while (reader->next()) read++;
  const double reading = seconds(start);
  if (read != records) throw Error("BENCH", "records are missing");

  start = Clock::now();
  {
    Fd file(::open(raw.c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<uint8_t> block(256u << 10);
    while (::read(file.get(), block.data(), block.size()) > 0) {
    }
  }
  const double raw_read = seconds(start);
  reader.reset();
  std::filesystem::remove_all(directory);

  RollingDigest rolling;
  std::array<uint64_t, 24> words{};
  constexpr int kUpdates = 5000000;
  start = Clock::now();
  for (int i = 0; i < kUpdates; i++) {
    words[0]++;
    rolling.update(words);
  }
  const double digest = seconds(start);

  const double count = static_cast<double>(records), bytes = static_cast<double>(stats.bytes);
  bench::print("log/append-vs-memcpy", append / count * 1e9, "ns", copy / count * 1e9, append / copy);
  bench::print("log/write-vs-raw-write", bytes / 1e6 / whole, "MB/s", bytes / 1e6 / raw_write,
               raw_write / whole);
  bench::print("log/read-vs-raw-read", bytes / 1e6 / reading, "MB/s", bytes / 1e6 / raw_read,
               raw_read / reading);
  bench::print("log/read", static_cast<double>(read) / reading / 1e6, "million records/s");
  bench::print("log/bytes-vs-inputs", bytes, "bytes", static_cast<double>(inputs),
               bytes / static_cast<double>(inputs));
  bench::print("log/rolling-digest-of-24-words", digest / kUpdates * 1e9, "ns");
  // The digest's value is a result, too: without it the compiler would drop the work.
  std::fprintf(stderr, "log: digest %s\n", rolling.value().hex().c_str());
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "log_bench: %s\n", error.what());
  return 1;
}
