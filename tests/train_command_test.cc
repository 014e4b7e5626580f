// `harmonic train` as a user runs it: killed, interrupted, resumed, and fed with nonsense.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "cli_program.h"
#include "harmonic/base/json.h"
#include "harmonic/base/utf8.h"
#include "harmonic/ops/bf16_instructions.h"
#include "harmonic/ops/simd_targets.h"
#include "train_fixture.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

class TrainCommand : public DataTest {
 protected:
  void SetUp() override {
    DataTest::SetUp();
    file("text.txt", small_text(30000, 1));
    file("valid.txt", small_text(3000, 2));
    file("run.toml",
         "[model]\nd_model = 16\n[train]\nseq_len = 64\nbatch_size = 2\nsteps = 40\n"
         "eval_every = 0\ncheckpoint_every = 7\n");
  }
  std::vector<std::string> arguments(const std::string& out, std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"train",           "--config",       path("run.toml"),
                                    "--data",          path("text.txt"), "--valid",
                                    path("valid.txt"), "--out",          path(out)};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::vector<std::string> environment() const { return {"HARMONIC_CACHE=" + path("cache")}; }
  Outcome train(const std::string& out, std::vector<std::string> more = {}) const {
    return run_harmonic(arguments(out, std::move(more)), environment());
  }
  std::string weights(const std::string& out) const {
    return sha256_of_file(path(out) + "/model.safetensors");
  }

  // Starts a training run and ends it by `signal`, `delay` after its first step. Returns its exit status, 128
  // + signal when it died of it.
  int train_and_signal(const std::string& out, std::vector<std::string> more, int signal,
                       std::chrono::microseconds delay) const {
    std::vector<std::string> words = arguments(out, std::move(more));
    words.insert(words.begin(), HARMONIC_PROGRAM);
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    const std::string cache = environment().front();
    std::error_code ignored;
    const fs::path metrics = path(out) + "/metrics.jsonl";
    const auto before = fs::exists(metrics, ignored) ? fs::file_size(metrics, ignored) : 0;
    const pid_t child = ::fork();
    if (child == 0) {
      ::dup2(::open("/dev/null", O_WRONLY), 2);
      ::putenv(const_cast<char*>(cache.c_str()));
      ::execv(pointers[0], pointers.data());
      ::_exit(127);
    }
    int status = 0;
    const auto begun = std::chrono::steady_clock::now();
    while (::waitpid(child, &status, WNOHANG) == 0) {
      const bool stepping = fs::exists(metrics, ignored) && fs::file_size(metrics, ignored) != before;
      if (stepping || std::chrono::steady_clock::now() - begun > std::chrono::seconds(20)) {
        std::this_thread::sleep_for(delay);
        ::kill(child, signal);
        ::waitpid(child, &status, 0);
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  void expect_error(const Outcome& outcome, int status, const std::string& text) const {
    EXPECT_EQ(outcome.status, status) << outcome.err;
    const size_t at = outcome.err.find("harmonic: error: ");
    ASSERT_NE(at, std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find('\n', at), outcome.err.size() - 1) << outcome.err;
    EXPECT_NE(outcome.err.find(text, at), std::string::npos) << outcome.err;
  }
};

TEST_F(TrainCommand, KilledAgainAndAgainEndsWithTheSameWeights) {
  ASSERT_EQ(train("whole").status, 0);
  const Random random(1, stream_of("kills"));
  uint64_t draw = 0;
  for (const char* every : {"3", "1"}) {
    const std::string out = std::string("killed") + every;
    const auto delay = [&] { return std::chrono::microseconds(random.below(++draw, 60000)); };
    std::vector<std::string> more = {"--train.checkpoint_every", every};
    int kills = train_and_signal(out, more, SIGKILL, delay()) == 128 + SIGKILL;
    more.push_back("--resume");
    for (int i = 0; i < 4; ++i) kills += train_and_signal(out, more, SIGKILL, delay()) == 128 + SIGKILL;
    EXPECT_GE(kills, 2);
    const Outcome last = train(out, more);
    ASSERT_EQ(last.status, 0) << last.err;
    EXPECT_EQ(weights(out), weights("whole"));
  }
}

TEST_F(TrainCommand, InterruptedAnywhereItWritesACheckpointAndGoesOnFromIt) {
  // So many that the run goes on when the signal comes late.
  const std::vector<std::string> steps = {"--train.steps", "1000"};
  ASSERT_EQ(train("whole", steps).status, 0);
  file("long.txt", small_text(3000000, 3));
  // Most of the time goes into: steps; saves; an evaluation after every step.
  const std::vector<std::vector<std::string>> forms = {
      {"--train.checkpoint_every", "0"},
      {"--train.checkpoint_every", "1"},
      {"--train.checkpoint_every", "0", "--train.eval_every", "1", "--valid", path("long.txt")},
  };
  for (size_t i = 0; i < forms.size(); ++i) {
    for (const int signal : {SIGTERM, SIGINT}) {
      if (i > 0 && signal == SIGINT) continue;
      const std::string out = fmt::format("stopped-{}-{}", i, signal);
      std::vector<std::string> more = forms[i];
      more.insert(more.end(), steps.begin(), steps.end());
      ASSERT_EQ(train_and_signal(out, more, signal, std::chrono::milliseconds(2)), 130) << out;
      more.push_back("--resume");
      ASSERT_TRUE(find_checkpoint(path(out))) << out;
      if (i == 2) {
        const std::string metrics = read_file(path(out) + "/metrics.jsonl");
        EXPECT_EQ(metrics.find("valid"), std::string::npos) << "the evaluation was to be interrupted";
        more[3] = "0";
      }
      more[1] = "0";
      const Outcome rest = train(out, more);
      ASSERT_EQ(rest.status, 0) << rest.err;
      EXPECT_EQ(weights(out), weights("whole")) << out;
    }
  }
}

TEST_F(TrainCommand, ResumesWithTheSettingsOfTheRun) {
  ASSERT_EQ(train("whole").status, 0);
  train_and_signal("killed", {}, SIGKILL, std::chrono::milliseconds(10));
  const Outcome rest = run_harmonic({"train", "--resume", "--out", path("killed")}, environment());
  ASSERT_EQ(rest.status, 0) << rest.err;
  EXPECT_EQ(weights("killed"), weights("whole"));
}

TEST_F(TrainCommand, AModelWithoutItsCheckpointsIsNotTrainedOverFromTheBeginning) {
  ASSERT_EQ(train("run").status, 0);
  const std::string before = weights("run");
  std::vector<fs::path> checkpoints;
  for (const auto& entry : fs::directory_iterator(path("run")))
    if (entry.path().filename().string().starts_with("checkpoint-")) checkpoints.push_back(entry.path());
  for (const fs::path& checkpoint : checkpoints) fs::remove_all(checkpoint);
  expect_error(train("run", {"--resume"}), 2, "no checkpoint to go on from");
  EXPECT_EQ(weights("run"), before);
}

TEST_F(TrainCommand, ARunsLastStepIsLoggedToAFileToo) {
  const Outcome outcome = train("run");
  ASSERT_EQ(outcome.status, 0);
  EXPECT_NE(outcome.err.find("step 40/40"), std::string::npos) << outcome.err;
}

TEST_F(TrainCommand, HeldOutTextsThatNothingReadsAreMentioned) {
  EXPECT_NE(train("run").err.find("held-out texts are not used"), std::string::npos);
}

TEST_F(TrainCommand, TheCacheKeepsWithinItsLimit) {
  const auto cached = [&] {
    return std::distance(fs::directory_iterator(path("cache/tokens")), fs::directory_iterator());
  };
  file("other.txt", small_text(30000, 5));
  const std::vector<std::string> once = {"--train.steps", "1", "--train.eval_every", "0"};
  ASSERT_EQ(train("first", once).status, 0);
  EXPECT_EQ(cached(), 2);
  std::vector<std::string> other = once;
  other.insert(other.end(), {"--data", path("other.txt")});
  ASSERT_EQ(train("second", other).status, 0);
  EXPECT_EQ(cached(), 3) << "20 GB have room for all";
  file("text.txt", small_text(30000, 6));
  other = once;
  other.insert(other.end(), {"--data.cache_gb", "1e-9"});
  ASSERT_EQ(train("third", other).status, 0);
  EXPECT_EQ(cached(), 2) << "the texts of the run alone, whatever they take";
}

// Works there while this lives.
class WorkingFolder {
 public:
  explicit WorkingFolder(const fs::path& path) : before_(fs::current_path()) { fs::current_path(path); }
  ~WorkingFolder() { fs::current_path(before_); }

 private:
  fs::path before_;
};

TEST_F(TrainCommand, ResumesFromAnyWorkingFolder) {
  const std::string text = "here [1]/text.txt";  // no pattern, though it looks like one
  file(text, small_text(3000, 1));
  file("here [1]/held out.txt", small_text(1000, 2));
  write_file(path("here [1]/tokenizer.json"), make_byte_tokenizer()->to_json());
  fs::create_directory(path("elsewhere"));
  {
    const WorkingFolder here(path("here [1]"));
    const Outcome first = run_harmonic({"train", "--config", "../run.toml", "--data", "te*.txt", "--valid",
                                        "held out.txt", "--data.cache", "cache", "--data.tokenizer",
                                        "tokenizer.json", "--train.steps", "3", "--out", "run"});
    ASSERT_EQ(first.status, 0) << first.err;
  }
  const WorkingFolder elsewhere(path("elsewhere"));
  const std::vector<std::string> resume = {"train", "--resume", "--out", "../here [1]/run", "--train.steps"};
  const auto with_steps = [&](const char* steps) {
    std::vector<std::string> words = resume;
    words.push_back(steps);
    return run_harmonic(words);
  };
  const Outcome second = with_steps("5");
  EXPECT_EQ(second.status, 0) << second.err;
  EXPECT_TRUE(fs::is_empty(path("elsewhere")));
  file(text, small_text(3000, 7));
  expect_error(with_steps("7"), 1, "other texts");
  // The run's settings may tell where the texts lie; the model, which goes to others, tells nothing.
  for (const char* folder : {"", "checkpoint-5"})
    for (const char* name : {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"})
      EXPECT_EQ(read_file(fs::path(path("here [1]/run")) / folder / name).find(folder_), std::string::npos)
          << name;
}

TEST_F(TrainCommand, LearnsATokenizerAndKeepsItInTheModel) {
  const Outcome outcome = train("bpe", {"--data.tokenizer", "bpe:280"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const LoadedModel loaded = load_model_folder(path("bpe"), cpu_backend());
  EXPECT_GT(loaded.tokenizer->vocab_size(), 257);
  EXPECT_LE(loaded.tokenizer->vocab_size(), 280);
  const Outcome more = train("bpe", {"--data.tokenizer", "bpe:280", "--resume", "--train.steps", "42"});
  EXPECT_EQ(more.status, 0) << more.err;
}

TEST_F(TrainCommand, AFullDiskIsOneClearErrorAndTheRunGoesOnAfterwards) {
  ASSERT_EQ(train("whole").status, 0);
  const auto optimizer = fs::file_size(path("whole") + "/checkpoint-40/optimizer.safetensors");
  struct rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  const struct rlimit limit = {optimizer - 1, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  const Outcome full = train("full");
  ::setrlimit(RLIMIT_FSIZE, &before);
  expect_error(full, 1, "optimizer.safetensors: cannot write: File too large");
  const Outcome rest = train("full", {"--resume"});
  ASSERT_EQ(rest.status, 0) << rest.err;
  EXPECT_EQ(weights("full"), weights("whole"));
}

// Of a run that goes on with a long metrics.jsonl, no other file being as long.
TEST_F(TrainCommand, AFullDiskForTheMetricsStopsItWithWhatItHasLearnedSaved) {
  const std::vector<std::string> steps = {"--train.steps", "1000"};
  ASSERT_EQ(train("whole", steps).status, 0);
  ASSERT_EQ(train_and_signal("full", steps, SIGTERM, std::chrono::milliseconds(2)), 130);
  std::vector<std::string> resume = steps;
  resume.push_back("--resume");
  const std::string stopped = find_checkpoint(path("full"))->folder;
  const std::string metrics = path("full") + "/metrics.jsonl";
  std::ofstream(metrics, std::ios::app)
      << R"({"step":1,"remark":")" << std::string(10'000'000, '.') << "\"}\n";
  struct rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  const struct rlimit limit = {fs::file_size(metrics), before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  const Outcome full = train("full", resume);
  ::setrlimit(RLIMIT_FSIZE, &before);
  expect_error(full, 1, "metrics.jsonl: cannot write: File too large; training stops; the one of step ");
  EXPECT_NE(find_checkpoint(path("full"))->folder, stopped) << "what was learned since is saved";
  const Outcome rest = train("full", resume);
  ASSERT_EQ(rest.status, 0) << rest.err;
  EXPECT_EQ(weights("full"), weights("whole"));
}

TEST_F(TrainCommand, MessagesAreJsonWhateverBytesANameHolds) {
  const std::string out = "odd \xff\xc3( \"name\" \n\x1b";
  const Outcome outcome = train(out, {"--log-json", "--train.steps", "1"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(is_utf8(outcome.err));
  int with_the_name = 0, warnings = 0;
  for (std::string_view rest = outcome.err; !rest.empty(); rest.remove_prefix(rest.find('\n') + 1)) {
    const Json line = parse_json(rest.substr(0, rest.find('\n')), "standard error");
    with_the_name +=
        line.at("message").get<std::string>().find("odd \uFFFD\uFFFD( \"name\" \n\x1b") != std::string::npos;
    warnings += line.at("level") == "warning";
  }
  EXPECT_EQ(with_the_name, 1) << outcome.err;
  EXPECT_EQ(warnings, 1) << "held-out texts that nothing reads: " << outcome.err;
}

TEST_F(TrainCommand, SaysWhatProductsAreInAndResumesInThatAlone) {
  EXPECT_NE(train("exact").err.find("products in f32 ("), std::string::npos);
  const Outcome rounded = train("rounded", {"--train.precision", "bf16", "--device", "cpu"});
  if (!multiplies_in_bf16()) return expect_error(rounded, 2, processor_name());
  EXPECT_NE(rounded.err.find(fmt::format("products in bf16 ({}", name_of(bf16_instructions()))),
            std::string::npos)
      << rounded.err;
  EXPECT_NE(weights("rounded"), weights("exact"));
  EXPECT_NE(read_file(path("rounded") + "/run.toml").find("precision = \"bf16\""), std::string::npos);
  expect_error(train("rounded", {"--resume", "--train.precision", "f32"}), 2, "the run to resume had bf16");
}

TEST_F(TrainCommand, NonsenseIsOneClearErrorAndLeavesNoRun) {
  file("empty.txt", "");
  file("short.txt", "too short");
  file("binary.bin", std::string(4096, '\1') + std::string(4096, '\xff'));
  fs::create_directory(path("folder"));
  const std::string data = path("text.txt"), config = path("run.toml");
  const struct {
    std::string data, config;
    std::vector<std::string> more;
    int status;
    std::string text;
  } cases[] = {
      {path("nowhere.txt"), config, {}, 1, "nowhere.txt"},
      {path("empty.txt"), config, {}, 1, "empty.txt"},
      {path("short.txt"), config, {}, 1, "fewer than one window"},
      {path("binary.bin"), config, {}, 1, "binary.bin"},
      {path("folder"), config, {}, 1, "folder"},
      {data, path("folder"), {}, 1, "is a directory"},
      {data, path("nowhere.toml"), {}, 1, "nowhere.toml"},
      {data, path("text.txt"), {}, 2, "text.txt:1"},
      {data, config, {"--set", "train.lrr=1"}, 2, "did you mean"},
      {data, config, {"--train.lr", "-1"}, 2, "train.lr"},
      {data, config, {"--train.lr", "nan"}, 2, "train.lr"},
      {data, config, {"--train.accumulation", "3"}, 2, "does not divide"},
      {data, config, {"--train.precision", "bf61"}, 2, "train.precision"},
      {path("nowhere.txt"),
       config,
       {"--model.mixer", "attention", "--model.attention.context", "8"},
       2,
       "raise model.attention.context"},
      {data, config, {"--train.tokens", "1M"}, 2, "train.steps = 40 counts instead"},
      {data, config, {"--data.within_document", "--train.loader", "documents"}, 2, "belongs to"},
      {data, config, {"--data.tokenizer", path("nowhere")}, 1, "nowhere"},
      {path("nowhere.txt"), config, {"--data.tokenizer", "bpe:many"}, 2, "bpe:SIZE"},
      {path("nowhere.txt"), config, {"--data.tokenizer", "bpe:10"}, 2, "257 to 16777216 tokens"},
      {"-", config, {"--data.tokenizer", "bpe:300"}, 2, "standard input"},
      {data, config, {"--resume"}, 2, "holds no run"},
  };
  for (const auto& c : cases) {
    std::vector<std::string> all = {"train",  "--data", c.data,          "--config",
                                    c.config, "--out",  path("nonsense")};
    all.insert(all.end(), c.more.begin(), c.more.end());
    file("nonsense/something", "");
    expect_error(run_harmonic(all, environment()), c.status, c.text);
    EXPECT_FALSE(fs::exists(path("nonsense") + "/run.toml"));
  }
  expect_error(run_harmonic({"train", "--out", path("nonsense")}, environment()), 2, "no training data");
}

TEST_F(TrainCommand, ARunIsNeverOverwritten) {
  ASSERT_EQ(train("run").status, 0);
  const std::string before = weights("run");
  expect_error(train("run"), 2, "holds a run already");
  expect_error(train("run", {"--resume", "--model.d_model", "32"}), 2, "model.d_model = 32");
  file("text.txt", small_text(30000, 7));
  expect_error(train("run", {"--resume"}), 1, "other texts");
  EXPECT_EQ(weights("run"), before);
}

}  // namespace
}  // namespace harmonic
