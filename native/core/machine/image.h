// What a machine boots.
#pragma once

#include <cstdint>
#include <vector>

namespace hypertwin::machine {

struct Image {
  std::vector<uint8_t> kernel;
  std::vector<uint8_t> initrd;
};

}  // namespace hypertwin::machine
