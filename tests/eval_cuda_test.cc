// The certificate of a model whose ops are the cuda backend's kernels, within its tolerance.
#include <gtest/gtest.h>

#include <algorithm>

#include "emulated_cuda.h"
#include "harmonic/eval/certificate.h"
#include "harmonic/ops/cuda_plugin.h"
#include "small_models.h"

namespace harmonic {
namespace {

std::vector<const Backend*> device_backends() {
  std::vector<const Backend*> all = {&emulated_cuda_device_backend()};
  if (a_card_is_tested()) all.push_back(cuda_plugin().f32);
  return all;
}

TEST(CertificateOnADevice, PassesHonestModels) {
  ThreadPool pool(1);
  for (const Backend* backend : device_backends())
    for (const NamedConfig& named : small_configs()) {
      if (named.name != "levels" && named.name != "attention") continue;
      Model model(named.config, *backend, true);
      initialise_for_test(model, 4);
      CertificateOptions options;
      options.random_tokens = 1024;
      options.gradients = named.name == "levels";  // which takes the most of the time
      const Certificate certificate = certify(model, pool, options);
      for (const CertificateTest& test : certificate.tests)
        EXPECT_TRUE(test.passed) << named.name << ": " << test.name << ": " << test.detail;
    }
}

// A tenth of what a row of logits is larger than rounding explains.
void moved_linear(Context& context, const Linear& op) {
  const auto honest = std::get<void (*)(Context&, const Linear&)>(emulated_cuda_backend().ops.kernels);
  honest(context, op);
  if (op.y.rows < 40) return;
  for (int64_t r = 0; r < op.y.rows; ++r)
    for (int64_t c = 0; c < op.y.cols; ++c) op.y.row<float>(r)[c] *= c % 2 == 0 ? 1.1f : 0.9f;
}

TEST(CertificateOnADevice, NoticesWhatRoundingDoesNotExplain) {
  Backend backend = emulated_cuda_backend();
  std::get<void (*)(Context&, const Linear&)>(backend.ops.kernels) = &moved_linear;
  ThreadPool pool(1);
  Model model(small_configs().front().config, backend, true);
  initialise_for_test(model, 4);
  CertificateOptions options;
  options.random_tokens = 1024;
  EXPECT_FALSE(certify(model, pool, options).passed());
}

}  // namespace
}  // namespace harmonic
