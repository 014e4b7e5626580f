// harmonic check: the causality certificate of a model.
#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/json.h"
#include "harmonic/cli/command.h"
#include "harmonic/convert/llama.h"
#include "harmonic/data/text_file.h"
#include "harmonic/eval/certificate.h"
#include "harmonic/eval/model_folder.h"

namespace harmonic {
namespace {

class Check : public Command {
 public:
  void declare(Options& options) override {
    options.add("--model", &model_, "model folder").placeholder("DIR").required();
    options.add("--data", &data_, "a text: its loss by phase is shown as well, not judged")
        .placeholder("FILE")
        .not_empty();
    options.add("--json", &json_, "write the result here too").placeholder("FILE").not_empty();
    options.add("--random-tokens", &random_tokens_, "tokens of the tests by noise").amount().at_least(256);
    options.add("--seed", &seed_, "of the texts that the tests make up").at_least(0);
  }

  bool uses_device() const override { return true; }

  int run(const CommandContext& context) override {
    // Now, and not when the tests have taken their minutes:
    watch_for_interrupts();
    const std::string text = data_.empty() ? "" : read_text(data_);
    if (!data_.empty() && text.empty()) fail("{}: is empty; expected a text to show the loss of", data_);
    if (!json_.empty()) AtomicFile(std::filesystem::path(json_));  // throws where it cannot be written
    ThreadPool pool(context.threads);
    LoadedModel loaded = load_model_folder(model_, context.backend(), true);
    // Its numbers would tell of leaks that are none.
    check_finite(loaded.model->parameters(), model_ + "/model.safetensors");
    CertificateOptions options;
    options.seed = static_cast<uint64_t>(seed_);
    options.random_tokens = random_tokens_;
    const Certificate certificate = certify(*loaded.model, pool, options);
    for (const CertificateTest& test : certificate.tests)
      print("{}  {}: {}\n", test.passed ? "pass" : "FAIL", test.name, test.detail);
    if (!data_.empty()) show_phases(loaded, text, pool);
    print("{}: {}\n", model_, certificate.passed() ? "certificate passed" : "certificate NOT passed");
    flush_output();  // what --json /dev/stdout writes comes after it
    if (!json_.empty()) write_json(certificate);
    return certificate.passed() ? 0 : 1;
  }

 private:
  void write_json(const Certificate& certificate) const {
    Json tests = Json::array();
    for (const CertificateTest& test : certificate.tests)
      tests.push_back({{"name", test.name}, {"passed", test.passed}, {"detail", test.detail}});
    write_file(json_, Json{{"passed", certificate.passed()}, {"tests", tests}}.dump(2) + "\n");
  }

  // Context is freshest just after a slow block has closed, so that honest models differ by phase too.
  void show_phases(const LoadedModel& loaded, const std::string& text, ThreadPool& pool) const {
    std::vector<int32_t> tokens = {loaded.tokenizer->bos()};
    loaded.tokenizer->encode(text, tokens);
    tokens.push_back(loaded.tokenizer->eot());
    Inference inference(*loaded.model, pool);
    State state(loaded.model->state_layout());
    std::vector<double> bits;
    inference.score(state, tokens.data(), static_cast<int64_t>(tokens.size()) - 1, bits);
    const auto slowest = static_cast<size_t>(loaded.model->strides().back());
    print("bits per token of {} by t mod {} (shown, not judged):\n", data_, slowest);
    for (size_t phase = 0; phase < std::min(slowest, bits.size()); ++phase) {
      double sum = 0;
      int64_t count = 0;
      for (size_t t = phase; t < bits.size(); t += slowest, ++count) sum += bits[t];
      print("  {:>3}  {:.4f}\n", phase, count > 0 ? sum / static_cast<double>(count) : 0.0);
    }
  }

  std::string model_, data_, json_;
  int64_t random_tokens_ = 65536, seed_ = 1;
};

const Registered<Check> registered("check", "prove that a model never looks at the future");

}  // namespace
}  // namespace harmonic
