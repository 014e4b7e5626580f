// A run's numbers as TensorBoard reads them: a file of TFRecords, each an Event of
// tensorflow/core/util/event.proto.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "harmonic/base/files.h"

namespace harmonic {

// Not thread-safe.
class EventFile {
 public:
  // Makes a new file in `folder`, as each process of a run does; TensorBoard reads them all. What earlier
  // ones say of steps after `last_step` is void. Throws Error.
  EventFile(const std::filesystem::path& folder, int64_t last_step);
  // Throws Error, e.g. on a full disk.
  void scalar(std::string_view tag, int64_t step, double value);

 private:
  void append(std::string_view event);

  AppendFile file_;
};

}  // namespace harmonic
