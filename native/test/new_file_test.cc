// A file that is there whole or not at all, and its writers.
#include "base/new_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string_view>

#include "code_of.h"
#include "machine_util.h"

namespace hypertwin {
namespace {

using machine::read_file;
using machine::TempDir;
using Over = NewFile::Over;

class NewFiles : public testing::Test {
 protected:
  NewFile make() { return NewFile(AT_FDCWD, path_, ".partial"); }
  static void put(const NewFile& file, std::string_view text) {
    ASSERT_EQ(::write(file.fd(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  std::string text() const {
    const auto bytes = read_file(path_);
    return {bytes.begin(), bytes.end()};
  }
  bool is_there(const std::string& path) const { return std::filesystem::exists(path); }

  TempDir dir_;
  const std::string path_ = dir_.file("it"), partial_ = path_ + ".partial";
};

TEST_F(NewFiles, HaveOneWriterAtATime) {
  {
    NewFile first(AT_FDCWD, path_, ".partial");
    put(first, "first");
    EXPECT_EQ(code_of([&] { make(); }), "BUSY");
    EXPECT_FALSE(is_there(path_));
    first.give_name(Over::kAnother);
    EXPECT_EQ(text(), "first");
    // It may go on with it: the next one's is another file.
    NewFile second(AT_FDCWD, path_, ".partial");
    put(second, "second, longer");
    EXPECT_EQ(text(), "first");
    put(first, "!");
    EXPECT_EQ(code_of([&] { second.give_name(Over::kNone); }), "EEXIST");
    EXPECT_EQ(text(), "first!");
    second.give_name(Over::kAnother);
    EXPECT_EQ(text(), "second, longer");
  }
  EXPECT_EQ(text(), "second, longer");
  EXPECT_FALSE(is_there(partial_));
}

TEST_F(NewFiles, ThatDoNotEndAreGone) {
  { put(make(), "part"); }
  EXPECT_FALSE(is_there(path_));
  EXPECT_FALSE(is_there(partial_));
  // A killed writer's is used again; one that has its name already is left alone.
  std::ofstream(partial_) << "what a killed one has left there";
  {
    NewFile file(AT_FDCWD, path_, ".partial");
    put(file, "new");
    file.give_name(Over::kNone);
  }
  EXPECT_EQ(text(), "new");
  std::filesystem::create_hard_link(path_, partial_);
  {
    NewFile file(AT_FDCWD, path_, ".partial");
    put(file, "newer");
    EXPECT_EQ(text(), "new");
  }
  EXPECT_EQ(text(), "new");
  EXPECT_FALSE(is_there(partial_));
  std::filesystem::create_symlink(path_, partial_);
  EXPECT_EQ(code_of([&] { make(); }), "ELOOP");
  EXPECT_EQ(text(), "new");
}

}  // namespace
}  // namespace hypertwin
