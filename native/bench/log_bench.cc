// What the event log costs: append, write, read, digests, each beside a baseline of the same run.
// Prints one JSON object. Argument: a directory for the files (default: the system's temporary one).
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
constexpr uint64_t kRecords = 3000000;
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
  const std::filesystem::path base = argc > 1 ? argv[1] : std::filesystem::temp_directory_path();
  const auto directory = base / ("hypertwin-log-bench-" + std::to_string(::getpid()));
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
  for (uint64_t i = 0; i < kRecords; i += kRound) {
    auto round = Clock::now();
    append_mix(*writer, packet, i, i + kRound);
    append += seconds(round);
    writer->flush();
  }
  writer->close();
  writer.reset();
  std::filesystem::remove_all(directory);

  // The baseline: the same packets copied one by one.
  std::vector<uint8_t> target(kRecords / 3 * kPacketBytes);
  auto start = Clock::now();
  for (uint64_t i = 0; i < kRecords / 3; i++)
    std::memcpy(target.data() + i * kPacketBytes, packet.data(), kPacketBytes);
  const double copy = seconds(start);

  // The whole way to the file.
  start = Clock::now();
  writer = Writer::create(directory, header);
  const uint64_t inputs = append_mix(*writer, packet, 0, kRecords);
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
  if (read != kRecords) throw Error("BENCH", "records are missing");

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

  const double megabytes = static_cast<double>(stats.bytes) / 1e6;
  std::printf(
      "{\"records\":%llu,\"bytes\":%llu,\"logBytesPerInputByte\":%.4f,"
      "\"appendNsPerRecord\":%.1f,\"appendVsMemcpy\":%.2f,"
      "\"writeMBPerSecond\":%.0f,\"writeVsRawWrite\":%.2f,\"blocks\":%llu,\"bufferHighWater\":%llu,"
      "\"readRecordsPerSecond\":%.0f,\"readVsRawRead\":%.2f,"
      "\"rollingDigestNsPer24Words\":%.1f,\"digest\":\"%s\"}\n",
      static_cast<unsigned long long>(stats.records), static_cast<unsigned long long>(stats.bytes),
      static_cast<double>(stats.bytes) / static_cast<double>(inputs), append / kRecords * 1e9, append / copy,
      megabytes / whole, whole / raw_write, static_cast<unsigned long long>(stats.blocks),
      static_cast<unsigned long long>(stats.buffer_high_water), static_cast<double>(read) / reading,
      reading / raw_read, digest / kUpdates * 1e9, rolling.value().hex().c_str());
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "log_bench: %s\n", error.what());
  return 1;
}
