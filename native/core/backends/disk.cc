#include "backends/disk.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "backends/file_disk.h"
#include "backends/nbd_disk.h"

namespace hypertwin::backends {

void Disk::set_size(uint64_t bytes) {
  size_ = bytes;
  written_ = std::make_unique<std::atomic<uint64_t>[]>((blocks() + 63) / 64);
}

void Disk::mark_written(uint64_t offset, uint64_t size) {
  if (size == 0) return;
  for (uint64_t block = offset / kBlockBytes; block <= (offset + size - 1) / kBlockBytes; ++block)
    written_[block / 64].fetch_or(uint64_t{1} << (block % 64), std::memory_order_release);
}

void Disk::take_written(std::span<uint64_t> bitmap) {
  const size_t words = std::min<size_t>(bitmap.size(), (blocks() + 63) / 64);
  for (size_t i = 0; i < words; ++i)
    if (written_[i].load(std::memory_order_relaxed))
      bitmap[i] |= written_[i].exchange(0, std::memory_order_acquire);
}

bool lies_in(const std::string& path, std::span<const std::string> folders) {
  namespace fs = std::filesystem;
  if (is_nbd_uri(path)) return false;
  std::error_code failed;
  // What is not there yet has no links: `..` behind it is worked out by the name alone.
  const fs::path image = fs::weakly_canonical(fs::absolute(path, failed), failed);
  if (failed || image.empty()) return false;
  for (const std::string& folder : folders) {
    const fs::path within = fs::canonical(folder, failed);
    if (failed) continue;
    const auto [rest, end] = std::mismatch(image.begin(), image.end(), within.begin(), within.end());
    if (end == within.end() && rest != image.end()) return true;
  }
  return false;
}

bool is_nbd_uri(std::string_view path) {
  for (std::string_view scheme : {"nbd", "nbds"})
    for (std::string_view transport : {"://", "+unix://", "+vsock://"})
      if (path.starts_with(std::string(scheme).append(transport))) return true;
  return false;
}

std::string without_secrets(std::string_view uri) {
  std::string shown(uri);
  if (const size_t host = shown.find("://"); host != std::string::npos) {
    const size_t begin = host + 3;
    const size_t end = std::min(shown.find_first_of("/?#", begin), shown.size());
    const size_t colon = shown.find(':', begin);
    size_t at = shown.substr(0, end).rfind('@');
    // What is no port is the beginning of a password that should have had its / or ? encoded.
    if ((at == std::string::npos || at < begin) && colon < end && shown[begin] != '[' &&
        shown.find_first_not_of("0123456789", colon + 1) < end)
      at = shown.rfind('@');
    if (at != std::string::npos && at > begin && colon < at) shown.erase(colon, at - colon);
  }
  const size_t question = std::min(shown.find('?'), shown.size());
  const std::string parameters = shown.substr(question);
  shown.resize(question);
  std::string_view query = parameters;
  while (!query.empty()) {
    query.remove_prefix(1);
    const size_t end = std::min(query.find_first_of("&;"), query.size());
    if (query.starts_with("socket=")) return shown.append("?").append(query.substr(0, end));
    query.remove_prefix(end);
  }
  return shown;
}

std::unique_ptr<Disk> open_disk(const std::string& path, Disk::Options options,
                                Disk::OnComplete on_complete) {
  if (is_nbd_uri(path)) return std::make_unique<NbdDisk>(path, std::move(options), std::move(on_complete));
  return std::make_unique<FileDisk>(path, std::move(options), std::move(on_complete));
}

}  // namespace hypertwin::backends
