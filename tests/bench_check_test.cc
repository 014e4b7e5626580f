// The checks that stand before a benchmark's figures, and what is shown of these.
#include <gtest/gtest.h>

#include <cmath>

#include "emulated_cuda.h"
#include "harmonic/base/json.h"
#include "harmonic/bench/bench_model.h"
#include "harmonic/bench/bench_ops.h"
#include "harmonic/bench/bench_report.h"
#include "harmonic/bench/measurement.h"

namespace harmonic {
namespace {

// A small error in every row but the first of a product.
void inexact_linear(Context& context, const Linear& op) {
  cpu::run(context, op);
  for (int64_t r = 1; r < op.y.rows; ++r) op.y.row<float>(r)[0] += 0.01f;
}
void inexact_scan_backward(Context& context, const DecayScanBackward& op) {
  cpu::run(context, op);
  op.dg.row<float>(0)[0] += 0.1f;
}

template <typename Op>
Backend with(void (*kernel)(Context&, const Op&)) {
  Backend backend = cpu_backend();
  std::get<void (*)(Context&, const Op&)>(backend.ops.kernels) = kernel;
  return backend;
}

template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

ModelConfig small(const std::string& mixer) { return bench_config(mixer, 32, 50, 300); }

TEST(BenchCheck, PassesForEveryMixerAndFormat) {
  ThreadPool pool(2);
  for (const char* mixer : {"harmonic", "attention", "mamba"}) {
    EXPECT_NE(check_training(small(mixer), pool).find(mixer), std::string::npos);
    check_length(small(mixer), pool);
    for (const DType format : {DType::f32, DType::bf16, DType::i8})
      check_decoding(small(mixer), pool, format);
  }
}

TEST(BenchCheck, PassesHoweverShortTheTextsThatAreMeasured) {
  ThreadPool pool(2);
  const ModelConfig config = bench_config("attention", 32, 50, 1);
  EXPECT_EQ(config.longest_text(), 1);
  check_length(config, pool);
  check_training(config, pool);
  check_decoding(config, pool, DType::f32);
}

TEST(BenchCheck, AWidthOfOneIsRefusedAndTwoPasses) {
  ThreadPool pool(2);
  for (const char* mixer : {"harmonic", "mamba"}) {
    EXPECT_NE(error_of([&] { bench_config(mixer, 1, 50, 300); }).find("d_model 1: expected 2 at least"),
              std::string::npos);
    check_training(bench_config(mixer, 2, 50, 300), pool);
  }
}

TEST(BenchCheck, PassesForEveryFormatOnADevice) {
  ThreadPool pool(1);
  for (const DType format : {DType::f32, DType::bf16, DType::i8})
    check_decoding(small("harmonic"), pool, format, emulated_cuda_device_backend());
}

TEST(BenchCheck, BytesOfWeightsAreThoseThatAreKept) {
  ThreadPool pool(1);
  const auto bytes = [&](const Backend& backend, DType format) {
    Model model(bench_config("harmonic", 64, 256, 300, 2), backend, false);
    model.parameters().initialise(1, &pool);
    Inference inference(model, pool);
    model.pack(inference.context(), format);
    EXPECT_GT(matrix_bytes(model), weight_bytes_a_token(model)) << "slow levels are read now and then";
    return matrix_bytes(model);
  };
  for (const Backend* backend : {&cpu_backend(), &emulated_cuda_device_backend()}) {
    const double f32 = bytes(*backend, DType::f32);
    EXPECT_EQ(f32, 4.0 * (2 * 34 * 64 * 64 + 256 * 64));
    EXPECT_EQ(bytes(*backend, DType::bf16), f32 / 2);
    EXPECT_GT(bytes(*backend, DType::i8), f32 / 4);
    EXPECT_LT(bytes(*backend, DType::i8), f32 / 3);
  }
}

TEST(BenchCheck, ABuildThatComputesSomethingElseGetsNoFigure) {
  ThreadPool pool(2);
  const Backend forward = with<Linear>(inexact_linear);
  const Backend backward = with<DecayScanBackward>(inexact_scan_backward);
  const auto expect_refused = [](const std::string& message) {
    EXPECT_NE(message.find("the check before measuring failed"), std::string::npos) << message;
  };
  expect_refused(error_of([&] { check_training(small("harmonic"), pool, forward); }));
  expect_refused(error_of([&] { check_training(small("harmonic"), pool, backward); }));
  expect_refused(error_of([&] { check_length(small("harmonic"), pool, forward); }));
  expect_refused(error_of([&] { check_decoding(small("harmonic"), pool, DType::f32, forward); }));
}

// The wrong kernel is not the first op that is measured: those before it pass.
TEST(BenchCheck, AnOpWithAWrongKernelGetsNoFigure) {
  ThreadPool pool(2);
  const OpsBench sizes{.channels = {24}, .rows = 40, .vocabulary = 30, .runs = 1};
  EXPECT_EQ(error_of([&] { bench_ops(sizes, pool); }), "");
  const std::string message =
      error_of([&] { bench_ops(sizes, pool, with<DecayScanBackward>(inexact_scan_backward)); });
  EXPECT_NE(message.find("the check before measuring failed"), std::string::npos) << message;
  EXPECT_NE(message.find("scan backward"), std::string::npos) << message;
}

TEST(BenchCheck, AnUnknownMixerIsRefusedByTheNearestName) {
  EXPECT_NE(error_of([] { small("mambo"); }).find("\"mamba\""), std::string::npos);
}

TEST(BenchReport, IsAPlainTableAndTheSameAsJson) {
  BenchReport report;
  report.name = "ops";
  report.machine = {"a processor", "AVX2", 2, 1e11, 2e10, 3e10};
  report.checks = {"it computes what it should"};
  report.remarks = {"a remark"};
  report.columns = {{"op", 0}, {"us", 1}, {"GFLOP/s", 1}};
  report.rows = {{std::string("linear"), 12.34, 56.0}, {std::string("rms norm"), 1.0, std::nan("")}};
  EXPECT_EQ(
      table_of(report),
      "ops: a processor, 2 threads, AVX2; matrix peak 100.0 GFLOP/s, memory 20.0 GB/s, reading 30.0 GB/s\n"
      "checked: it computes what it should\n"
      "a remark\n"
      "op          us  GFLOP/s\n"
      "linear    12.3     56.0\n"
      "rms norm   1.0         \n");
  const Json json = Json::parse(json_of(report));
  EXPECT_EQ(json["bench"], "ops");
  EXPECT_EQ(json["machine"]["matrix_peak"], 1e11);
  EXPECT_EQ(json["rows"][0]["us"], 12.34);
  EXPECT_TRUE(json["rows"][1]["GFLOP/s"].is_null());
}

TEST(Measurement, TheMedianOfRepeatedRunsIsTheFigure) {
  const Times times = summary_of({5, 1, 3, 2, 9});
  EXPECT_EQ(times.median, 3);
  EXPECT_EQ(times.fastest, 1);
  EXPECT_EQ(times.slowest, 9);
  EXPECT_DOUBLE_EQ(times.spread(), 8.0 / 3);
  int64_t calls = 0;
  measure([&] { ++calls; }, 4, 0);
  EXPECT_EQ(calls, 5) << "the first call does not count";
}

}  // namespace
}  // namespace harmonic
