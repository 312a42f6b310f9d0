// Error: what a failed system call tells.
#include "base/error.h"

#include <gtest/gtest.h>

using hypertwin::Error;

TEST(Error, SystemCallCarriesCodeErrnoCallAndSentence) {
  Error error = Error::system(ENOENT, "open", "opening /dev/kvm");
  EXPECT_EQ(error.code(), "ENOENT");
  EXPECT_EQ(error.err(), ENOENT);
  EXPECT_EQ(error.call(), "open");
  EXPECT_STREQ(error.what(), "open failed while opening /dev/kvm: No such file or directory (ENOENT)");
}

TEST(Error, NamesOfErrnos) {
  EXPECT_EQ(hypertwin::errno_name(EINVAL), "EINVAL");
  EXPECT_EQ(hypertwin::errno_name(EAGAIN), "EAGAIN");
  EXPECT_EQ(hypertwin::errno_name(ENOTSUP), "EOPNOTSUPP");
  EXPECT_EQ(hypertwin::errno_name(99999), "E99999");
}
