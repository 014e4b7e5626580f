#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "harmonic/base/json.h"
#include "train_fixture.h"

namespace harmonic {
namespace {

class ProfiledTraining : public DataTest {};

TEST_F(ProfiledTraining, ChangesNoBitAndAccountsForEveryStepButTheFirst) {
  RunConfig config = small_run();
  config.train.optimizer = "muon";
  SmallRun plain(config, path("plain"));
  plain.trainer.run();

  Profile profile;
  Backend backend = cpu_backend();
  backend.observer = &profile;
  ThreadPool pool(2);
  const TrainingData data = small_data();
  const auto model = first_model(config, backend);
  make_folder(path("profiled"));
  Trainer trainer(config, *model, data, path("profiled"), pool);
  trainer.profile_steps(profile);
  trainer.run();
  EXPECT_EQ(model->parameters().hash(), plain.weights());

  const Json json = Json::parse(read_file(path("profiled") + "/profile.json"));
  EXPECT_EQ(json["steps"], 11);
  EXPECT_EQ(json["tokens"], 11 * config.train.tokens_per_step());
  EXPECT_GT(json["matrix_peak"], 0.0);
  EXPECT_GT(json["bandwidth"], 0.0);
  double seconds = 0;
  std::set<std::string> ways;
  for (const Json& op : json["ops"]) {
    seconds += op["seconds"].get<double>();
    ways.insert(op["way"]);
    EXPECT_EQ(op["calls"].get<int64_t>() % 11, 0) << op["op"];
  }
  EXPECT_EQ(ways, (std::set<std::string>{"forward", "backward", "both", "update"}));
  EXPECT_DOUBLE_EQ(seconds, json["seconds_in_ops"]);
  EXPECT_LT(seconds, json["seconds"]);
  EXPECT_GT(seconds, 0.2 * json["seconds"].get<double>());
  const std::string table = profile_table(profile, trainer.profiled_steps());
  for (const char* text : {"profile of 11 steps", "linear_cross_entropy", "muon", "outside ops"})
    EXPECT_NE(table.find(text), std::string::npos) << text << " in\n" << table;
}

// What lanes do at once is not counted twice.
TEST_F(ProfiledTraining, CountsLanesByTheirShareOfTheThreads) {
  RunConfig config = small_run();
  config.train.seq_len = 600;
  Profile profile;
  Backend backend = cpu_backend();
  backend.observer = &profile;
  ThreadPool pool(4);
  const TrainingData data = small_data();
  const auto model = first_model(config, backend);
  make_folder(path("profiled"));
  Trainer trainer(config, *model, data, path("profiled"), pool);
  trainer.profile_steps(profile);
  trainer.run();
  const ProfiledSteps& steps = trainer.profiled_steps();
  EXPECT_LT(profile.seconds(), steps.seconds);
  const auto entries = profile.entries();
  const auto head = std::find_if(entries.begin(), entries.end(),
                                 [](const auto& entry) { return entry.cost.way == OpWay::both; });
  ASSERT_NE(head, entries.end());
  EXPECT_EQ(head->calls, 4 * steps.steps) << "four lanes";
}

TEST_F(ProfiledTraining, SaysSoWhenThereWasNoStepToMeasure) {
  Profile profile;
  EXPECT_NE(profile_table(profile, {}).find("no step was measured"), std::string::npos);
}

}  // namespace
}  // namespace harmonic
