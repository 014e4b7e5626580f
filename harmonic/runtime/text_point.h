// A place in a text, as a value: all that is needed to go on from there. Copy it to fork the text.
#pragma once

#include <string>
#include <string_view>

#include "harmonic/model/model.h"

namespace harmonic {

struct TextPoint {
  State state;             // after every token of the document but `pending`
  int32_t pending = 0;     // the last token
  uint64_t earlier = 0;    // tokens of earlier documents
  std::string unfinished;  // the bytes of a character that the text ends within (Utf8Stream::held())

  // Tokens so far, those of earlier documents and each leading one included: the index of the next one, for
  // a sampler.
  uint64_t length() const { return earlier + state.position() + 1; }
  // Whether nothing stands in the document but the token that leads it.
  bool at_beginning() const { return state.position() == 0; }
  bool operator==(const TextPoint&) const = default;
};

// Positions beyond this are nobody's: arithmetic on them could overflow.
inline constexpr uint64_t kFarthestPosition = uint64_t{1} << 60;

// Before the first token of a first document: nothing but the token that leads it.
TextPoint beginning_of_text(const Model& model);
// The document ends here, and another begins.
void begin_document(const Model& model, TextPoint& point);

// A hash of the exact weights and configuration: states are of use to no other model. Reads every weight.
std::string identity_of(const Model& model);

// Throws Error, naming `source`, unless the state could be one of this model: of its size, at a position
// that can be, every number finite.
void check_state(const Model& model, const State& state, const std::string& source);
// Throws Error, naming `source`, unless these bytes (at most 3) begin a character, or are none.
void check_unfinished(std::string_view bytes, const std::string& source);

// A point as bytes, and back. They name no model and carry no checksum: whoever keeps them does that.
// decode_point throws Error, naming `source`, for anything but a point that the model could be at.
std::string encode_point(const TextPoint& point);
TextPoint decode_point(const Model& model, std::string_view bytes, const std::string& source);

}  // namespace harmonic
