// A whole run: what its evaluations measure.
#include "harmonic/train/trainer.h"

#include <gtest/gtest.h>

#include "harmonic/base/json.h"
#include "train_fixture.h"

namespace harmonic {
namespace {

class WholeRun : public DataTest {
 protected:
  // The last held-out figure in metrics.jsonl; -1 where there is none.
  double last_valid_bits() const {
    const std::string metrics = read_file(folder_ / "run" / "metrics.jsonl");
    const size_t at = metrics.rfind("{\"step\"");
    return parse_json(metrics.substr(at), "metrics").value("valid_bits_per_token", -1.0);
  }
};

TEST_F(WholeRun, EvaluatesWithTheStateCarriedWhereTrainingCarriesIt) {
  for (const bool carry : {false, true}) {
    RunConfig config = small_run();
    config.train.loader = "streams";
    config.train.carry_state = carry;
    config.train.eval_every = 12;
    SmallRun run(config, folder_ / "run");
    run.trainer.run();
    Inference inference(*run.model, run.pool);
    EvaluationOptions options;
    options.length = config.train.seq_len;
    const double cold = evaluate(inference, *run.data.valid, options).bits_per_token();
    options.state = EvaluationState::carry;
    const double carried = evaluate(inference, *run.data.valid, options).bits_per_token();
    ASSERT_NE(cold, carried);
    EXPECT_EQ(last_valid_bits(), carry ? carried : cold);
    std::filesystem::remove_all(folder_ / "run");
  }
}

}  // namespace
}  // namespace harmonic
