#include "harmonic/experiment/paper_figures.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <span>

#include "harmonic/experiment/number_text.h"
#include "harmonic/experiment/statistics.h"

namespace harmonic {
namespace {

constexpr const char* kSource =
    "Source: arXiv 2606.24650. Bits per token, another corpus and tokenizer: not comparable in level.";
constexpr double kOutOfMemory = std::numeric_limits<double>::infinity();
constexpr int kDigits = 3;

struct LengthRow {
  int64_t length;
  double transformer, mamba, harmonic;
};

constexpr LengthRow kEnwik8[] = {{1024, 6.662, 6.616, 6.571},
                                 {2048, 6.657, 6.532, 6.426},
                                 {4096, 7.045, 6.740, 6.687},
                                 {8192, 6.787, 6.422, 6.333},
                                 {16384, 6.873, 6.286, 6.196},
                                 {32768, 7.259, 6.549, 6.433},
                                 {65536, kOutOfMemory, kOutOfMemory, 6.169}};

constexpr LengthRow kWikiText[] = {{1024, 7.787, 7.722, 7.653},  {2048, 8.012, 7.868, 7.761},
                                   {4096, 8.136, 7.895, 7.792},  {8192, 8.292, 7.988, 7.888},
                                   {16384, 8.319, 7.963, 7.850}, {32768, 8.114, 7.690, 7.533}};

constexpr int kSeeds[] = {42, 123, 7, 99, 11};
constexpr double kHarmonicOfSeeds[] = {6.3189, 6.5146, 6.4398, 6.5362, 6.7639};
constexpr double kMambaOfSeeds[] = {6.3868, 6.5994, 6.5053, 6.5724, 6.8107};
constexpr double kTransformerOfSeeds[] = {6.8057, 6.9905, 6.9553, 7.0508, 7.2419};

TableCell figure(double value, int digits) {
  if (std::isinf(value)) return {"out of memory", ""};
  return {fixed_text(value, digits), fmt::format("{}", value)};
}
TableCell difference(double value, int digits) {
  if (!std::isfinite(value)) return {"\u2013", ""};
  return {signed_text(value, digits), fmt::format("{:.6g}", value)};
}

ReportTable by_length(const char* id, const char* title, std::span<const LengthRow> rows) {
  ReportTable table{id, title, kSource, {}, {}};
  for (const char* name :
       {"length", "Transformer", "Mamba", "Harmonic", "Harmonic \u2212 Transformer", "Harmonic \u2212 Mamba"})
    table.columns.push_back({name});
  for (const LengthRow& row : rows) {
    table.rows.push_back({{length_text(row.length), fmt::format("{}", row.length)},
                          figure(row.transformer, kDigits),
                          figure(row.mamba, kDigits),
                          figure(row.harmonic, kDigits),
                          difference(row.harmonic - row.transformer, kDigits),
                          difference(row.harmonic - row.mamba, kDigits)});
  }
  return table;
}

ReportTable by_seed() {
  ReportTable table{"paper-seeds", "The paper's five seeds at 8K", kSource, {{"seed"}}, {}};
  table.note += " The last two columns are paired here by seed, which the paper does not.";
  for (const char* name :
       {"Transformer", "Mamba", "Harmonic", "Harmonic \u2212 Transformer", "Harmonic \u2212 Mamba"})
    table.columns.push_back({name});
  for (size_t i = 0; i < std::size(kSeeds); ++i) {
    table.rows.push_back({{fmt::format("{}", kSeeds[i]), ""},
                          figure(kTransformerOfSeeds[i], 4),
                          figure(kMambaOfSeeds[i], 4),
                          figure(kHarmonicOfSeeds[i], 4),
                          difference(kHarmonicOfSeeds[i] - kTransformerOfSeeds[i], 4),
                          difference(kHarmonicOfSeeds[i] - kMambaOfSeeds[i], 4)});
  }
  const Summary to_transformer = paired_difference(kHarmonicOfSeeds, kTransformerOfSeeds).difference;
  const Summary to_mamba = paired_difference(kHarmonicOfSeeds, kMambaOfSeeds).difference;
  table.rows.push_back({{"mean", ""},
                        figure(summarize(kTransformerOfSeeds).mean, 4),
                        figure(summarize(kMambaOfSeeds).mean, 4),
                        figure(summarize(kHarmonicOfSeeds).mean, 4),
                        difference(to_transformer.mean, 4),
                        difference(to_mamba.mean, 4)});
  table.rows.push_back({{"\u00b1 95 %", ""},
                        figure(summarize(kTransformerOfSeeds).half_width, 4),
                        figure(summarize(kMambaOfSeeds).half_width, 4),
                        figure(summarize(kHarmonicOfSeeds).half_width, 4),
                        figure(to_transformer.half_width, 4),
                        figure(to_mamba.half_width, 4)});
  return table;
}

}  // namespace

std::vector<ReportTable> paper_tables(std::string_view experiment) {
  if (experiment == "crossover")
    return {by_length("paper-enwik8", "The paper's enwik8, equal budget", kEnwik8),
            by_length("paper-wikitext", "The paper's WikiText-103, equal budget", kWikiText)};
  if (experiment == "seeds") return {by_seed()};
  return {};
}

}  // namespace harmonic
