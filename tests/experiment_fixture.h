// Folders of experiments, with figures made up by a formula and random numbers.
#pragma once

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/base/random.h"
#include "harmonic/experiment/report.h"
#include "harmonic/experiment/results.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {

struct FixtureRun {
  std::string variant = "harmonic";
  int64_t length = 4096;
  int seed = 1;
  double bits_per_byte = 2;
};

// result.json of a run that finished.
inline Json finished_result(const FixtureRun& run) {
  Json json;
  json["id"] = fmt::format("{}-{}-seed{}", run.variant, run.length, run.seed);
  json["kind"] = "run";
  json["status"] = "finished";
  json["axes"] = {{"variant", run.variant},
                  {"length", std::to_string(run.length)},
                  {"seed", std::to_string(run.seed)},
                  {"lr_factor", "1"}};
  json["certificate"] = "passed";
  json["results"] = Json::array({{{"length", run.length},
                                  {"state", "cold"},
                                  {"tokens", 100'000},
                                  {"bytes", 345'000},
                                  {"bits_per_token", 3.45 * run.bits_per_byte},
                                  {"bits_per_byte", run.bits_per_byte}}});
  return json;
}

// An experiment's folder, empty at first.
class ExperimentFixture {
 public:
  explicit ExperimentFixture(const std::filesystem::path& folder) : folder_(folder) {
    make_folder(folder_ / "runs");
    write_experiment();
  }

  // experiment.json with these entries in place of those it would have.
  void write_experiment(const Json& changes = Json::object()) const {
    Json json = {{"name", "crossover"},
                 {"scale", "cpu"},
                 {"title", "Where the models cross"},
                 {"question", "At which length does which model foretell held-out text best?"},
                 {"date", "2026-11-25"},
                 {"machine",
                  {{"processor", "Test processor"},
                   {"threads", 2},
                   {"simd", "AVX2"},
                   {"memory_bytes", 8'000'000'000},
                   {"matrix_peak_gflops", 210.5}}},
                 {"build", "0.1.0"},
                 {"pairs", Json::parse(R"([["harmonic", "transformer"], ["harmonic", "mamba"]])")},
                 {"reference", "bits_per_byte"}};
    json.update(changes);
    write_file(folder_ / "experiment.json", json.dump(1));
  }
  void add(const Json& result) const {
    const std::filesystem::path run = folder_ / "runs" / result["id"].get<std::string>();
    make_folder(run);
    write_file(run / "result.json", result.dump(1));
  }
  void add(const FixtureRun& run) const { add(finished_result(run)); }
  void write(const std::string& run, const std::string& file, std::string_view content) const {
    make_folder(folder_ / "runs" / run);
    write_file(folder_ / "runs" / run / file, content);
  }

  const std::filesystem::path& path() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

// What a comparison of three variants at four lengths with five seeds looks like when all goes as it does in
// practice: curves, profiles, tasks, tuning, a run that diverged and one that is not finished.
class RealisticExperiment {
 public:
  RealisticExperiment(const std::filesystem::path& folder, std::string name, std::vector<int64_t> lengths)
      : experiment_(folder) {
    experiment_.write_experiment({{"name", std::move(name)}});
    for (const int64_t length : lengths) {
      for (int variant = 0; variant < 3; ++variant) {
        for (int seed = 1; seed <= 5; ++seed) add_run(variant, length, seed);
        for (const double factor : {0.25, 0.5, 1.0, 2.0, 4.0}) add_tuning(variant, length, factor);
      }
    }
  }

 private:
  static constexpr const char* kNames[] = {"harmonic", "transformer", "mamba"};

  double noise(double size) { return size * (random_.uniform(draws_++) - 0.5); }

  double bits_of(int variant, int64_t length, int seed) {
    const double doublings = std::log2(static_cast<double>(length) / 1024);
    const double shared = 0.03 * std::sin(11.0 * seed + static_cast<double>(length));  // cancels when paired
    const double base[] = {1.93 - 0.022 * doublings, 1.915 - 0.001 * doublings, 1.945 - 0.019 * doublings};
    return base[variant] + shared + noise(0.014);
  }

  static std::string recipe(int variant, int64_t length, int seed) {
    return fmt::format(
        "[model]\nmixer = \"{}\"\nd_model = 256\nn_layers = {}\nffn_multiple = {}\n\n[data]\ntrain = "
        "[\"/texts/train.txt\"]\ntokenizer = \"bpe:4096\"\n\n[train]\nseq_len = {}\nbatch_size = {}\ntokens "
        "= "
        "20000000\noptimizer = \"adamw\"\nlr = {}\nseed = {}\n",
        variant == 0   ? "harmonic"
        : variant == 1 ? "attention"
                       : "mamba",
        variant == 1 ? 4 : 2, variant == 1 ? "2.667" : "0.0", length, std::max<int64_t>(1, 16384 / length),
        variant == 1 ? 0.001 : 0.003, seed);
  }

  void add_run(int variant, int64_t length, int seed) {
    const double bits = bits_of(variant, length, seed), long_text = static_cast<double>(length);
    Json json = finished_result({kNames[variant], length, seed, bits});
    const double speed[] = {96'000 + noise(6000), 118'000 / (1 + long_text / 5000) + noise(2000),
                            71'000 + noise(5000)};
    json["core_parameters"] = variant == 0 ? 2'234'368 : variant == 1 ? 3'146'000 : 2'310'144;
    json["embedding_parameters"] = 2'097'152;
    json["multiply_adds"] = variant == 1 ? 3'146'000.0 + 256 * long_text : 2'100'000.0 + 100'000 * variant;
    json["head_multiply_adds"] = 1'048'576;
    json["state_bytes"] = variant == 0 ? 12'296 : variant == 1 ? 2048 * length : 81'928;
    json["train_tokens"] = 20'000'000;
    json["steps"] = 1221;
    json["tokens_per_second"] = speed[variant];
    json["peak_memory_bytes"] =
        310'000'000 + static_cast<int64_t>(variant == 1 ? 9000 * long_text : 1e7 * variant);
    json["seconds"] = 2e7 / speed[variant];
    json["message"] = "";
    Json& own = json["results"][0];
    for (int64_t from = 1; from <= length; from *= 2)
      own["by_context"].push_back(
          {{"from", from},
           {"to", std::min(2 * from, length + 1)},
           {"tokens", from * 100},
           {"bits_per_token", 3.45 * bits + 4.2 / std::sqrt(static_cast<double>(from)) - 0.1}});
    for (int phase = 0; phase < 16; ++phase)
      own["by_phase"].push_back(3.45 * bits + (variant == 0 ? 0.004 * (phase % 4) : 0) + noise(0.01));
    for (const int64_t other : {256, 1024, 4096, 16384, 65536}) {
      const double away = std::abs(std::log2(static_cast<double>(other) / long_text));
      const double there = bits + (variant == 1 && other > length ? 0.2 : 0.012) * away;
      if (other != length) json["results"].push_back(evaluation(other, "cold", there));
    }
    json["results"].push_back(evaluation(length, "carry", bits - 0.006));
    for (const int64_t distance : {16, 64, 256, 1024, 4096}) {
      const double reach = variant == 0 ? 500 : variant == 1 ? 4000 : 300;
      const double accuracy = 1 / (1 + std::pow(static_cast<double>(distance) / reach, 1.5)) + noise(0.03);
      json["tasks"].push_back({{"task", "recall"},
                               {"group", std::to_string(distance)},
                               {"examples", 512},
                               {"accuracy", std::clamp(accuracy, 0.0, 1.0)},
                               {"bits", 4 * (1 - std::clamp(accuracy, 0.0, 1.0))}});
    }
    const std::string id = json["id"];
    const bool diverges = variant == 1 && seed == 4 && length == 16384;
    const bool unfinished = variant == 2 && seed == 5 && length == 65536;
    if (diverges) {
      json["status"] = "diverged";
      json["message"] = "step 412: the gradient is not finite";
      json.erase("results");
      json.erase("tasks");
    }
    if (!unfinished) experiment_.add(json);
    experiment_.write(id, "run.toml", recipe(variant, length, seed));
    experiment_.write(id, "metrics.jsonl",
                      metrics(bits, speed[variant],
                              diverges     ? 412
                              : unfinished ? 700
                                           : 1221));
    if (seed == 1)
      experiment_.write(id, "sample.txt",
                        "The valley lay quiet, and the river < of those years > went on & on.\n");
  }

  static Json evaluation(int64_t length, const char* state, double bits) {
    return {{"length", length},
            {"state", state},
            {"tokens", 100'000},
            {"bytes", 345'000},
            {"bits_per_token", 3.45 * bits},
            {"bits_per_byte", bits}};
  }

  std::string metrics(double bits, double speed, int steps) {
    std::string text;
    for (int step = 1; step <= steps; ++step) {
      const double tokens = 16384.0 * step, now = bits + 5.2 / std::pow(1 + step / 3.0, 0.72);
      text += fmt::format(
          "{{\"step\":{},\"tokens\":{},\"loss\":{:.6f},\"bits_per_byte\":{:.6f},\"lr\":0.003,\"grad_norm\":0."
          "8,"
          "\"tokens_per_second\":{:.1f},\"peak_memory_bytes\":310000000,\"seconds\":{:.3f}}}\n",
          step, static_cast<int64_t>(tokens), now * 2.39, now + noise(0.14), speed, tokens / speed);
      if (step % 100 == 0 || step == steps)
        text += fmt::format(
            "{{\"step\":{},\"tokens\":{},\"valid_bits_per_token\":{:.6f},\"valid_bits_per_byte\":{:.6f},"
            "\"seconds\":{:.3f}}}\n",
            step, static_cast<int64_t>(tokens), 3.45 * now, now, tokens / speed);
    }
    return text;
  }

  void add_tuning(int variant, int64_t length, double factor) {
    const double away = std::log2(factor) - (variant == 1 ? -0.8 : 0.2);
    Json json = finished_result({kNames[variant], length, 1, 2.02 + 0.012 * away * away + noise(0.004)});
    json["id"] = fmt::format("tune-{}-{}-lr{}", kNames[variant], length, factor);
    json["kind"] = "tune";
    json["axes"]["lr_factor"] = fmt::format("{}", factor);
    if (variant == 1 && factor == 4) json["status"] = "diverged";
    experiment_.add(json);
  }

  ExperimentFixture experiment_;
  Random random_{7, 1};
  uint64_t draws_ = 0;
};

inline bool has(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

inline ExperimentResults results_of(const ExperimentFixture& fixture) {
  return read_results({fixture.path()})[0];
}

inline std::string error_of(const std::filesystem::path& folder) {
  try {
    report_page(read_results({folder}));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace harmonic
