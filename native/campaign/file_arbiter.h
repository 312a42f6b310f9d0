// The arbiter of a campaign: a file for each session in a folder, made by link(2), which one side wins. A
// file "down" in the folder makes it unreachable.
#pragma once

#include <string>

#include "migrate/arbiter.h"

namespace hypertwin::campaign {

// `always_yes`: the planted error of an arbiter that says yes twice.
migrate::Arbiter file_arbiter(std::string folder, bool always_yes = false);

// Who has won the session; empty when nobody has.
std::string claimed_by(const std::string& folder, const std::string& session);

}  // namespace hypertwin::campaign
