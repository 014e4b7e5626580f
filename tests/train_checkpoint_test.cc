// Checkpoints survive damage, full disks and kills; a resumed run has the bits of one that never stopped.
#include "harmonic/train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <sstream>

#include "harmonic/base/json.h"
#include "harmonic/train/run_folder.h"
#include "train_fixture.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

// Writes beyond `bytes` of a file fail while this lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const struct rlimit limit = {bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  struct rlimit before_;
};

class Checkpoints : public DataTest {
 protected:
  fs::path out() const { return folder_ / "run"; }
  static RunConfig with_checkpoints(int64_t every, int64_t steps = 12) {
    RunConfig config = small_run();
    config.train.checkpoint_every = every;
    config.train.steps = steps;
    return config;
  }
  std::vector<std::string> folders() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(out()))
      if (entry.is_directory()) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  void train_until_killed_after(int64_t step, RunConfig config) {
    SmallRun(config, out()).be_killed_after(step);
  }
};

TEST_F(Checkpoints, AResumedRunHasTheBitsOfOneThatNeverStopped) {
  for (const char* form : {"windows", "documents", "carried", "muon", "accumulated", "chunked"}) {
    RunConfig config = with_checkpoints(0);
    if (form == std::string("documents")) config.train.loader = "documents";
    if (form == std::string("carried")) config.train.loader = "streams";
    config.train.carry_state = form == std::string("carried");
    if (form == std::string("muon")) config.train.optimizer = "muon";
    if (form == std::string("accumulated")) config.train.accumulation = 2;
    if (form == std::string("chunked")) config.train.chunk_len = 17;
    SmallRun whole(config, folder_ / "whole");
    whole.trainer.run();
    train_until_killed_after(5, config);
    SmallRun rest(config, out());
    rest.resume().trainer.run();
    EXPECT_EQ(rest.weights(), whole.weights()) << form;
    EXPECT_EQ(sha256_of_file(out() / "model.safetensors"),
              sha256_of_file(folder_ / "whole" / "model.safetensors"));
    fs::remove_all(out());
    fs::remove_all(folder_ / "whole");
  }
}

TEST_F(Checkpoints, DoNotDependOnThreadsEvaluationsOrCheckpoints) {
  RunConfig config = with_checkpoints(0);
  SmallRun plain(config, folder_ / "plain", 1);
  plain.trainer.run();
  config.train.checkpoint_every = 1;
  config.train.eval_every = 3;
  SmallRun busy(config, out(), 2);
  busy.trainer.run();
  EXPECT_EQ(busy.weights(), plain.weights());
}

TEST_F(Checkpoints, TheNewestTwoAreKept) {
  SmallRun(with_checkpoints(3), out()).trainer.run();
  EXPECT_EQ(folders(), (std::vector<std::string>{"checkpoint-12", "checkpoint-9"}));
  EXPECT_EQ(sha256_of_file(out() / "model.safetensors"),
            sha256_of_file(out() / "checkpoint-12" / "model.safetensors"));
}

TEST_F(Checkpoints, AreRemovedWhenARunIsDoneWithThem) {
  file("run/checkpoint-4/model.safetensors", "x");
  file("run/checkpoint-2.damaged/model.safetensors", "x");
  file("run/.checkpoint-6.tmp/model.safetensors", "x");
  file("run/model.safetensors", "the model");
  remove_checkpoints(path("run"));
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(path("run"))) left.push_back(entry.path().filename());
  EXPECT_EQ(left, (std::vector<std::string>{"model.safetensors"}));
}

TEST_F(Checkpoints, EditingTheRunsWeightsInPlaceLeavesThemWhole) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  std::fstream(out() / "model.safetensors", std::ios::in | std::ios::out) << "edited";
  const auto found = find_checkpoint(out());
  ASSERT_TRUE(found);
  EXPECT_EQ(found->record.step, 12);
}

TEST_F(Checkpoints, TheRunsWeightsAreThoseOfTheNewestEvenAfterAKillBetweenTheTwo) {
  const RunConfig config = with_checkpoints(6);
  SmallRun(config, out()).trainer.run();
  fs::remove(out() / "model.safetensors");
  fs::copy_file(out() / "checkpoint-6" / "model.safetensors", out() / "model.safetensors");
  SmallRun(config, out()).resume().trainer.run();
  EXPECT_EQ(sha256_of_file(out() / "model.safetensors"),
            sha256_of_file(out() / "checkpoint-12" / "model.safetensors"));
}

TEST_F(Checkpoints, AreModelFolders) {
  SmallRun run(with_checkpoints(0), out());
  run.trainer.run();
  for (const fs::path& folder : {out(), out() / "checkpoint-12"})
    EXPECT_EQ(load_model_folder(folder, cpu_backend()).model->parameters().hash(), run.weights());
}

TEST_F(Checkpoints, ADamagedOneGivesWayToTheOneBefore) {
  const RunConfig config = with_checkpoints(6);
  SmallRun whole(config, out());
  whole.trainer.run();
  fs::copy(out(), folder_ / "good", fs::copy_options::recursive);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder_ / "good" / "checkpoint-12"))
    files.push_back(entry.path().filename());
  ASSERT_EQ(files.size(), 7u);
  for (const fs::path& file : files) {
    for (const char* damage : {"flipped", "cut", "emptied", "missing"}) {
      fs::remove_all(out());
      fs::copy(folder_ / "good", out(), fs::copy_options::recursive);
      const fs::path path = out() / "checkpoint-12" / file;
      std::string content = read_file(path);
      fs::remove(path);
      if (damage == std::string("flipped")) content[content.size() / 2] ^= 1;
      if (damage == std::string("cut")) content.resize(content.size() - 2);
      if (damage == std::string("emptied")) content.clear();
      if (damage != std::string("missing")) write_file(path, content);
      const auto found = find_checkpoint(out());
      ASSERT_TRUE(found) << file << ' ' << damage;
      EXPECT_EQ(found->record.step, 6) << file << ' ' << damage;
      EXPECT_EQ(folders(), (std::vector<std::string>{"checkpoint-12.damaged", "checkpoint-6"}));
    }
  }
  SmallRun again(config, out());
  again.resume().trainer.run();
  EXPECT_EQ(again.weights(), whole.weights());
}

TEST_F(Checkpoints, AllDamagedIsAnErrorThatTouchesNothing) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  for (const char* name : {"checkpoint-6", "checkpoint-12"}) write_file(out() / name / "run.toml", "");
  const std::string message = error_of([&] { find_checkpoint(out()); });
  EXPECT_NE(message.find("no checkpoint is whole"), std::string::npos) << message;
  EXPECT_EQ(folders(), (std::vector<std::string>{"checkpoint-12", "checkpoint-6"}));
}

// The newest of two checkpoints is kept from being read in ways that prove no damage.
TEST_F(Checkpoints, OneThatCannotBeReadStopsTheRunAndTouchesNothing) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  fs::create_directory(out() / ".checkpoint-13.tmp");
  const std::vector<std::string> before = folders();
  const fs::path newest = out() / "checkpoint-12";
  const struct {
    const char *file, *target, *message;
  } cases[] = {{"optimizer.safetensors", "/proc/self/mem", "cannot read: Input/output error"},
               {"trainer_state.json", "/proc/self/mem", "cannot read: Input/output error"},
               {"model.safetensors", "model.safetensors", "cannot open: Too many levels"},
               {"run.toml", "/proc", "is a directory"}};
  for (const auto& c : cases) {
    fs::rename(newest / c.file, out() / "aside");
    fs::create_symlink(c.target, newest / c.file);
    const std::string message = error_of([&] { find_checkpoint(out()); });
    EXPECT_NE(message.find(c.message), std::string::npos) << message;
    EXPECT_NE(message.find("nothing was changed"), std::string::npos) << message;
    EXPECT_EQ(folders(), before);
    fs::rename(out() / "aside", newest / c.file);
  }
  EXPECT_EQ(find_checkpoint(out())->record.step, 12);
}

TEST_F(Checkpoints, OneOfANewerFormatStopsTheRunAndTouchesNothing) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  const fs::path path = out() / "checkpoint-12" / "trainer_state.json";
  Json state = parse_json(read_file(path), "state");
  state["format"] = 1000;
  state["sha256"] = "as that format will have it";
  write_file(path, state.dump());
  const std::string message = error_of([&] { find_checkpoint(out()); });
  EXPECT_NE(message.find("format 1000"), std::string::npos) << message;
  EXPECT_NE(message.find("the version that wrote it"), std::string::npos) << message;
  EXPECT_EQ(folders(), (std::vector<std::string>{"checkpoint-12", "checkpoint-6"}));
}

TEST_F(Checkpoints, AFailureAfterOneIsWrittenSaysThatItIsWhole) {
  make_folder(out() / "model.safetensors" / "in the way");
  const RunConfig config = with_checkpoints(6);
  const std::string message = error_of([&] { SmallRun(config, out()).trainer.run(); });
  EXPECT_NE(message.find("model.safetensors"), std::string::npos) << message;
  EXPECT_NE(message.find("the one of step 6 in"), std::string::npos) << message;
  EXPECT_EQ(message.find("not written"), std::string::npos) << message;
  fs::remove_all(out() / "model.safetensors");
  SmallRun rest(config, out());
  EXPECT_EQ(find_checkpoint(out())->record.step, 6);
  rest.resume().trainer.run();
}

TEST_F(Checkpoints, WhatAKilledSaveLeavesIsPassedOverAndRemoved) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  // Killed after each file of the next save, and between the renames that replace an old one.
  fs::create_directory(out() / ".checkpoint-13.tmp");
  fs::copy(out() / "checkpoint-12", out() / ".checkpoint-14.tmp", fs::copy_options::recursive);
  fs::copy(out() / "checkpoint-12", out() / ".checkpoint-12.old", fs::copy_options::recursive);
  const auto found = find_checkpoint(out());
  ASSERT_TRUE(found);
  EXPECT_EQ(found->record.step, 12);
  EXPECT_EQ(folders(), (std::vector<std::string>{"checkpoint-12", "checkpoint-6"}));
}

TEST_F(Checkpoints, AFullDiskLeavesTheOnesThatWereThere) {
  const RunConfig config = with_checkpoints(0);
  SmallRun whole(config, folder_ / "whole");
  whole.trainer.run();
  train_until_killed_after(5, config);
  // Whichever file is the first that does not fit.
  std::vector<uintmax_t> sizes;
  for (const auto& entry : fs::directory_iterator(out() / "checkpoint-5")) sizes.push_back(entry.file_size());
  for (const uintmax_t size : sizes) {
    std::string message;
    {
      // Not through a Trainer: its metrics.jsonl would have been too large first.
      SmallRun run(config, out());
      Learner learner(*run.model, config, run.data.train, run.pool);
      const CheckpointContents contents{
          *run.model, *run.data.tokenizer, config, learner.optimizer().state(), {}};
      CheckpointRecord record;
      record.step = 9;
      const FileSizeLimit limit(size - 1);
      message = error_of([&] { save_checkpoint(out(), record, contents); });
    }
    EXPECT_NE(message.find("File too large"), std::string::npos) << message;
    EXPECT_EQ(folders(), std::vector<std::string>{"checkpoint-5"});
  }
  SmallRun rest(config, out());
  rest.resume().trainer.run();
  EXPECT_EQ(rest.weights(), whole.weights());
}

TEST_F(Checkpoints, AFullDiskStopsTrainingWithOneClearLine) {
  RunConfig config = with_checkpoints(6);
  std::string message;
  {
    SmallRun run(config, out());
    save_weights(out() / "probe", run.model->parameters());
    const FileSizeLimit limit(fs::file_size(out() / "probe") +
                              1000);  // optimizer.safetensors takes twice that
    message = error_of([&] { run.trainer.run(); });
  }
  EXPECT_NE(message.find("optimizer.safetensors: cannot write"), std::string::npos) << message;
  EXPECT_NE(message.find("checkpoint of step 6 was not written"), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

TEST_F(Checkpoints, AChangedSettingIsNamed) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  RunConfig other = with_checkpoints(6);
  other.train.lr = 0.5;
  std::string message = error_of([&] { SmallRun(other, out()).resume(); });
  EXPECT_NE(message.find("train.lr = 0.5: the run to resume had 0.003"), std::string::npos) << message;
  other = with_checkpoints(6);
  other.train.seed = 2;
  EXPECT_NE(error_of([&] { SmallRun(other, out()).resume(); }).find("train.seed"), std::string::npos);
}

// trainer_state.json of a checkpoint with `change` made to it and a checksum that holds.
void rewrite_state(const fs::path& checkpoint, const std::function<void(Json&)>& change) {
  Json state = parse_json(read_file(checkpoint / "trainer_state.json"), "state");
  state.erase("sha256");
  change(state);
  state["sha256"] = sha256(state.dump());
  write_file(checkpoint / "trainer_state.json", state.dump());
}

TEST_F(Checkpoints, TheHashOfTheSettingsIsOfThoseThatMayNotChange) {
  const auto hash_of = [&](const RunConfig& config, const char* name) {
    SmallRun(config, folder_ / name).trainer.run();
    return find_checkpoint(folder_ / name)->config_hash;
  };
  const std::string hash = hash_of(with_checkpoints(6), "one");
  EXPECT_EQ(hash.size(), 64u);
  RunConfig other = with_checkpoints(6, 6);
  other.data.train = {"elsewhere"};
  other.train.eval_tokens = 5;
  EXPECT_EQ(hash_of(other, "two"), hash);
  other.train.clip = 0.5;
  EXPECT_NE(hash_of(other, "three"), hash);
}

TEST_F(Checkpoints, AStateOfOtherSettingsIsRefused) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  rewrite_state(out() / "checkpoint-12", [](Json& state) { state["config_sha256"] = sha256("others"); });
  const std::string message = error_of([&] { SmallRun(with_checkpoints(6), out()).resume(); });
  EXPECT_NE(message.find("config_sha256 is not that of the settings"), std::string::npos) << message;
  EXPECT_EQ(folders(), (std::vector<std::string>{"checkpoint-12", "checkpoint-6"}));
}

TEST_F(Checkpoints, OfFormat1WhichHadNoHashOfTheSettingsAreResumed) {
  SmallRun whole(with_checkpoints(6), out());
  whole.trainer.run();
  rewrite_state(out() / "checkpoint-12", [](Json& state) {
    state["format"] = 1;
    state.erase("config_sha256");
  });
  SmallRun longer(with_checkpoints(6, 14), out());
  longer.resume().trainer.run();
  EXPECT_EQ(longer.trainer.learner().steps_done(), 14);
}

// The lines of `toml` but for those of some keys.
std::string without(const std::string& toml, const std::vector<std::string>& keys) {
  std::istringstream lines(toml);
  std::string kept;
  for (std::string line; std::getline(lines, line);)
    if (std::find(keys.begin(), keys.end(), line.substr(0, line.find(" = "))) == keys.end())
      kept += line + '\n';
  return kept;
}

// So that a run may be resumed by a later version that has more settings.
TEST_F(Checkpoints, OnlySettingsThatTheFileNamesAreHashed) {
  const std::vector<std::string> may_change = {
      "tokens",      "steps", "eval_every", "eval_tokens", "checkpoint_every",
      "tensorboard", "train", "valid",      "cache",       "cache_gb"};
  SmallRun(with_checkpoints(6), out()).trainer.run();
  const fs::path file = out() / "checkpoint-12" / "run.toml";
  EXPECT_EQ(sha256(without(read_file(file), may_change)), find_checkpoint(out())->config_hash);
  const std::string earlier = without(read_file(file), {"clip"});
  ASSERT_NE(earlier, read_file(file));
  write_file(file, earlier);
  rewrite_state(out() / "checkpoint-12", [&](Json& state) {
    state["config_sha256"] = sha256(without(earlier, may_change));
    state["files"]["run.toml"] = sha256(earlier);
  });
  SmallRun(with_checkpoints(6), out()).resume();
}

TEST_F(Checkpoints, MoreStepsMayBeGiven) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  SmallRun longer(with_checkpoints(6, 20), out());
  longer.resume().trainer.run();
  EXPECT_EQ(longer.trainer.learner().steps_done(), 20);
  const std::string message = error_of([&] { SmallRun(with_checkpoints(6, 10), out()).resume(); });
  EXPECT_NE(message.find("has taken 20 steps; the budget is 10"), std::string::npos) << message;
}

TEST_F(Checkpoints, OtherTextsAreRefused) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  SmallRun other(with_checkpoints(6), out());
  TrainingData data{
      make_byte_tokenizer(), TokenCorpus::from_documents({small_text(500, 9)}, *make_byte_tokenizer()), {}};
  Trainer trainer(other.config, *other.model, data, out(), other.pool);
  const std::string message = error_of([&] { trainer.resume(*find_checkpoint(out())); });
  EXPECT_NE(message.find("other texts"), std::string::npos) << message;
}

TEST_F(Checkpoints, MetricsHaveEveryStepOnceAfterResuming) {
  RunConfig config = with_checkpoints(5);
  config.train.eval_every = 5;
  train_until_killed_after(5, config);
  // Lines of steps that the checkpoint does not have, and half a line.
  std::ofstream(out() / "metrics.jsonl") << R"({"step":4,"loss":1})" << '\n'
                                         << R"({"step":5,"loss":1})" << '\n'
                                         << R"({"step":6,"loss":1})" << '\n'
                                         << R"({"step":7,"lo)";
  SmallRun(config, out()).resume().trainer.run();
  std::vector<std::string> seen;
  std::ifstream lines(out() / "metrics.jsonl");
  for (std::string line; std::getline(lines, line);)
    seen.push_back(line.substr(8, line.find(',') - 8) +
                   (line.find("valid_bits_per_byte") != line.npos ? "v" : ""));
  // The evaluation of step 5 had not come to its end.
  EXPECT_EQ(seen,
            (std::vector<std::string>{"4", "5", "5v", "6", "7", "8", "9", "10", "10v", "11", "12", "12v"}));
}

TEST_F(Checkpoints, ARunKilledBeforeItsFirstFileStartsFromItsBeginning) {
  make_folder(out());
  write_file(out() / "run.toml.4711.tmp", "half of");
  EXPECT_FALSE(RunFolder(out(), true).checkpoint());
  EXPECT_FALSE(fs::exists(out() / "run.toml.4711.tmp"));
  write_file(out() / "mine.tmp", "");
  EXPECT_NE(error_of([&] { RunFolder(out(), true); }).find("holds no run"), std::string::npos);
  EXPECT_TRUE(fs::exists(out() / "mine.tmp"));
}

TEST_F(Checkpoints, OneProcessAtATimeTrainsInAFolder) {
  const RunFolder first(out(), false);
  EXPECT_NE(error_of([&] { RunFolder(out(), false); }).find("another process"), std::string::npos);
}

TEST_F(Checkpoints, AFolderThatHoldsARunOrAModelIsNotOverwritten) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  EXPECT_NE(error_of([&] { RunFolder(out(), false); }).find("--resume"), std::string::npos);
  fs::remove(out() / "run.toml");
  EXPECT_NE(error_of([&] { RunFolder(out(), false); }).find("holds a model"), std::string::npos);
  EXPECT_NE(error_of([&] { RunFolder(out(), true); }).find("holds no run"), std::string::npos);
  EXPECT_NE(error_of([&] { RunFolder(folder_ / "nowhere", true); }).find("no folder"), std::string::npos);
  write_file(folder_ / "file", "");
  EXPECT_NE(error_of([&] { RunFolder(folder_ / "file", false); }).find("a file stands there"),
            std::string::npos);
}

// Whatever a run writes is tried by itself in a folder that holds other things besides.
TEST_F(Checkpoints, AFolderWithAnythingThatARunWouldWriteOverIsRefused) {
  SmallRun(with_checkpoints(6), out()).trainer.run();
  for (const auto& entry : fs::directory_iterator(out())) {
    const fs::path folder = folder_ / "other", name = entry.path().filename();
    fs::create_directory(folder);
    write_file(folder / "notes.txt", "");
    fs::copy(entry.path(), folder / name, fs::copy_options::recursive);
    const std::string message = error_of([&] { RunFolder(folder, false); });
    EXPECT_NE(message.find("another folder"), std::string::npos) << name << ": " << message;
    fs::remove_all(folder);
  }
  fs::create_directories(folder_ / "other" / "checkpoints");
  write_file(folder_ / "other" / "notes.txt", "");
  EXPECT_NO_THROW(RunFolder(folder_ / "other", false));
}

}  // namespace
}  // namespace harmonic
