// Between JavaScript values and what migration, and protection after it, are told and tell: TLS, other
// backends, progress.
#pragma once

#include <napi.h>

#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/disk.h"
#include "machine_convert.h"
#include "migrate/migrate.h"
#include "wire/stream.h"

namespace hypertwin::addon {

// The property `tls` of options that lib/ has checked.
inline std::optional<wire::TlsOptions> read_tls(const Napi::Object& options) {
  Napi::Value given = options.Get("tls");
  if (given.IsUndefined()) return std::nullopt;
  auto tls = object_of(given, "tls");
  wire::TlsOptions out;
  out.ca = text_of(tls.Get("ca"), "tls.ca");
  out.certificate = text_of(tls.Get("certificate"), "tls.certificate");
  out.key = text_of(tls.Get("key"), "tls.key");
  out.server_name = text_of(tls.Get("serverName"), "tls.serverName");
  return out;
}

// The properties `disks` (a path or undefined), `diskFolders` and `taps` (a name, '' for a queue in this
// process, or undefined). The other side names no file here but in those folders.
inline std::function<void(machine::MachineConfig&)> read_backends(const Napi::Object& options) {
  auto list = [&](const char* name) {
    std::vector<std::optional<std::string>> out;
    auto given = array_of(options, name);
    for (uint32_t i = 0; i < given.Length(); ++i) {
      Napi::Value one = given.Get(i);
      out.push_back(one.IsUndefined() ? std::nullopt : std::optional(text_of(one, name)));
    }
    return out;
  };
  std::vector<std::string> folders;
  auto given = array_of(options, "diskFolders");
  for (uint32_t i = 0; i < given.Length(); ++i) folders.push_back(text_of(given.Get(i), "diskFolders"));
  return [disks = list("disks"), taps = list("taps"),
          folders = std::move(folders)](machine::MachineConfig& config) {
    if (disks.size() > config.disks.size() || taps.size() > config.nets.size())
      throw Error("BAD_CONFIG", "the machine has " + std::to_string(config.disks.size()) + " disks and " +
                                    std::to_string(config.nets.size()) +
                                    " network devices: this side was given " + std::to_string(disks.size()) +
                                    " and " + std::to_string(taps.size()));
    for (size_t i = 0; i < config.disks.size(); ++i) {
      std::string& path = config.disks[i].path;
      if (i < disks.size() && disks[i])
        path = *disks[i];
      else if (!backends::lies_in(path, folders))
        throw Error("BAD_CONFIG",
                    "disk " + std::to_string(i) + " is " + backends::without_secrets(path) +
                        " on the other side, which may not choose a file of this side: name the image here "
                        "(disks, --disk), or a folder in which it may choose (diskFolders, --disk-folder)");
    }
    for (size_t i = 0; i < taps.size(); ++i) {
      if (!taps[i]) continue;
      config.nets[i].backend = taps[i]->empty() ? machine::NetBackend::kQueue : machine::NetBackend::kTap;
      config.nets[i].tap = *taps[i];
    }
  };
}

inline const char* phase_name(migrate::Progress::Phase phase) {
  switch (phase) {
    case migrate::Progress::Phase::kConnect:
      return "connect";
    case migrate::Progress::Phase::kMemory:
      return "memory";
    case migrate::Progress::Phase::kStop:
      return "stop";
    case migrate::Progress::Phase::kCommit:
      return "commit";
    case migrate::Progress::Phase::kDone:
      return "done";
  }
  return "connect";
}

// {phase, numbers}, as lib/migrate/progress.ts reads them.
inline Napi::Value to_value(Napi::Env env, const migrate::Progress& progress) {
  const double values[] = {static_cast<double>(progress.round),
                           static_cast<double>(progress.pages_sent),
                           static_cast<double>(progress.pages_zero),
                           static_cast<double>(progress.pages_raw),
                           static_cast<double>(progress.pages_compressed),
                           static_cast<double>(progress.pages_delta),
                           static_cast<double>(progress.disk_blocks_sent),
                           static_cast<double>(progress.bytes_sent),
                           static_cast<double>(progress.remaining_pages),
                           static_cast<double>(progress.remaining_bytes),
                           progress.dirty_pages_per_second,
                           progress.bytes_per_second,
                           progress.expected_blackout_ms,
                           static_cast<double>(progress.elapsed_ns)};
  auto numbers = Napi::Float64Array::New(env, std::size(values));
  std::memcpy(numbers.Data(), values, sizeof(values));
  Napi::Object out = Napi::Object::New(env);
  out.Set("phase", phase_name(progress.phase));
  out.Set("numbers", numbers);
  return out;
}

}  // namespace hypertwin::addon
