#include "harmonic/model/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"
#include "harmonic/base/files.h"

namespace harmonic {
namespace {

constexpr double kWidest = 1 << 20;

// Written into every config.json by other programs and without meaning here.
const std::vector<std::string> kIgnoredKeys = {"transformers_version", "torch_dtype", "dtype",
                                               "_name_or_path",        "auto_map",    "use_cache"};

void check_levels(const HarmonicConfig& c) {
  const int64_t levels = c.levels();
  if (levels < 1 || levels > HarmonicConfig::kMaxLevels)
    fail_usage("model.harmonic.strides = [{}]: expected 1 to {} of them, one a level",
               fmt::join(c.strides, ", "), HarmonicConfig::kMaxLevels);
  if (c.strides.front() != 1)
    fail_usage("model.harmonic.strides = [{}]: the first must be 1, every token", fmt::join(c.strides, ", "));
  for (size_t l = 1; l < c.strides.size(); ++l) {
    if (c.strides[l] <= c.strides[l - 1] || c.strides[l] % c.strides[l - 1] != 0)
      fail_usage(
          "model.harmonic.strides = [{}]: each must divide the next one, which is larger; {} does not divide "
          "{}",
          fmt::join(c.strides, ", "), c.strides[l - 1], c.strides[l]);
  }
}

void check_harmonic(const HarmonicConfig& c) {
  const int64_t levels = c.levels();
  const auto expect_count = [&](std::string_view key, const auto& list, int64_t expected,
                                std::string_view what) {
    if (static_cast<int64_t>(list.size()) != expected)
      fail_usage("model.harmonic.{} = [{}]: layout \"{}\" expects {} entries, {}", key, fmt::join(list, ", "),
                 c.layout, expected, what);
  };
  if (c.cell.size() != 1) expect_count("cell", c.cell, levels, "or one for all");
  if (c.layout == "flat") {
    if (c.taus.empty()) fail_usage("model.harmonic.taus = []: expected at least one");
    if (c.cells.size() != 1) expect_count("cells", c.cells, levels, "or one, the number of cells");
    if (c.cells.size() != 1 || c.cell.size() != 1) expect_count("taus", c.taus, levels, "one a level");
    if (c.flat_cells() < 1) fail_usage("model.harmonic.cells: expected at least one cell");
    return;
  }
  expect_count("taus", c.taus, levels, "one a level");
  if (c.share_cells) {
    if (c.cell.size() != 1)
      fail_usage(
          "model.harmonic.share_cells: levels that share cells have the same; cell = [{}] names one a level",
          fmt::join(c.cell, ", "));
    for (int64_t l = 1; l < levels && l < static_cast<int64_t>(c.cells.size()); ++l)
      if (c.cells[static_cast<size_t>(l)] > c.cells[0])
        fail_usage(
            "model.harmonic.cells = [{}]: with share_cells no slow level has more cells than the {} that it "
            "shares",
            fmt::join(c.cells, ", "), c.cells[0]);
  }
  if (c.layout == "levels") {
    expect_count("cells", c.cells, levels, "the number of cells on each level");
    for (const int64_t count : c.cells) {
      if (count < 1)
        fail_usage("model.harmonic.cells = [{}]: every level has at least one cell",
                   fmt::join(c.cells, ", "));
    }
  } else {
    expect_count("cells", c.cells, levels + 1,
                 "the number of cells before the slow levels, on each slow level, and after them");
    for (size_t i = 1; i + 1 < c.cells.size(); ++i) {
      if (c.cells[i] < 1)
        fail_usage("model.harmonic.cells = [{}]: every slow level has at least one cell",
                   fmt::join(c.cells, ", "));
    }
    if (c.cells.front() + c.cells.back() < 1)
      fail_usage("model.harmonic.cells = [{}]: at least one cell stands before or after the slow levels",
                 fmt::join(c.cells, ", "));
  }
}

void check_attention(const ModelConfig& c) {
  if (c.d_model % c.attention.n_heads != 0)
    fail_usage("model.attention.n_heads = {}: does not divide d_model = {}", c.attention.n_heads, c.d_model);
  if (c.attention.n_heads % c.attention.n_kv_heads != 0)
    fail_usage("model.attention.n_kv_heads = {}: does not divide n_heads = {}", c.attention.n_kv_heads,
               c.attention.n_heads);
  if (c.d_model / c.attention.n_heads % 2 != 0)
    fail_usage("model.attention.n_heads = {}: the width of a head, {}, must be even to be rotated",
               c.attention.n_heads, c.d_model / c.attention.n_heads);
  const RopeScaling& rope = c.attention.rope;
  if (rope.turns.size() != 2 || rope.turns[0] <= rope.turns[1])
    fail_usage("model.attention.rope_turns = [{}]: expected two numbers, the larger first",
               fmt::join(rope.turns, ", "));
  if (rope.kind == "none" && rope.factor != 1)
    fail_usage("model.attention.rope_factor = {}: has no meaning without rope_scaling", rope.factor);
  if (rope.kind == "yarn" && c.attention.rope_base <= 1)
    fail_usage("model.attention.rope_base = {}: rope_scaling = \"yarn\" takes one above 1",
               c.attention.rope_base);
  if (rope.kind == "dynamic" && c.d_model / c.attention.n_heads <= 2)
    fail_usage("model.attention.n_heads = {}: rope_scaling = \"dynamic\" takes heads wider than 2",
               c.attention.n_heads);
}

}  // namespace

const std::string& HarmonicConfig::cell_of_level(int64_t level) const {
  return cell.size() == 1 ? cell.front() : cell.at(static_cast<size_t>(level));
}

int64_t HarmonicConfig::flat_cells() const { return std::accumulate(cells.begin(), cells.end(), int64_t{0}); }

int64_t HarmonicConfig::flat_level(int64_t i) const {
  if (cells.size() != taus.size()) return i * static_cast<int64_t>(taus.size()) / flat_cells();
  int64_t level = 0;
  while (i >= cells.at(static_cast<size_t>(level))) i -= cells[static_cast<size_t>(level++)];
  return level;
}

std::vector<Field> ModelConfig::fields() {
  HarmonicConfig& h = harmonic;
  AttentionConfig& a = attention;
  return {
      Field("mixer", &mixer, "what mixes tokens; a list gives one a layer")
          .one_of({"harmonic", "attention", "mamba", "matrix"}),
      Field("d_model", &d_model, "width of the residual stream").range(1, kWidest),
      Field("n_layers", &n_layers, "number of layers").range(1, 4096),
      Field("ffn_multiple", &ffn_multiple, "SwiGLU width over d_model; 0 is none").range(0, 64),
      Field("tie_embeddings", &tie_embeddings, "one matrix for the embedding and the head"),
      Field("norm_epsilon", &norm_epsilon,
            "added to the mean square in the norms before mixers, ffn and head")
          .above(0, 1),
      Field("harmonic.layout", &h.layout, "how cells and levels are arranged")
          .one_of({"levels", "sandwich", "flat"}),
      Field("harmonic.cell", &h.cell, "kind of cell; a list gives one a level")
          .one_of({"decay", "selective"}),
      Field("harmonic.strides", &h.strides, "tokens a step of each level; each divides the next")
          .range(1, 1 << 24),
      Field("harmonic.taus", &h.taus, "timescale of each level in its own steps; flat: in tokens")
          .range(0.01, 1e9),
      Field("harmonic.d_state", &h.d_state, "state channels of a level; 0 is twice d_model")
          .range(0, kWidest),
      Field("harmonic.conv_width", &h.conv_width, "width of the causal convolution; 0 is none").range(0, 16),
      Field("harmonic.gate", &h.gate, "what the decay reads: the state's input or the level's")
          .one_of({"dense", "input"}),
      Field("harmonic.prediction_error", &h.prediction_error,
            "slow levels read the error of their prediction"),
      Field("harmonic.down_projection", &h.down_projection, "a matrix on what comes down from a slow level"),
      Field("harmonic.share_cells", &h.share_cells,
            "slow levels have the matrices of the last cells before them at token rate"),
      Field("harmonic.combine", &h.combine, "weights of the levels: learned, or gated too")
          .one_of({"static", "gated"}),
      Field("harmonic.cells", &h.cells, "cells on each level; sandwich: before, each slow level, after")
          .range(0, 1024),
      Field("attention.n_heads", &a.n_heads, "query heads").range(1, 65536),
      Field("attention.n_kv_heads", &a.n_kv_heads, "key and value heads; divides n_heads").range(1, 65536),
      Field("attention.rope_base", &a.rope_base, "base of the rotary frequencies").above(0, 1e12),
      Field("attention.rope_scaling", &a.rope.kind, "how rotary positions reach beyond the trained context")
          .one_of({"none", "linear", "dynamic", "yarn", "llama3"}),
      Field("attention.rope_factor", &a.rope.factor, "how many times as far they reach").range(1, 1e6),
      Field("attention.rope_context", &a.rope.context,
            "the trained context in tokens; 0 is attention.context")
          .range(0, 1 << 30),
      Field("attention.rope_turns", &a.rope.turns,
            "yarn, llama3: turns in the trained context above which a frequency stays, below which it is "
            "divided")
          .above(0, 1e6),
      Field("attention.rope_attention", &a.rope.attention,
            "yarn: factor of queries and keys; 0 is 1 + 0.1 ln(rope_factor)")
          .range(0, 100),
      Field("attention.window", &a.window, "tokens that attention looks back; 0 is all").range(0, 1 << 30),
      Field("attention.context", &a.context, "tokens of the longest text; with a window it may be any length")
          .range(1, 1 << 30),
      Field("matrix.features", &matrix.features,
            "of a head's queries and keys, an even number; 0 is twice the head's width")
          .range(0, 4096),
      Field("matrix.rope_wavelength", &matrix.rope_wavelength,
            "tokens; heads turn by no wave longer than this, 0 by none")
          .range(0, 1 << 30),
  };
}

void ModelConfig::validate() const {
  ModelConfig copy = *this;
  check_fields(copy.fields(), "model");
  if (vocab_size < 1 || vocab_size > int64_t{1} << 24)
    fail_usage("vocab_size = {}: expected 1 to {}", vocab_size, int64_t{1} << 24);
  if (eot_token_id < 0 || eot_token_id >= vocab_size)
    fail_usage("eot_token_id = {}: expected a token of the vocabulary, 0 to {}", eot_token_id,
               vocab_size - 1);
  if (bos() < 0 || bos() >= vocab_size)
    fail_usage("bos_token_id = {}: expected a token of the vocabulary, 0 to {}", bos(), vocab_size - 1);
  if (mixer.empty() || (mixer.size() != 1 && static_cast<int64_t>(mixer.size()) != n_layers))
    fail_usage("model.mixer: expected one for all layers or {} of them, one a layer; found {}", n_layers,
               mixer.size());
  if (uses("harmonic") || uses("matrix")) check_levels(harmonic);
  if (uses("harmonic")) check_harmonic(harmonic);
  if (uses("attention") || uses("matrix")) check_attention(*this);
  if (uses("matrix") && harmonic.taus.size() != harmonic.strides.size())
    fail_usage("model.harmonic.taus = [{}]: mixer \"matrix\" expects {} entries, one a level",
               fmt::join(harmonic.taus, ", "), harmonic.strides.size());
  if (uses("matrix") && matrix.features % 2 != 0)
    fail_usage("model.matrix.features = {}: expected an even number, each feature and its opposite",
               matrix.features);
}

bool ModelConfig::uses(std::string_view kind) const {
  return std::find(mixer.begin(), mixer.end(), kind) != mixer.end();
}

int64_t ModelConfig::d_ffn() const {
  return round_up(static_cast<int64_t>(std::ceil(ffn_multiple * static_cast<double>(d_model))), 8);
}

std::string ModelConfig::to_json() const {
  ModelConfig copy = *this;
  Value table{Value::Table{}, {}};
  table.at("model_type").data = "harmonic";
  table.at("architectures").data = Value::List{Value{"HarmonicForCausalLM", {}}};
  table.at("vocab_size").data = vocab_size;
  table.at("eot_token_id").data = eot_token_id;
  if (bos() != eot_token_id) table.at("bos_token_id").data = bos();
  for (const Field& field : copy.fields()) table.at(field.key) = value_of(field);
  return harmonic::to_json(table);
}

ModelConfig ModelConfig::from_json(std::string_view text, std::string_view source) {
  const Value file = parse_json_value(text, source);
  if (!file.table()) fail("{}: expected a JSON object with the configuration of a model", source);
  const Value* type = file.find("model_type");
  if (!type || inline_text(*type) != "\"harmonic\"")
    fail("{}: model_type is {}; \"harmonic\" was expected; harmonic convert makes such a model of a Llama",
         source, type ? inline_text(*type) : "missing");
  ModelConfig config;
  const std::vector<Field> own = {Field("vocab_size", &config.vocab_size, "tokens of the vocabulary"),
                                  Field("eot_token_id", &config.eot_token_id, "the end-of-text token")};
  for (const Field& field : own) {
    const Value* value = file.find(field.key);
    if (!value) fail("{}: the key \"{}\" is missing", source, field.key);
    set_field(field, *value, field.key);
  }
  if (const Value* value = file.find("bos_token_id")) {
    int64_t bos = 0;
    set_field(Field("bos_token_id", &bos, "the token that begins texts"), *value, "bos_token_id");
    config.bos_token_id = bos;
  }
  Value rest{Value::Table{}, file.where};
  for (const auto& [key, value] : *file.table()) {
    const bool known = key == "model_type" || key == "architectures" || key == "vocab_size" ||
                       key == "eot_token_id" || key == "bos_token_id" ||
                       std::find(kIgnoredKeys.begin(), kIgnoredKeys.end(), key) != kIgnoredKeys.end();
    if (!known) rest.at(key) = value;
  }
  set_fields(config.fields(), rest, "");
  try {
    config.validate();
  } catch (const Error& error) {
    fail("{}: {}", source, error.what());
  }
  return config;
}

ModelConfig load_model_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  return ModelConfig::from_json(read_file(path, 1 << 20), path.string());
}

}  // namespace harmonic
