// The parts of the load, each a function that checks what comes back and then shows its figures. All throw
// Error, and show nothing more, when something is wrong.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace harmonic {

struct LoadOptions {
  int64_t port = 0;     // of the server, on 127.0.0.1
  int64_t pid = 0;      // its process
  std::string model;    // its folder
  int64_t threads = 2;  // of the model, where it works in this process
  double seconds = 10;  // about how long each measurement takes
  bool judged = true;   // whether the figures are held against what is asked
};

// Many open connections and many streams at once, while /health is asked.
void run_connections(const LoadOptions& options, int64_t connections, int64_t streams);
// Requests beside clients that send a byte a second.
void run_drip(const LoadOptions& options, int64_t clients);
// Streams over HTTP against the same texts without.
void run_throughput(const LoadOptions& options, int64_t streams, int64_t tokens);
// The first token of a short prompt beside somebody's long one.
void run_first_token(const LoadOptions& options, int64_t prompt_tokens);
// Answers to numbered requests: written to `file` where it is not there yet, else compared with it.
struct SameOptions {
  std::string file, what;
  int64_t requests = 1000, others = 0;  // others: streams at work meanwhile
  int64_t first_port = 0;               // another server, that reads the first half and gives a state token
};
void run_same(const LoadOptions& options, const SameOptions& same);
// Sessions in memory and in SQLite, in this process. `folder`: for the file, which goes away.
void run_sessions(const LoadOptions& options, int64_t sessions, int64_t in_file, const std::string& folder);
// Files of all kinds packed and unpacked, in this process.
void run_odd_files(const LoadOptions& options, int64_t files);
// Everything at once for a while: memory and descriptors of the server over time.
void run_soak(const LoadOptions& options);

// Writes a folder with a model of the paper's plain form with random weights; of bytes, or with a vocabulary
// of so many tokens, pairs and triples of letters for the most part.
void make_random_model(const std::string& folder, int64_t d_model, int64_t vocabulary);

}  // namespace harmonic
