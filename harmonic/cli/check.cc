// harmonic check: the causality certificate of a model.
#include <cmath>

#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/cli/command.h"
#include "harmonic/eval/certificate.h"
#include "harmonic/eval/model_folder.h"

namespace harmonic {
namespace {

class Check : public Command {
 public:
  void declare(Options& options) override {
    options.add("--model", &model_, "model folder").placeholder("DIR").required();
    options.add("--data", &data_, "a text: its loss by phase is shown as well, not judged")
        .placeholder("FILE");
    options.add("--json", &json_, "write the result here too").placeholder("FILE");
    options.add("--random-tokens", &random_tokens_, "tokens of the tests by noise").amount().at_least(256);
    options.add("--seed", &seed_, "of the texts that the tests make up").at_least(0);
  }

  int run(const CommandContext& context) override {
    // Now, and not when the tests have taken their minutes:
    const std::string text = data_.empty() ? "" : read_file(data_);
    if (!json_.empty()) AtomicFile(std::filesystem::path(json_));  // throws where it cannot be written
    ThreadPool pool(context.threads);
    LoadedModel loaded = load_model_folder(model_, cpu_backend(), true);
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
    std::vector<int32_t> tokens = {loaded.tokenizer->eot()};
    loaded.tokenizer->encode(text, tokens);
    tokens.push_back(loaded.tokenizer->eot());
    const int64_t slowest = loaded.model->strides().back();
    std::vector<double> bits(static_cast<size_t>(slowest)), count(static_cast<size_t>(slowest));
    Inference inference(*loaded.model, pool);
    State state(loaded.model->state_layout());
    const StateRows row{static_cast<char*>(state.data()), 1, &loaded.model->state_layout()};
    const auto total = static_cast<int64_t>(tokens.size()) - 1;
    for (int64_t begin = 0; begin < total; begin += Inference::kRowsPerCall) {
      const int64_t size = std::min(total - begin, Inference::kRowsPerCall);
      const int64_t offsets[2] = {0, size};
      const Tensor hidden = inference.hidden(tokens.data() + begin, {offsets, 1}, row, row);
      const Tensor losses = inference.losses(hidden, tokens.data() + begin + 1);
      for (int64_t r = 0; r < size; ++r) {
        bits[static_cast<size_t>((begin + r) % slowest)] += number_at(losses, 0, r) / std::log(2.0);
        count[static_cast<size_t>((begin + r) % slowest)] += 1;
      }
    }
    print("bits per token of {} by t mod {} (shown, not judged):\n", data_, slowest);
    for (size_t phase = 0; phase < bits.size(); ++phase)
      print("  {:>3}  {:.4f}\n", phase, count[phase] > 0 ? bits[phase] / count[phase] : 0.0);
  }

  std::string model_, data_, json_;
  int64_t random_tokens_ = 65536, seed_ = 1;
};

const Registered<Check> registered("check", "prove that a model never looks at the future");

}  // namespace
}  // namespace harmonic
