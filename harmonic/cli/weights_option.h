// --weights, of the commands that run a model.
#pragma once

#include <string>

#include "harmonic/cli/options.h"
#include "harmonic/model/model.h"
#include "harmonic/model/weight_format.h"

namespace harmonic {

class WeightsOption {
 public:
  void declare(Options& options) {
    options
        .add("--weights", &name_,
             "how matrices are kept: f32, as in the file; bf16 or int8 (a scale for each row), rounded when "
             "loaded: less memory is read for a token, at a small loss that harmonic eval measures")
        .one_of(kWeightFormats);
  }
  const std::string& name() const { return name_; }
  // Packs a loaded model so.
  void apply(Model& model, Context& context) const { model.pack(context, weight_format_of(name_)); }

 private:
  std::string name_ = "f32";
};

}  // namespace harmonic
