// Results, on standard output. A result that could not be written is an error: "done" must mean that it was.
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace harmonic {

// Thrown when the reader of a pipe has gone (harmonic ... | head). Not an Error: the program ends quietly.
struct OutputClosed {};

// Both throw OutputClosed, or Error on any other failure such as a full disk. One thread at a time.
void write_output(std::string_view bytes);
void flush_output();

template <typename... Args>
void print(fmt::format_string<Args...> format, Args&&... args) {
  write_output(fmt::format(format, std::forward<Args>(args)...));
}

// Call first thing in main(): a closed standard output must stay an error and not become the next file
// opened, and a broken pipe and the limit on the size of files must be errors that can
// be handled.
void prepare_output();

}  // namespace harmonic
