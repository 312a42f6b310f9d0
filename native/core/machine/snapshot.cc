#include "machine/snapshot.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/bytes.h"
#include "base/error.h"
#include "machine/memory_scan.h"

namespace hypertwin::machine {

namespace {

constexpr uint8_t kMagic[8] = {'H', 'T', 'S', 'N', 'A', 'P', 0, 0};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kPage = devices::kPageSize;
constexpr size_t kHeaderBytes = 64;
constexpr uint64_t kMaxMeta = 256u << 20;
constexpr uint64_t kMaxMemory = uint64_t{1} << 46;

void write_all(int fd, std::span<const uint8_t> bytes, uint64_t offset, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("pwrite", "writing the snapshot " + path);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

// False at the file's end.
bool read_all(int fd, std::span<uint8_t> into, uint64_t offset, const std::string& path) {
  while (!into.empty()) {
    ssize_t n = ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("pread", "reading the snapshot " + path);
    if (n == 0) return false;
    into = into.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return true;
}

// Removes a file that was not finished.
class Unlinker {
 public:
  explicit Unlinker(std::string path) : path_(std::move(path)) {}
  ~Unlinker() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  void keep() { path_.clear(); }

 private:
  std::string path_;
};

}  // namespace

void write_snapshot_file(const std::string& path, std::span<const uint8_t> state,
                         const kvm::GuestMemory& memory) {
  const std::string partial = path + ".partial";
  Fd fd(::open(partial.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
  if (!fd) throw_errno("open", "creating the snapshot " + partial);
  Unlinker unlinker(partial);

  // Page-aligned, so that a reader may map it.
  uint64_t offset = kPage;
  uint64_t checksum = 0;
  ByteWriter runs;
  uint64_t count = 0;
  for_each_run(memory, [&](uint64_t first, uint64_t pages) {
    std::span<const uint8_t> bytes(memory.data() + first * kPage, pages * kPage);
    write_all(fd.get(), bytes, offset, partial);
    checksum = checksum64(bytes, checksum);
    offset += bytes.size();
    runs.varint(first);
    runs.varint(pages);
    ++count;
  });

  ByteWriter meta;
  meta.blob(state);
  meta.u64(memory.size());
  meta.u64(checksum);
  meta.varint(count);
  meta.raw(runs.data());
  write_all(fd.get(), meta.data(), offset, partial);

  ByteWriter header;
  header.raw(kMagic);
  header.u32(kVersion);
  header.u32(static_cast<uint32_t>(kPage));
  header.u64(offset);
  header.u64(meta.size());
  header.u64(checksum64(meta.data()));
  header.u64(0);
  header.u64(0);
  header.u64(checksum64(header.data()));
  write_all(fd.get(), header.data(), 0, partial);
  if (::fsync(fd.get()) != 0) throw_errno("fsync", "writing the snapshot " + partial);
  if (::rename(partial.c_str(), path.c_str()) != 0) throw_errno("rename", "naming the snapshot " + path);
  unlinker.keep();
  // The name must outlast a power failure as the bytes do.
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  Fd directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::fsync(directory.get()) != 0)
    throw_errno("fsync", "keeping the name of the snapshot " + path);
}

void SnapshotFile::corrupt(const std::string& what) const {
  throw Error("CORRUPT", "the snapshot " + path_ + " is damaged: " + what);
}

SnapshotFile::SnapshotFile(const std::string& path) : path_(path) {
  fd_ = Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd_) throw_errno("open", "opening the snapshot " + path);
  struct stat info {};
  if (::fstat(fd_.get(), &info) != 0) throw_errno("fstat", "looking at the snapshot " + path);
  const uint64_t file_size = static_cast<uint64_t>(info.st_size);

  uint8_t header[kHeaderBytes];
  if (!read_all(fd_.get(), header, 0, path)) corrupt("it is shorter than its header");
  ByteReader in(header, "the snapshot's header");
  if (std::memcmp(in.raw(8).data(), kMagic, 8) != 0) corrupt("it is no snapshot of hypertwin");
  uint32_t version = in.u32();
  if (version != kVersion)
    throw Error("SNAPSHOT_VERSION", "the snapshot " + path + " has format version " +
                                        std::to_string(version) + "; this hypertwin reads version " +
                                        std::to_string(kVersion));
  uint32_t page = in.u32();
  uint64_t meta_offset = in.u64();
  uint64_t meta_size = in.u64();
  uint64_t meta_checksum = in.u64();
  if (get_le<uint64_t>(header + kHeaderBytes - 8) != checksum64({header, kHeaderBytes - 8}))
    corrupt("its header's checksum is wrong");
  if (page != kPage) corrupt("its page size is not 4096");
  if (meta_size > kMaxMeta || meta_offset < kPage || meta_offset > file_size ||
      meta_size > file_size - meta_offset)
    corrupt("it is cut short");

  std::vector<uint8_t> meta(meta_size);
  if (!read_all(fd_.get(), meta, meta_offset, path)) corrupt("it is cut short");
  if (checksum64(meta) != meta_checksum) corrupt("its state's checksum is wrong");
  ByteReader body(meta, "the snapshot's state");
  auto state = body.blob();
  state_.assign(state.begin(), state.end());
  memory_size_ = body.u64();
  memory_checksum_ = body.u64();
  if (memory_size_ % kPage || memory_size_ > kMaxMemory) corrupt("its memory has an impossible size");
  uint64_t count = body.varint();
  if (count > body.remaining() / 2) corrupt("it lists more pages than it can hold");
  uint64_t next = 0;
  uint64_t total = 0;
  for (uint64_t i = 0; i < count; ++i) {
    Run run{body.varint(), body.varint()};
    if (run.first_page < next || run.pages == 0 || run.first_page >= memory_size_ / kPage ||
        run.pages > memory_size_ / kPage - run.first_page)
      corrupt("a run of pages lies outside its memory");
    next = run.first_page + run.pages;
    total += run.pages;
    runs_.push_back(run);
  }
  body.expect_done();
  if (total * kPage != meta_offset - kPage) corrupt("its pages are not all there");
}

void SnapshotFile::load_memory(kvm::GuestMemory& memory) const {
  if (memory.size() != memory_size_) corrupt("its memory has another size than the machine's");
  uint64_t offset = kPage;
  uint64_t checksum = 0;
  for (const Run& run : runs_) {
    std::span<uint8_t> bytes(memory.data() + run.first_page * kPage, run.pages * kPage);
    if (!read_all(fd_.get(), bytes, offset, path_)) corrupt("it is cut short");
    checksum = checksum64(bytes, checksum);
    offset += bytes.size();
  }
  if (checksum != memory_checksum_) corrupt("its memory's checksum is wrong");
}

}  // namespace hypertwin::machine
