#include "machine/virtual_machine.h"

#include "base/bytes.h"
#include "base/error.h"

namespace hypertwin::machine {

namespace {

void put_digest(ByteWriter& out, const Digest128& digest) {
  out.u64(digest.lo);
  out.u64(digest.hi);
}

}  // namespace

std::string_view state_name(State state) {
  switch (state) {
    case State::kCreated:
      return "created";
    case State::kRunning:
      return "running";
    case State::kPaused:
      return "paused";
    case State::kStopped:
      return "stopped";
    case State::kFailed:
      return "failed";
  }
  return "unknown";
}

std::string_view reason_name(Reason reason) {
  switch (reason) {
    case Reason::kNone:
      return "none";
    case Reason::kRequested:
      return "requested";
    case Reason::kPowerOff:
      return "power-off";
    case Reason::kReset:
      return "reset";
    case Reason::kHalted:
      return "halted";
    case Reason::kTripleFault:
      return "triple-fault";
    case Reason::kError:
      return "error";
    case Reason::kBoundary:
      return "boundary";
    case Reason::kLogEnd:
      return "log-end";
    case Reason::kDiverged:
      return "diverged";
    case Reason::kCaptureFailed:
      return "capture-failed";
    case Reason::kMigrated:
      return "migrated";
    case Reason::kInDoubt:
      return "in-doubt";
    case Reason::kHandedOver:
      return "handed-over";
    case Reason::kFenced:
      return "fenced";
    case Reason::kUnprotected:
      return "unprotected";
    case Reason::kBreakpoint:
      return "breakpoint";
  }
  return "unknown";
}

Digest128 StateDigest::combined() const {
  ByteWriter bytes;
  put_digest(bytes, vcpu);
  put_digest(bytes, devices);
  put_digest(bytes, memory);
  return digest128(bytes.data());
}

void VirtualMachine::check_vcpu(size_t index) const {
  if (index >= vcpus())
    throw Error("ERANGE", "vCPU " + std::to_string(index) + ": the machine has " + std::to_string(vcpus()));
}

void bad_state(State state, const char* verb) {
  const char* possible = "";
  switch (state) {
    case State::kCreated:
      possible = "start() it first";
      break;
    case State::kRunning:
      possible = "pause() it first";
      break;
    case State::kPaused:
      possible = "resume() it";
      break;
    case State::kStopped:
    case State::kFailed:
      possible = "create a new machine, or restore a snapshot";
      break;
  }
  throw Error("BAD_STATE", std::string("cannot ") + verb + " a machine that is " +
                               std::string(state_name(state)) + ": " + possible);
}

}  // namespace hypertwin::machine
