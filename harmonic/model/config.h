// model: config, parameters by name, State, the decoder and its mixers, the files of a model folder.
//
// The configuration of a model: the keys of [model] in a run's TOML and of config.json. fields() is the one
// table that the TOML keys, the flags, --help, config.json and the documentation come from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/base/fields.h"

namespace harmonic {

struct HarmonicConfig {
  static constexpr int64_t kMaxLevels = 8;

  std::string layout = "levels";              // "levels", "sandwich" or "flat"
  std::vector<std::string> cell = {"decay"};  // "decay" or "selective"; one for all, or one a level
  std::vector<int64_t> strides = {1, 4, 16};  // in tokens; the first is 1, each divides the next
  std::vector<double> taus = {4, 32, 128};    // in each level's own steps ("flat": in tokens)
  int64_t d_state = 0;                        // N, a level; 0 is 2 x d_model
  int64_t conv_width = 4;                     // K; 0 leaves the convolution out
  std::string gate = "dense";                 // "dense" or "input"
  bool prediction_error = true;
  bool down_projection = true;
  bool share_cells = false;  // slow levels have the matrices of the last cells of level 1, "before" them
  std::string combine = "static";          // "static" or "gated"
  std::vector<int64_t> cells = {1, 1, 1};  // on each level; "sandwich": before, level 2, level 3, after

  int64_t levels() const { return static_cast<int64_t>(strides.size()); }
  // The cell of level l = 0, 1, ...; both cells stacks of "sandwich" at token rate are of level 0.
  const std::string& cell_of_level(int64_t level) const;
  // "flat" only: the number of cells in the stack, and what the i-th has. With one count for each tau the
  // cells follow the levels they come from; otherwise the taus are spread evenly over the stack.
  int64_t flat_cells() const;
  int64_t flat_level(int64_t i) const;
};

// How rotary positions are stretched over longer texts than a model was trained for (rotary_frequencies.h).
struct RopeScaling {
  std::string kind = "none";  // or "linear", "dynamic", "yarn", "llama3"
  double factor = 1;
  int64_t context = 0;  // tokens of the texts before; 0 is attention.context
  // yarn, llama3: frequencies that turn more often than the first within that context stay, those that turn
  // less often than the second are divided by the factor.
  std::vector<double> turns = {32, 1};
  double attention = 0;  // yarn: what queries and keys are multiplied by; 0 is 1 + 0.1 ln(factor)
};

struct AttentionConfig {
  int64_t n_heads = 4;
  int64_t n_kv_heads = 4;
  double rope_base = 10000.0;
  RopeScaling rope = {};
  int64_t window = 0;  // 0 is none
  int64_t context = 1024;

  // Tokens whose keys and values a state holds.
  int64_t cached_tokens() const { return window > 0 ? window : context; }
};

// The mixer "matrix": attention's heads with a state of constant size. Its levels have the strides, taus and
// the convolution of HarmonicConfig, its heads and its rotation are AttentionConfig's.
struct MatrixConfig {
  int64_t features = 0;         // of a head's queries and keys, even; 0 is twice the head's width
  int64_t rope_wavelength = 0;  // tokens; frequencies of longer waves do not turn: 0 is none at all
  // Of an evaluation that stretches attention's positions, and no setting: the rotation that stays as it was.
  std::optional<AttentionConfig> rotation = std::nullopt;
};

struct ModelConfig {
  int64_t vocab_size = 256;                       // from the tokenizer
  int64_t eot_token_id = 0;                       // from the tokenizer
  std::optional<int64_t> bos_token_id;            // from the tokenizer, where another token begins texts
  std::vector<std::string> mixer = {"harmonic"};  // one for all layers, or one a layer
  int64_t d_model = 256;
  int64_t n_layers = 1;
  double ffn_multiple = 0.0;  // SwiGLU width over d_model; 0 is none
  bool tie_embeddings = false;
  double norm_epsilon = 1e-5;  // of the decoder's norms; mixers' own have 1e-5
  HarmonicConfig harmonic;
  AttentionConfig attention;
  MatrixConfig matrix;

  // The fields of [model], bound to this object; vocab_size, eot_token_id and bos_token_id are not among
  // them.
  std::vector<Field> fields();
  // Throws Error (usage) naming the key, its value and what would do.
  void validate() const;

  int64_t bos() const { return bos_token_id.value_or(eot_token_id); }
  bool uses(std::string_view kind) const;  // whether a layer's mixer is of that kind
  // Tokens that a text may have at most; 0 is any number.
  int64_t longest_text() const { return uses("attention") && attention.window == 0 ? attention.context : 0; }
  const std::string& mixer_of_layer(int64_t layer) const {
    return mixer.size() == 1 ? mixer.front() : mixer.at(static_cast<size_t>(layer));
  }
  int64_t head_width() const { return d_model / attention.n_heads; }
  int64_t matrix_features() const { return matrix.features > 0 ? matrix.features : 2 * head_width(); }
  int64_t d_state() const { return harmonic.d_state > 0 ? harmonic.d_state : 2 * d_model; }
  // SwiGLU width: ffn_multiple x d_model rounded up to a multiple of 8; 0 is none.
  int64_t d_ffn() const;

  // The content of a config.json: every field, defaults too, and model_type, architectures, vocab_size,
  // eot_token_id, and bos_token_id where it is another.
  std::string to_json() const;
  // Reads that back; `source` names the text. Keys that are not of this program are errors, but for the ones
  // that the Hugging Face library adds to every file. Validated. Throws Error.
  static ModelConfig from_json(std::string_view text, std::string_view source);
};

// The config.json of a model folder. Throws Error naming the file.
ModelConfig load_model_config(const std::filesystem::path& folder);

}  // namespace harmonic
