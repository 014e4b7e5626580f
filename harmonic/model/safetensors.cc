#include "harmonic/model/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <set>

#include "harmonic/base/checked.h"
#include "harmonic/base/fields.h"
#include "harmonic/base/half.h"
#include "harmonic/base/json.h"

namespace harmonic {
namespace {

static_assert(std::endian::native == std::endian::little, "files are mapped as they lie");

constexpr int64_t kLongestHeader = 100'000'000;  // the Hugging Face library's bound
constexpr size_t kMostDimensions = 16;
constexpr std::string_view kMetadata = "__metadata__";

struct TypeRow {
  StoredType type;
  std::string_view name;
  int64_t size;
};
constexpr TypeRow kTypes[] = {
    {StoredType::f64, "F64", 8}, {StoredType::f32, "F32", 4}, {StoredType::bf16, "BF16", 2},
    {StoredType::f16, "F16", 2}, {StoredType::i64, "I64", 8}, {StoredType::i32, "I32", 4},
    {StoredType::i8, "I8", 1},   {StoredType::u8, "U8", 1},
};

int64_t elements_of(std::span<const int64_t> shape, std::string_view what) {
  int64_t elements = 1;
  // A zero anywhere makes the product zero whatever the rest, so the rest could hide an overflow: it is
  // checked too.
  for (const int64_t size : shape) elements = checked_mul(elements, std::max<int64_t>(size, 1), what);
  return std::find(shape.begin(), shape.end(), 0) != shape.end() ? 0 : elements;
}

// Reads the header as a stream of events, so that its form is checked as it comes, duplicates are seen, and
// no nesting or number of names costs more than its length.
class HeaderReader {
 public:
  struct Found {
    StoredTensor tensor;
    std::optional<StoredType> type;
    std::optional<std::vector<int64_t>> shape, offsets;
  };
  using Tensors = std::map<std::string, Found, std::less<>>;

  HeaderReader(std::string file, Tensors& tensors, Metadata& metadata)
      : file_(std::move(file)), tensors_(tensors), metadata_(metadata) {}

  bool start_object(size_t) {
    if (++depth_ == 1) return true;
    if (depth_ == 2 && !list_) return true;
    wrong("an object");
  }
  bool end_object() {
    if (depth_ == 2) finish();
    --depth_;
    return true;
  }
  bool key(std::string& text) {
    if (depth_ == 1) {
      name_ = text;
      in_metadata_ = name_ == kMetadata;
      if (in_metadata_ ? seen_metadata_ : tensors_.contains(name_))
        fail("{}: \"{}\" stands twice", file_, name_);
      if (in_metadata_) {
        seen_metadata_ = true;
      } else {
        current_ = &tensors_[name_];
      }
      return true;
    }
    field_ = text;
    if (in_metadata_) {
      if (metadata_.contains(field_)) fail("{}: the metadata's \"{}\" stands twice", file_, field_);
      return true;
    }
    const bool twice = field_ == "dtype"          ? current_->type.has_value()
                       : field_ == "shape"        ? current_->shape.has_value()
                       : field_ == "data_offsets" ? current_->offsets.has_value()
                                                  : (wrong("an unknown key"), false);
    if (twice) fail("{}: tensor \"{}\": \"{}\" stands twice", file_, name_, field_);
    return true;
  }
  bool start_array(size_t) {
    if (depth_ != 2 || in_metadata_ || list_ || field_ == "dtype") wrong("a list");
    list_ = &(field_ == "shape" ? current_->shape : current_->offsets).emplace();
    return true;
  }
  bool end_array() {
    list_ = nullptr;
    return true;
  }
  bool number_unsigned(uint64_t number) {
    if (!list_) wrong("a number");
    if (list_->size() >= kMostDimensions)
      fail("{}: tensor \"{}\": more than {} numbers in {}", file_, name_, kMostDimensions, field_);
    list_->push_back(
        checked_narrow<int64_t>(number, fmt::format("{}: tensor \"{}\": {}", file_, name_, field_)));
    return true;
  }
  bool string(std::string& text) {
    if (depth_ == 2 && in_metadata_) {
      metadata_.emplace(field_, text);
      return true;
    }
    if (depth_ != 2 || list_ || field_ != "dtype") wrong("a text");
    const auto row =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeRow& r) { return r.name == text; });
    if (row == std::end(kTypes))
      fail("{}: tensor \"{}\" has dtype \"{}\"; expected F64, F32, BF16, F16, I64, I32, I8 or U8", file_,
           name_, text);
    current_->type = row->type;
    return true;
  }
  bool null() { wrong("null"); }
  bool boolean(bool) { wrong("a truth value"); }
  bool number_integer(int64_t) { wrong("a negative number"); }
  bool number_float(double, const std::string&) { wrong("a fraction, or a number too large"); }
  bool binary(nlohmann::json::binary_t&) { wrong("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) {
    fail("{}: the header is not valid JSON near its byte {}: {}", file_, position, error.what());
  }

 private:
  [[noreturn]] void wrong(std::string_view found) const {
    fail("{}: header: unexpected {}{}{}; expected name -> {{dtype, shape, data_offsets}}", file_, found,
         depth_ >= 1 ? " in \"" + name_ + "\"" : "", depth_ >= 2 ? ", \"" + field_ + "\"" : "");
  }

  void finish() {
    if (in_metadata_) return;
    const auto missing = [&](std::string_view key) {
      fail("{}: tensor \"{}\" has no {}", file_, name_, key);
    };
    if (!current_->type) missing("dtype");
    if (!current_->shape) missing("shape");
    if (!current_->offsets) missing("data_offsets");
    StoredTensor& tensor = current_->tensor;
    tensor.type = *current_->type;
    tensor.shape = std::move(*current_->shape);
    const std::string what = fmt::format("{}: tensor \"{}\": size", file_, name_);
    tensor.size = elements_of(tensor.shape, what);
    const int64_t bytes = checked_mul(tensor.size, size_of(tensor.type), what);
    const auto& offsets = *current_->offsets;
    if (offsets.size() != 2 || offsets[0] > offsets[1])
      fail("{}: tensor \"{}\": data_offsets are [{}]; expected [begin, end]", file_, name_,
           fmt::join(offsets, ", "));
    if (offsets[1] - offsets[0] != bytes)
      fail("{}: tensor \"{}\": {} of shape [{}] takes {} bytes; its data_offsets span {}", file_, name_,
           name_of(tensor.type), fmt::join(tensor.shape, ", "), bytes, offsets[1] - offsets[0]);
  }

  const std::string file_;
  Tensors& tensors_;
  Metadata& metadata_;
  int depth_ = 0;
  std::string name_, field_;
  bool in_metadata_ = false, seen_metadata_ = false;
  Found* current_ = nullptr;
  std::vector<int64_t>* list_ = nullptr;
};

// The offsets must cover the data from the first byte to the last, each byte once.
void check_cover(const HeaderReader::Tensors& tensors, int64_t size, std::string_view file) {
  std::vector<HeaderReader::Tensors::const_pointer> order;
  for (const auto& entry : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return *a->second.offsets < *b->second.offsets; });
  int64_t position = 0;
  for (const auto* entry : order) {
    const auto& offsets = *entry->second.offsets;
    if (offsets[0] != position)
      fail("{}: tensor \"{}\" begins at byte {} of the data; expected {}, right after the one before", file,
           entry->first, offsets[0], position);
    position = offsets[1];
    if (position > size)
      fail("{}: tensor \"{}\" ends at byte {} of the data, of which there are {}: the file was cut short",
           file, entry->first, position, size);
  }
  if (position != size) fail("{}: {} bytes of data; the header describes {}", file, size, position);
}

template <typename T, typename Convert>
void convert_each(const StoredTensor& tensor, float* out, Convert convert) {
  for (int64_t i = 0; i < tensor.size; ++i) {
    T element;
    std::memcpy(&element, tensor.bytes.data() + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    out[i] = convert(element);
  }
}

}  // namespace

std::string_view name_of(StoredType type) { return kTypes[static_cast<size_t>(type)].name; }
int64_t size_of(StoredType type) { return kTypes[static_cast<size_t>(type)].size; }

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path, MappedFile::Access access)
    : path_(path), file_(path, access) {
  read_head(file_.bytes());
}

SafetensorsFile::SafetensorsFile(const std::string& name, std::span<const uint8_t> bytes) : path_(name) {
  read_head(bytes);
}

void SafetensorsFile::read_head(std::span<const uint8_t> bytes) {
  const std::string name = path_.string();
  const auto total = static_cast<int64_t>(bytes.size());
  if (total < 8) fail("{}: {} bytes; a safetensors file has at least 10", name, total);
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  if (length > static_cast<uint64_t>(std::min(kLongestHeader, total - 8)))
    fail("{}: its header claims {} bytes of a file of {} (at most {}): not a safetensors file, or cut short",
         name, length, total, kLongestHeader);
  const auto header = static_cast<size_t>(length);
  if (header == 0 || bytes[8] != '{')
    fail("{}: not a safetensors file: its header does not begin with {{", name);

  HeaderReader::Tensors found;
  HeaderReader reader(name, found, metadata_);
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  nlohmann::json::sax_parse(text, text + header, &reader);
  const std::span<const uint8_t> data = bytes.subspan(8 + header);
  check_cover(found, static_cast<int64_t>(data.size()), name);
  for (auto& [key, entry] : found) {
    entry.tensor.bytes = data.subspan(static_cast<size_t>((*entry.offsets)[0]),
                                      static_cast<size_t>((*entry.offsets)[1] - (*entry.offsets)[0]));
    tensors_.emplace(key, std::move(entry.tensor));
  }
}

const StoredTensor& SafetensorsFile::at(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [key, tensor] : tensors_) names.push_back(key);
  fail("{}: has no tensor \"{}\"{}", path_.string(), name, did_you_mean(name, names));
}

void SafetensorsFile::read(std::string_view name, std::span<const int64_t> shape, float* out) const {
  const StoredTensor& tensor = at(name);
  if (!std::equal(shape.begin(), shape.end(), tensor.shape.begin(), tensor.shape.end()))
    fail("{}: tensor \"{}\" has shape [{}]; the configuration expects [{}]", path_.string(), name,
         fmt::join(tensor.shape, ", "), fmt::join(shape, ", "));
  switch (tensor.type) {
    case StoredType::f32:
      if (!tensor.bytes.empty()) std::memcpy(out, tensor.bytes.data(), tensor.bytes.size());
      return;
    case StoredType::f64:
      return convert_each<double>(tensor, out, [](double x) { return static_cast<float>(x); });
    case StoredType::bf16:
      return convert_each<uint16_t>(tensor, out, float_of_bf16);
    case StoredType::f16:
      return convert_each<uint16_t>(tensor, out, float_of_f16);
    default:
      fail("{}: tensor \"{}\" has dtype {}; a floating-point one was expected", path_.string(), name,
           name_of(tensor.type));
  }
}

SafetensorsHead safetensors_head(const std::string& file, const std::vector<SafetensorsEntry>& entries,
                                 Metadata metadata) {
  metadata.emplace("format", "pt");
  int64_t end = 0;
  // Written by hand: an ordered JSON object would search all its keys at each new one.
  const auto text_of = [](std::string_view text) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  };
  std::string header = fmt::format("{{{}:{{", text_of(kMetadata));
  for (bool first = true; const auto& [key, value] : metadata) {
    header += fmt::format("{}{}:{}", first ? "" : ",", text_of(key), text_of(value));
    first = false;
  }
  header += '}';
  std::set<std::string_view> names = {kMetadata};
  for (const SafetensorsEntry& entry : entries) {
    if (!names.insert(entry.name).second) fail("{}: two tensors would be named \"{}\"", file, entry.name);
    const std::string what = fmt::format("{}: tensor \"{}\": size", file, entry.name);
    for (const int64_t size : entry.shape) HARMONIC_ASSERT(size >= 0);
    const int64_t begin = end;
    end = checked_add(begin, checked_mul(elements_of(entry.shape, what), size_of(entry.type), what), what);
    header += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", text_of(entry.name),
                          name_of(entry.type), fmt::join(entry.shape, ","), begin, end);
  }
  header += '}';
  // Spaces to a multiple of 8, so that the data of a mapped file are aligned.
  header.resize(static_cast<size_t>(round_up(static_cast<int64_t>(header.size()), 8)), ' ');
  if (static_cast<int64_t>(header.size()) > kLongestHeader)
    fail("{}: a header of {} bytes; at most {} can be read back", file, header.size(), kLongestHeader);
  const uint64_t length = header.size();
  return {std::string(reinterpret_cast<const char*>(&length), sizeof length) + header, end};
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, const std::vector<Entry>& entries,
                                     Metadata metadata)
    : file_(path), name_(path.string()) {
  const SafetensorsHead head = safetensors_head(name_, entries, std::move(metadata));
  expected_ = head.data_bytes;
  file_.write(head.text);
}

void SafetensorsWriter::append(const void* data, int64_t size) {
  HARMONIC_ASSERT(size >= 0 && size <= expected_ - written_);
  file_.write(data, static_cast<size_t>(size));
  written_ += size;
}

void SafetensorsWriter::commit() {
  if (written_ != expected_)
    fail("{}: {} bytes of tensors were written; {} were announced", name_, written_, expected_);
  file_.commit();
}

}  // namespace harmonic
