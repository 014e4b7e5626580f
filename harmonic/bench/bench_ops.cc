#include "harmonic/bench/bench_ops.h"

#include <cmath>
#include <limits>
#include <map>

#include "harmonic/base/log.h"
#include "harmonic/base/random.h"
#include "harmonic/bench/bench_model.h"
#include "harmonic/bench/measurement.h"
#include "harmonic/ops/backend.h"

namespace harmonic {
namespace {

// The tensors of one op on one backend: inputs with the same values on every backend, by their names.
class Workbench {
 public:
  Workbench(const Backend& backend, ThreadPool& pool)
      : backend_(backend), memory_(backend.memory), scratch_(backend.memory), context_{pool, scratch_} {}

  Tensor input(const std::string& name, int64_t rows, int64_t cols) {
    const Tensor tensor = memory_.tensor(rows, cols, backend_.dtype);
    const Random random(1, stream_of(name));
    for (int64_t i = 0; i < tensor.size(); ++i) {
      const auto value = static_cast<float>(2 * random.uniform(static_cast<uint64_t>(i)) - 1);
      if (backend_.dtype == DType::f64) {
        tensor.as<double>()[i] = value;
      } else {
        tensor.as<float>()[i] = value;
      }
    }
    return tensor;
  }
  // Zeros at first, for ops that add; compared.
  Tensor output(int64_t rows, int64_t cols) {
    outputs_.push_back(memory_.zeros(rows, cols, backend_.dtype));
    return outputs_.back();
  }
  // A copy that lies here.
  template <typename T>
  T* keep(const T& value) {
    return new (memory_.allocate_array<T>(1)) T(value);
  }
  double* number() {
    outputs_.push_back(memory_.zeros(1, 1, DType::f64));
    return outputs_.back().as<double>();
  }
  Tensor targets(int64_t rows, int64_t vocabulary) {
    const Tensor tensor = memory_.tensor(1, rows, DType::i32);
    for (int64_t r = 0; r < rows; ++r) tensor.as<int32_t>()[r] = static_cast<int32_t>(r * 31 % vocabulary);
    return tensor;
  }
  Segments one_text(int64_t rows) {
    auto* offsets = memory_.allocate_array<int64_t>(2);
    offsets[0] = 0;
    offsets[1] = rows;
    return {offsets, 1};
  }
  const int64_t* zero() {
    auto* number = memory_.allocate_array<int64_t>(1);
    *number = 0;
    return number;
  }
  Tensor packed(const Tensor& weight, DType format) {
    const bool narrow = backend_.dtype == DType::f32;
    const int64_t size =
        packed_weight_size(weight.rows, weight.cols, narrow ? format : DType::f32, backend_.device);
    if (size == 0) return {};
    const Tensor tensor = memory_.tensor(1, size, narrow ? format : backend_.dtype);
    run(PackWeight{weight, tensor, format});
    return tensor;
  }

  template <typename Op>
  void run(const Op& op) {
    backend_(context_, op);
    backend_.synchronize();
  }
  const std::vector<Tensor>& outputs() const { return outputs_; }

 private:
  const Backend& backend_;
  Arena memory_, scratch_;
  Context context_;
  std::vector<Tensor> outputs_;
};

// Goes through the ops whose names are asked for: counts them, or checks and measures each.
class OpsRun {
 public:
  enum class Does { count, measure };
  OpsRun(Does does, const OpsBench& options, ThreadPool& pool, const Backend& backend, BenchReport& report)
      : does_(does), options_(options), pool_(pool), backend_(backend), report_(report) {}

  // make(workbench, rows, channels) builds the op's arguments.
  template <typename Make>
  void op(const std::string& name, int64_t rows, int64_t channels, const Make& make) {
    if (!name.starts_with(options_.only)) return;
    ++count_;
    if (does_ == Does::count) return;
    progress(fmt::format("bench ops: {}, {} rows, {} channels", name, rows, channels));
    check(name, std::min<int64_t>(rows, 70), make);
    Workbench bench(backend_, pool_);
    const auto op = make(bench, rows, channels);
    bench.run(op);
    check_samples(name, op);
    // Of up to 64 rows weights are what is read.
    const MemoryAround memory(pool_, backend_, report_.machine,
                              rows <= kFewRows ? MemoryAround::Kind::reading : MemoryAround::Kind::both_ways);
    const Times times = measure([&] { bench.run(op); }, options_.runs);
    const OpCost cost = cost_of(op);
    const double flops = cost.operations / times.median, bytes = cost.bytes / times.median;
    const double none = std::numeric_limits<double>::quiet_NaN();
    const double peak = in_f32<std::decay_t<decltype(op)>>() ? report_.machine.matrix_peak
                                                             : report_.machine.peak_of(backend_);
    report_.rows.push_back({name, static_cast<double>(rows), static_cast<double>(channels),
                            times.median * 1e6, times.fastest * 1e6, 100 * times.spread(),
                            flops > 0 ? flops * 1e-9 : none, flops > 0 ? 100 * flops / peak : none,
                            bytes * 1e-9, 100 * bytes / memory.bytes_per_second()});
  }
  int64_t count() const { return count_; }

 private:
  static constexpr int64_t kFewRows = 64;

  // On a processor the precision is that of matrix products alone.
  template <typename Op>
  bool in_f32() const {
    constexpr bool product = std::is_same_v<Op, Linear> || std::is_same_v<Op, LinearBackward> ||
                             std::is_same_v<Op, LinearCrossEntropy>;
    return backend_.device == Device::cpu && !product;
  }
  template <typename Op>
  double tolerance_of() const {
    return check_tolerance(in_f32<Op>() ? "f32" : options_.precision);
  }

  template <typename Make>
  void check(const std::string& name, int64_t rows, const Make& make) {
    constexpr int64_t kChannels = 24;
    Workbench found(backend_, pool_), expected(reference_backend(), pool_);
    const double tolerance = tolerance_of<decltype(make(found, rows, kChannels))>();
    found.run(make(found, rows, kChannels));
    expected.run(make(expected, rows, kChannels));
    HARMONIC_ASSERT(!expected.outputs().empty());
    for (size_t i = 0; i < expected.outputs().size(); ++i) {
      const Tensor &f = found.outputs()[i], &e = expected.outputs()[i];
      double difference = 0, size = 0;
      for (int64_t k = 0; k < e.size(); ++k) {
        const double number = f.dtype == DType::f64 ? f.as<double>()[k] : f.as<float>()[k];
        difference += (number - e.as<double>()[k]) * (number - e.as<double>()[k]);
        size += e.as<double>()[k] * e.as<double>()[k];
      }
      expect_close(fmt::format("{}, output {}", name, i), difference, size, tolerance);
    }
  }
  // Products take another way when they are large: some of the numbers at the size that is timed, each as a
  // sum in double precision. Other ops have no other way.
  template <typename Op>
  void check_samples(const std::string&, const Op&) const {}
  void check_samples(const std::string& name, const Linear& op) const {
    expect_sums(name, op.y, op.x.cols, [&](int64_t r, int64_t m, int64_t k) {
      return static_cast<double>(op.x.row<float>(r)[k]) * op.weight.row<float>(m)[k];
    });
  }
  void check_samples(const std::string& name, const LinearBackward& op) const {
    expect_sums(name + ", dx", op.dx.to, op.dy.cols, [&](int64_t r, int64_t k, int64_t m) {
      return static_cast<double>(op.dy.row<float>(r)[m]) * op.weight.row<float>(m)[k];
    });
    expect_sums(name + ", dweight", op.dweight, op.dy.rows, [&](int64_t m, int64_t k, int64_t r) {
      return static_cast<double>(op.dy.row<float>(r)[m]) * op.x.row<float>(r)[k];
    });
  }
  // Each number (r, c) of `found` is the sum of `count` terms(r, c, k).
  template <typename Term>
  void expect_sums(const std::string& name, const Tensor& found, int64_t count, const Term& term) const {
    constexpr uint64_t kSamples = 1000;
    const Random random(1, stream_of("samples"));
    double difference = 0, size = 0;
    for (uint64_t i = 0; i < kSamples; ++i) {
      const auto r = static_cast<int64_t>(random.below(2 * i, static_cast<uint64_t>(found.rows)));
      const auto c = static_cast<int64_t>(random.below(2 * i + 1, static_cast<uint64_t>(found.cols)));
      double expected = 0;
      for (int64_t k = 0; k < count; ++k) expected += term(r, c, k);
      difference += (found.row<float>(r)[c] - expected) * (found.row<float>(r)[c] - expected);
      size += expected * expected;
    }
    expect_close(fmt::format("{} of {} x {}", name, found.rows, found.cols), difference, size,
                 check_tolerance(options_.precision));
  }
  // Of sums of squares.
  static void expect_close(const std::string& what, double difference, double size, double tolerance) {
    if (!(difference <= tolerance * tolerance * size))
      refuse_to_measure(fmt::format("{}: differs by {:.1e} of its norm, expected {:.0e} at most", what,
                                    std::sqrt(difference / size), tolerance));
  }

  Does does_;
  const OpsBench& options_;
  ThreadPool& pool_;
  const Backend& backend_;
  BenchReport& report_;
  int64_t count_ = 0;
};

// Products forward and backward, of a matrix C -> m C.
void products(OpsRun& run, int64_t R, int64_t C) {
  for (const int64_t wider : {1, 2, 4}) {
    run.op(fmt::format("linear, C -> {} C", wider), R, C, [wider](Workbench& w, int64_t r, int64_t c) {
      return Linear{w.input("x", r, c),    w.input("w", wider * c, c), {}, {}, {}, false,
                    w.output(r, wider * c)};
    });
    run.op(fmt::format("linear backward, C -> {} C", wider), R, C,
           [wider](Workbench& w, int64_t r, int64_t c) {
             return LinearBackward{
                 w.input("x", r, c),          w.input("w", wider * c, c), false,
                 w.input("dy", r, wider * c), {w.output(r, c)},           w.output(wider * c, c),
                 w.output(1, wider * c)};
           });
  }
}

void heads(OpsRun& run, const OpsBench& options, int64_t C) {
  const int64_t V = options.vocabulary;
  run.op(fmt::format("head and loss, {} tokens", V), std::min<int64_t>(options.rows, 4096), C,
         [V](Workbench& w, int64_t r, int64_t c) {
           return LinearCrossEntropy{w.input("x", r, c), w.input("w", V, c), {},
                                     w.targets(r, V),    w.output(1, r),     1.0,
                                     w.output(r, c),     w.output(V, c)};
         });
  for (const DType format : {DType::f32, DType::bf16, DType::i8}) {
    for (const int64_t rows : {1, 8, 64}) {
      run.op(fmt::format("head, weights {}", format == DType::i8 ? "int8" : name_of(format)), rows, C,
             [V, format](Workbench& w, int64_t r, int64_t c) {
               const Tensor weight = w.input("w", V, c);
               return Linear{w.input("x", r, c), weight, w.packed(weight, format), {}, {}, false,
                             w.output(r, V)};
             });
    }
  }
}

DecayScan decay_scan(Workbench& w, int64_t r, int64_t n) {
  const Segments text = w.one_text(r);
  return {w.input("u", r, n), w.input("z", r, n), w.input("g", r, n), w.input("d", 1, n),           text,
          w.input("s", 1, n), w.output(r, n),     w.output(1, n),     w.output(scan_tiles(text), n)};
}

SelectiveScan selective_scan(Workbench& w, int64_t r, int64_t n) {
  const Segments text = w.one_text(r);
  const int64_t S = kSelectiveState;
  return {.u = w.input("u", r, n),
          .z = w.input("z", r, n),
          .dt = w.input("t", r, n),
          .key = w.input("k", r, S),
          .query = w.input("q", r, S),
          .skip = w.input("d", 1, n),
          .a_log = {},
          .segments = text,
          .state_in = w.input("s", 1, S * n),
          .y = w.output(r, n),
          .state_out = w.output(1, S * n),
          .borders = w.output(scan_tiles(text), S * n)};
}

// Backward starts from the borders that forward left.
void recurrences(OpsRun& run, int64_t R, int64_t N) {
  run.op("decay scan", R, N, decay_scan);
  run.op("decay scan backward", R, N, [](Workbench& w, int64_t r, int64_t n) {
    const DecayScan f = decay_scan(w, r, n);
    w.run(f);
    return DecayScanBackward{.u = f.u,
                             .z = f.z,
                             .g = f.g,
                             .skip = f.skip,
                             .segments = f.segments,
                             .borders = f.borders,
                             .dy = w.input("dy", r, n),
                             .dstate_out = {},
                             .du = w.output(r, n),
                             .dz = w.output(r, n),
                             .dg = w.output(r, n),
                             .dstate_in = w.output(1, n),
                             .dskip = w.output(1, n)};
  });
  run.op("selective scan", R, N, selective_scan);
  run.op("selective scan backward", R, N, [](Workbench& w, int64_t r, int64_t n) {
    const SelectiveScan f = selective_scan(w, r, n);
    w.run(f);
    return SelectiveScanBackward{.u = f.u,
                                 .z = f.z,
                                 .dt = f.dt,
                                 .key = f.key,
                                 .query = f.query,
                                 .skip = f.skip,
                                 .a_log = {},
                                 .segments = f.segments,
                                 .borders = f.borders,
                                 .dy = w.input("dy", r, n),
                                 .dstate_out = {},
                                 .du = w.output(r, n),
                                 .dz = w.output(r, n),
                                 .ddt = w.output(r, n),
                                 .dkey = w.output(r, kSelectiveState),
                                 .dquery = w.output(r, kSelectiveState),
                                 .dstate_in = w.output(1, kSelectiveState * n),
                                 .dskip = w.output(1, n),
                                 .da_log = {}};
  });
}

void over_time(OpsRun& run, int64_t R, int64_t C) {
  constexpr int64_t K = 4;
  run.op("convolution and silu", R, C, [](Workbench& w, int64_t r, int64_t c) {
    return CausalConv{w.input("x", r, c),     w.input("w", c, K), w.input("b", 1, c), w.one_text(r),
                      w.input("s", 1, 3 * c), w.output(r, c),     w.output(1, 3 * c), Activation::silu};
  });
  run.op("convolution backward", R, C, [](Workbench& w, int64_t r, int64_t c) {
    return CausalConvBackward{
        w.input("x", r, c),     w.input("w", c, K), w.input("b", 1, c),  w.one_text(r),
        w.input("s", 1, 3 * c), Activation::silu,   w.input("dy", r, c), {},
        {w.output(r, c)},       w.output(1, 3 * c), w.output(c, K),      w.output(1, c)};
  });
  run.op("pool by 4", R, C, [](Workbench& w, int64_t r, int64_t c) {
    return CausalPool{w.input("x", r, c), w.one_text(r),      w.zero(),           4,
                      w.one_text(r / 4),  w.input("s", 1, c), w.output(r / 4, c), w.output(1, c)};
  });
  run.op("upsample by 4", R, C, [](Workbench& w, int64_t r, int64_t c) {
    return CausalUpsample{w.input("held", r / 4 + 1, c), w.one_text(r), w.one_text(r / 4), w.zero(), 4,
                          w.input("base", r, c),         w.output(r, c)};
  });
  run.op("rms norm", R, C, [](Workbench& w, int64_t r, int64_t c) {
    return RmsNorm{w.input("x", r, c), w.input("w", 1, c), {}, w.output(r, c)};
  });
  run.op("rms norm backward", R, C, [](Workbench& w, int64_t r, int64_t c) {
    return RmsNormBackward{w.input("x", r, c), w.input("w", 1, c), {}, w.input("dy", r, c),
                           {w.output(r, c)},   w.output(1, c),     {}};
  });
}

constexpr int64_t kHeads = 4;

void attentions(OpsRun& run, int64_t R, int64_t C) {
  run.op("attention", R, C, [](Workbench& w, int64_t r, int64_t c) {
    return Attention{w.input("q", r, c),  w.input("k", r, c), w.input("v", r, c), {}, w.one_text(r), w.zero(),
                     {kHeads, kHeads, 0}, w.output(r, c),     w.output(r, kHeads)};
  });
}

void updates(OpsRun& run, int64_t C) {
  run.op("squares of a gradient", 4 * C, C, [](Workbench& w, int64_t r, int64_t c) {
    return SumsOfSquares{w.keep(w.input("x", r, c)), 1, w.number()};
  });
  run.op("adamw", 4 * C, C, [](Workbench& w, int64_t r, int64_t c) {
    const Tensor value = w.output(r, c);
    return AdamW{
        .value = value, .grad = w.input("g", r, c), .m = w.output(r, c), .v = w.output(r, c), .lr = 1e-3};
  });
  run.op("muon", 4 * C, C, [](Workbench& w, int64_t r, int64_t c) {
    const Tensor value = w.output(r, c), grad = w.input("g", r, c);
    return Muon{.matrices = w.keep(MuonMatrix{value, grad, w.output(r, c)}), .count = 1, .lr = 1e-3};
  });
}

void all_ops(OpsRun& run, const OpsBench& options) {
  for (const int64_t C : options.channels) {
    products(run, options.rows, C);
    heads(run, options, C);
    recurrences(run, options.rows, 2 * C);
    over_time(run, options.rows, C);
    attentions(run, std::min<int64_t>(options.rows, 2048), C);
    updates(run, C);
  }
}

}  // namespace

BenchReport bench_ops(const OpsBench& options, ThreadPool& pool, const Backend& backend) {
  HARMONIC_ASSERT(!options.channels.empty());
  for (const int64_t C : options.channels)
    if (C % (2 * kHeads) != 0)
      fail_usage("--d-model {}: expected multiples of {}, as attention has {} heads of even width", C,
                 2 * kHeads, kHeads);
  BenchReport report;
  OpsRun named(OpsRun::Does::count, options, pool, backend, report);
  all_ops(named, options);
  if (named.count() == 0) fail_usage("--only \"{}\": no op has a name that begins so", options.only);
  report.name = "ops";
  report.machine = measure_machine(pool, backend);
  report.columns = {{"op", 0},       {"rows", 0},    {"channels", 0},  {"us", 1},   {"fastest us", 1},
                    {"spread %", 0}, {"GFLOP/s", 1}, {"of peak %", 1}, {"GB/s", 1}, {"of memory %", 1}};
  report.remarks = {
      "GB/s: every tensor read or written once; up to 64 rows beside the bandwidth of reading, as weights "
      "are what is read; the memory's speed is measured before and after each op. Above 100 %: from the "
      "cache"};
  OpsRun run(OpsRun::Does::measure, options, pool, backend, report);
  all_ops(run, options);
  end_progress();
  report.checks = {fmt::format("{} ops equal the reference within {:.0e}", run.count(),
                               check_tolerance(options.precision))};
  return report;
}

}  // namespace harmonic
