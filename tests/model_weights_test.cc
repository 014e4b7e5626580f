#include "harmonic/model/weights.h"

#include <gtest/gtest.h>

#include "tests/data_fixture.h"

namespace harmonic {
namespace {

class Weights : public DataTest {
 protected:
  static void declare(Parameters& parameters, DType dtype, bool trained = false) {
    parameters.add("embed.weight", {7, 3}, Role::embedding, Initial::uniform(1));
    parameters.add("conv.weight", {5, 1, 4}, Role::vector, Initial::uniform(1));
    parameters.add("skip", {5}, Role::vector, Initial::uniform(1));
    parameters.allocate(dtype == DType::f64 ? reference_backend() : cpu_backend(), trained);
    parameters.initialise(1);
  }
  // A file of f32 tensors of zeros with these names and shapes.
  void write(const std::vector<SafetensorsWriter::Entry>& entries) const {
    SafetensorsWriter writer(path("m.safetensors"), entries);
    for (const auto& entry : entries) {
      int64_t size = size_of(entry.type);
      for (const int64_t extent : entry.shape) size *= extent;
      writer.append(std::string(static_cast<size_t>(size), '\0').data(), size);
    }
    writer.commit();
  }
  std::string error() const {
    Parameters parameters;
    declare(parameters, DType::f32);
    const std::string before = parameters.hash();
    const std::string message = error_of([&] { load_weights(path("m.safetensors"), parameters); });
    EXPECT_EQ(parameters.hash(), before) << "a refused file must leave the parameters as they were";
    EXPECT_NE(message.find(path("m.safetensors")), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  }
};

TEST_F(Weights, SurviveSavingAndLoadingToTheBit) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    Parameters saved, loaded;
    declare(saved, dtype);
    declare(loaded, dtype);
    loaded.initialise(2);
    ASSERT_NE(saved.hash(), loaded.hash());
    save_weights(path("m.safetensors"), saved, {{"made", "here"}});
    EXPECT_EQ(load_weights(path("m.safetensors"), loaded).at("made"), "here");
    EXPECT_EQ(saved.hash(), loaded.hash());
  }
}

TEST_F(Weights, OfAnotherTypeAreConverted) {
  Parameters doubles, floats;
  declare(doubles, DType::f64);
  declare(floats, DType::f32);
  const std::string as_made = floats.hash();
  save_weights(path("m.safetensors"), doubles);
  floats.initialise(2);
  load_weights(path("m.safetensors"), floats);
  EXPECT_EQ(floats.hash(), as_made);
  save_weights(path("m.safetensors"), floats);
  load_weights(path("m.safetensors"), doubles);
  EXPECT_EQ(doubles[0].value.as<double>()[0], static_cast<double>(floats[0].value.as<float>()[0]));
}

TEST_F(Weights, MatricesThatAreNotTrainedStayInTheFileWhichNothingChanges) {
  Parameters saved, loaded;
  declare(saved, DType::f32);
  declare(loaded, DType::f32);
  const void *embedding = loaded[0].value.data, *convolution = loaded[1].value.data;
  save_weights(path("m.safetensors"), saved);
  load_weights(path("m.safetensors"), loaded);
  EXPECT_NE(loaded[0].value.data, embedding);
  EXPECT_EQ(loaded[1].value.data, convolution) << "a vector is never dropped: the file could not be either";

  loaded[0].value.as<float>()[0] += 1;
  EXPECT_NE(loaded.hash(), saved.hash());
  Parameters again;
  declare(again, DType::f32);
  load_weights(path("m.safetensors"), again);
  EXPECT_EQ(again.hash(), saved.hash()) << "what is written to a borrowed matrix is its own";

  saved.initialise(2);
  save_weights(path("m.safetensors"), saved);
  EXPECT_NE(again.hash(), saved.hash())
      << "a file of the same name takes nothing from a model that is loaded";
  load_weights(path("m.safetensors"), again);
  EXPECT_EQ(again.hash(), saved.hash());
}

TEST_F(Weights, OfATrainedModelAreItsOwn) {
  Parameters saved, trained;
  declare(saved, DType::f32);
  declare(trained, DType::f32, true);
  const void* embedding = trained[0].value.data;
  save_weights(path("m.safetensors"), saved);
  load_weights(path("m.safetensors"), trained);
  EXPECT_EQ(trained[0].value.data, embedding);
  EXPECT_EQ(trained.hash(), saved.hash());
}

TEST_F(Weights, AMissingTensorIsNamedWithItsShape) {
  write({{"embed.weight", StoredType::f32, {7, 3}}, {"conv.weight", StoredType::f32, {5, 1, 4}}});
  EXPECT_NE(error().find("\"skip\" of shape [5]"), std::string::npos) << error();
}

TEST_F(Weights, AnotherShapeIsNamedBesideTheExpectedOne) {
  write({{"embed.weight", StoredType::f32, {3, 7}},
         {"conv.weight", StoredType::f32, {5, 1, 4}},
         {"skip", StoredType::f32, {5}}});
  EXPECT_NE(error().find("expected shape [7, 3], found [3, 7]"), std::string::npos) << error();
}

TEST_F(Weights, ATensorTooManyIsRefused) {
  write({{"embed.weight", StoredType::f32, {7, 3}},
         {"conv.weight", StoredType::f32, {5, 1, 4}},
         {"skip", StoredType::f32, {5}},
         {"skip2", StoredType::f32, {5}}});
  EXPECT_NE(error().find("\"skip2\""), std::string::npos) << error();
}

TEST_F(Weights, IntegersAreRefused) {
  write({{"embed.weight", StoredType::f32, {7, 3}},
         {"conv.weight", StoredType::f32, {5, 1, 4}},
         {"skip", StoredType::i32, {5}}});
  EXPECT_NE(error().find("found I32"), std::string::npos) << error();
}

}  // namespace
}  // namespace harmonic
