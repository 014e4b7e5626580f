// What the trainer's tests share: a small text, a small run, and a folder that goes away.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "data_fixture.h"
#include "harmonic/base/random.h"
#include "harmonic/train/trainer.h"

namespace harmonic {

// `size` bytes that can be learned: words of a small vocabulary, without a zero byte.
inline std::string small_text(int64_t size, uint64_t seed) {
  static const char* const kWords[] = {"time ", "a ", "river ", "of ", "stone, ", "and ", "the ", "never.\n"};
  const Random random(seed, stream_of("small text"));
  std::string text;
  for (uint64_t i = 0; static_cast<int64_t>(text.size()) < size; ++i) text += kWords[random.below(i, 8)];
  text.resize(static_cast<size_t>(size));
  return text;
}

inline std::vector<std::string> small_documents(int64_t count, int64_t size, uint64_t seed) {
  std::vector<std::string> documents;
  for (int64_t d = 0; d < count; ++d)
    documents.push_back(small_text(size / 2 + size * d / count, seed + static_cast<uint64_t>(d)));
  return documents;
}

inline RunConfig small_run() {
  RunConfig config;
  config.model.d_model = 12;
  config.model.harmonic.d_state = 16;
  config.train.seq_len = 48;
  config.train.batch_size = 4;
  config.train.steps = 12;
  config.train.warmup = 0.25;
  config.train.eval_every = 0;
  config.train.checkpoint_every = 0;
  return config;
}

inline TrainingData small_data(bool valid = false) {
  auto tokenizer = make_byte_tokenizer();
  TokenCorpus train = TokenCorpus::from_documents(small_documents(9, 150, 1), *tokenizer);
  std::optional<TokenCorpus> held_out;
  if (valid) held_out = TokenCorpus::from_documents(small_documents(3, 100, 50), *tokenizer);
  return {std::move(tokenizer), std::move(train), std::move(held_out)};
}

// A model with the first values of a run.
inline std::unique_ptr<Model> first_model(const RunConfig& config, const Backend& backend = cpu_backend()) {
  auto model = std::make_unique<Model>(config.model, backend, true);
  model->parameters().initialise(static_cast<uint64_t>(config.train.seed));
  return model;
}

// A whole small run in one process.
struct SmallRun {
  SmallRun(RunConfig config_, std::filesystem::path out_, int threads = 1,
           const Backend& backend = cpu_backend())
      : config(std::move(config_)),
        out(std::move(out_)),
        pool(threads),
        data(small_data(config.train.eval_every > 0)),
        model(first_model(config, backend)),
        trainer(config, *model, data, out, pool) {
    make_folder(out);
  }
  // Goes on from the newest checkpoint in the folder.
  SmallRun& resume() {
    const auto checkpoint = find_checkpoint(out);
    if (!checkpoint) throw Error("there is no checkpoint");
    trainer.resume(*checkpoint);
    return *this;
  }
  // What a run that is killed after a checkpoint of `step` and before the next one leaves in the folder.
  void be_killed_after(int64_t step) {
    write_file(out / "run.toml", config.to_toml());
    Learner learner(*model, config, data.train, pool);
    CheckpointRecord record;
    while (learner.steps_done() < step) record.tokens += learner.advance().targets;
    record.step = step;
    record.train_data_hash = data.train.hash();
    record.valid_data_hash = data.valid ? data.valid->hash() : "";
    save_checkpoint(out, record,
                    {*model, *data.tokenizer, config, learner.optimizer().state(), learner.carried()});
  }
  std::string weights() const { return model->parameters().hash(); }

  RunConfig config;
  std::filesystem::path out;
  ThreadPool pool;
  TrainingData data;
  std::unique_ptr<Model> model;
  Trainer trainer;
};

}  // namespace harmonic
