#include "harmonic/model/weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "harmonic/base/fields.h"

namespace harmonic {
namespace {

StoredType stored_type_of(DType dtype) {
  HARMONIC_ASSERT(dtype == DType::f64 || dtype == DType::f32);
  return dtype == DType::f64 ? StoredType::f64 : StoredType::f32;
}

bool is_floating(StoredType type) {
  return type == StoredType::f64 || type == StoredType::f32 || type == StoredType::bf16 ||
         type == StoredType::f16;
}

void check_contents(const SafetensorsFile& file, std::span<const NamedTensor> tensors) {
  const std::string name = file.path().string();
  std::vector<std::string> expected_names;
  for (const NamedTensor& tensor : tensors) {
    expected_names.push_back(tensor.name);
    const auto found = file.tensors().find(tensor.name);
    if (found == file.tensors().end()) {
      std::vector<std::string> stored;
      for (const auto& entry : file.tensors()) stored.push_back(entry.first);
      fail("{}: expected a tensor \"{}\" of shape [{}], found none; config.json describes another model{}",
           name, tensor.name, fmt::join(tensor.shape, ", "), did_you_mean(tensor.name, stored));
    }
    const StoredTensor& stored = found->second;
    if (stored.shape != tensor.shape)
      fail("{}: tensor \"{}\": expected shape [{}], found [{}]; config.json describes another model", name,
           tensor.name, fmt::join(tensor.shape, ", "), fmt::join(stored.shape, ", "));
    if (!is_floating(stored.type))
      fail("{}: tensor \"{}\": expected F64, F32, BF16 or F16, found {}", name, tensor.name,
           name_of(stored.type));
  }
  if (file.tensors().size() == tensors.size()) return;
  std::sort(expected_names.begin(), expected_names.end());
  for (const auto& entry : file.tensors()) {
    if (!std::binary_search(expected_names.begin(), expected_names.end(), entry.first))
      fail("{}: a tensor \"{}\" that was not expected; config.json describes another model{}", name,
           entry.first, did_you_mean(entry.first, expected_names));
  }
}

void fill(const SafetensorsFile& file, const NamedTensor& tensor) {
  const StoredTensor& stored = file.at(tensor.name);
  if (stored.type == stored_type_of(tensor.values.dtype)) {
    std::memcpy(tensor.values.data, stored.bytes.data(), stored.bytes.size());
    return;
  }
  if (tensor.values.dtype == DType::f32) {
    file.read(tensor.name, tensor.shape, tensor.values.as<float>());
    return;
  }
  std::vector<float> floats(static_cast<size_t>(tensor.values.size()));
  file.read(tensor.name, tensor.shape, floats.data());
  std::copy(floats.begin(), floats.end(), tensor.values.as<double>());
}

}  // namespace

void save_tensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                  const Metadata& metadata) {
  std::vector<SafetensorsWriter::Entry> entries;
  for (const NamedTensor& tensor : tensors) {
    HARMONIC_ASSERT(tensor.values.contiguous());
    entries.push_back({tensor.name, stored_type_of(tensor.values.dtype), tensor.shape});
  }
  SafetensorsWriter writer(path, entries, metadata);
  for (const NamedTensor& tensor : tensors)
    writer.append(tensor.values.data, tensor.values.size() * size_of(tensor.values.dtype));
  writer.commit();
}

Metadata load_tensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors) {
  const SafetensorsFile file(path);
  check_contents(file, tensors);
  for (const NamedTensor& tensor : tensors) {
    fill(file, tensor);
    file.release(file.at(tensor.name));
  }
  return file.metadata();
}

std::vector<NamedTensor> tensors_of(const Parameters& parameters) {
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < parameters.size(); ++i)
    tensors.push_back({parameters[i].name, parameters[i].shape, parameters[i].value});
  return tensors;
}

void save_weights(const std::filesystem::path& path, const Parameters& parameters, const Metadata& metadata) {
  save_tensors(path, tensors_of(parameters), metadata);
}

Metadata load_weights(const std::filesystem::path& path, Parameters& parameters) {
  const auto file = std::make_shared<SafetensorsFile>(path, MappedFile::Access::change);
  const std::vector<NamedTensor> tensors = tensors_of(parameters);
  check_contents(*file, tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const StoredTensor& stored = file->at(tensors[i].name);
    const DType dtype = tensors[i].values.dtype;
    auto* data = const_cast<uint8_t*>(stored.bytes.data());  // of a map that may be changed
    if (parameters.may_borrow(i) && stored.type == stored_type_of(dtype) &&
        reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(size_of(dtype)) == 0) {
      parameters.borrow(i, data, file);
    } else {
      fill(*file, tensors[i]);
      file->release(stored);
    }
  }
  return file->metadata();
}

}  // namespace harmonic
