// Bytes that nobody can guess.
#pragma once

#include <cstdint>
#include <span>

namespace hypertwin {

// From getrandom(2). `what` they are for is in the error.
void fill_random(std::span<uint8_t> bytes, const char* what);

}  // namespace hypertwin
