#include "harmonic/convert/gguf_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"
#include "harmonic/base/utf8.h"

namespace harmonic {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read as they lie");

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kVersion = 3;
constexpr int64_t kLongestName = 1024;  // bytes of a key or a tensor's name; ggml's own bounds are lower
constexpr int64_t kMostDimensions = 4;
constexpr int64_t kLeastAlignment = 8, kMostAlignment = 1 << 16, kUsualAlignment = 32;

enum class Kind : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, list, u64, i64, f64 };

// Takes numbers and texts off the beginning of what is left of the header; every length is checked before
// use.
class HeaderReader {
 public:
  HeaderReader(std::span<const uint8_t> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  int64_t position() const { return position_; }

  template <typename T>
  T number(std::string_view what) {
    T number;
    std::memcpy(&number, take(sizeof number, what), sizeof number);
    return number;
  }
  // A count of things of which each takes at least `least` bytes.
  int64_t count(std::string_view what, int64_t least) {
    const auto count = number<uint64_t>(what);
    if (count > static_cast<uint64_t>(left() / least))
      damaged(fmt::format("{} is {}, for which the {} bytes that follow are too few", what, count, left()));
    return static_cast<int64_t>(count);
  }
  std::string_view text(std::string_view what) {
    const int64_t length = count(fmt::format("the length of {}", what), 1);
    return {reinterpret_cast<const char*>(take(length, what)), static_cast<size_t>(length)};
  }
  // A text that is shown to people.
  std::string_view name(std::string_view what) {
    const std::string_view name = text(what);
    const bool shown = std::none_of(name.begin(), name.end(), [](char c) { return c >= 0 && c < ' '; });
    if (name.empty() || static_cast<int64_t>(name.size()) > kLongestName || !is_utf8(name) || !shown)
      damaged(fmt::format("{} has {} bytes; expected UTF-8 of 1 to {}, without control characters", what,
                          name.size(), kLongestName));
    return name;
  }

  [[noreturn]] void damaged(std::string_view found) const {
    fail("{}: not a sound GGUF file: {}; get the file again", name_, found);
  }

 private:
  int64_t left() const { return static_cast<int64_t>(bytes_.size()) - position_; }
  const uint8_t* take(int64_t size, std::string_view what) {
    if (left() < size)
      damaged(fmt::format("it ends at byte {}, within {}, which takes {} bytes from {} on", bytes_.size(),
                          what, size, position_));
    const uint8_t* here = bytes_.data() + position_;
    position_ += size;
    return here;
  }

  std::span<const uint8_t> bytes_;
  std::string name_;
  int64_t position_ = 0;
};

// What a value of one kind becomes, for single values and for the elements of lists alike.
template <typename Use>
void with_kind(Kind kind, const HeaderReader& reader, const std::string& what, const Use& use) {
  const auto integer = [&]<typename T>(T) {
    use(
        [&](HeaderReader& r) {
          const T number = r.number<T>(what);
          if (!std::in_range<int64_t>(number))
            r.damaged(fmt::format("{} is {}; expected less than 2^63", what, number));
          return static_cast<int64_t>(number);
        },
        static_cast<int64_t>(sizeof(T)));
  };
  switch (kind) {
    case Kind::u8:
      return integer(uint8_t{});
    case Kind::i8:
      return integer(int8_t{});
    case Kind::u16:
      return integer(uint16_t{});
    case Kind::i16:
      return integer(int16_t{});
    case Kind::u32:
      return integer(uint32_t{});
    case Kind::i32:
      return integer(int32_t{});
    case Kind::u64:
      return integer(uint64_t{});
    case Kind::i64:
      return integer(int64_t{});
    case Kind::f32:
      return use([&](HeaderReader& r) { return static_cast<double>(r.number<float>(what)); }, 4);
    case Kind::f64:
      return use([&](HeaderReader& r) { return r.number<double>(what); }, 8);
    case Kind::boolean:
      return use(
          [&](HeaderReader& r) {
            const auto byte = r.number<uint8_t>(what);
            if (byte > 1) r.damaged(fmt::format("{} is {}; a truth value is 0 or 1", what, byte));
            return byte == 1;
          },
          1);
    case Kind::text:
      return use([&](HeaderReader& r) { return r.text(what); }, 8);
    default:
      reader.damaged(fmt::format("{} is of kind {}; there are 0 to 12, and a list holds no lists", what,
                                 static_cast<uint32_t>(kind)));
  }
}

GgufValue read_value(HeaderReader& reader, const std::string& what) {
  GgufValue value;
  const auto kind = static_cast<Kind>(reader.number<uint32_t>(what));
  if (kind != Kind::list) {
    with_kind(kind, reader, what, [&](const auto& read, int64_t) { value = read(reader); });
    return value;
  }
  const auto element = static_cast<Kind>(reader.number<uint32_t>(what));
  with_kind(element, reader, what, [&](const auto& read, int64_t least) {
    const int64_t count = reader.count(fmt::format("the length of {}", what), least);
    std::vector<std::decay_t<decltype(read(reader))>> list;
    list.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) list.push_back(read(reader));
    value = GgufList(std::move(list));
  });
  return value;
}

struct TensorRecord {
  GgufTensor tensor;
  int64_t bytes = 0;
  uint64_t offset = 0;
};

TensorRecord read_tensor(HeaderReader& reader, std::string_view name, const std::string& file) {
  const std::string what = fmt::format("tensor \"{}\"", name);
  TensorRecord record;
  GgufTensor& tensor = record.tensor;
  const auto dimensions = reader.number<uint32_t>(what);
  if (dimensions < 1 || dimensions > kMostDimensions)
    reader.damaged(fmt::format("{} has {} dimensions; expected 1 to {}", what, dimensions, kMostDimensions));
  tensor.shape.resize(dimensions);
  const std::string size = fmt::format("{}: {}: size", file, what);
  for (size_t i = dimensions; i-- > 0;) {
    const auto length = reader.number<uint64_t>(what);
    if (length < 1 || length > uint64_t{1} << 48)
      reader.damaged(fmt::format("{} is {} long in a dimension; expected 1 to 2^48", what, length));
    tensor.shape[i] = static_cast<int64_t>(length);
    tensor.size = checked_mul(tensor.size, tensor.shape[i], size);
  }
  tensor.type = &gguf_type(reader.number<uint32_t>(what), fmt::format("{}: {}", file, what));
  if (tensor.shape.back() % tensor.type->block != 0)
    reader.damaged(fmt::format("{} is of type {} and its rows have {} numbers, which is no multiple of {}",
                               what, tensor.type->name, tensor.shape.back(), tensor.type->block));
  record.bytes = checked_mul(tensor.size / tensor.type->block, tensor.type->bytes, size);
  record.offset = reader.number<uint64_t>(what);
  return record;
}

}  // namespace

bool GgufFile::is_one(std::span<const uint8_t> beginning) {
  return beginning.size() >= kMagic.size() &&
         std::memcmp(beginning.data(), kMagic.data(), kMagic.size()) == 0;
}

GgufFile::GgufFile(const std::filesystem::path& path) : name_(path.string()), file_(path) {
  const std::span<const uint8_t> bytes = file_.bytes();
  HeaderReader reader(bytes, name_);
  if (!is_one(bytes)) fail("{}: not a GGUF file: it does not begin with \"{}\"", name_, kMagic);
  reader.number<uint32_t>("the magic");
  const auto version = reader.number<uint32_t>("the version");
  if (version == __builtin_bswap32(kVersion))
    fail("{}: a big-endian GGUF file; only little-endian ones are read", name_);
  if (version != kVersion)
    fail("{}: a GGUF file of version {}; only version {} is read", name_, version, kVersion);
  // A tensor takes a name's length, the count of dimensions, one of them, a type and an offset; a value a
  // key's length, a kind and a byte.
  const int64_t tensors = reader.count("the number of tensors", 8 + 4 + 8 + 4 + 8);
  const int64_t values = reader.count("the number of values", 8 + 4 + 1);
  for (int64_t i = 0; i < values; ++i) {
    const std::string_view key = reader.name(fmt::format("key {}", i));
    if (!values_.emplace(key, read_value(reader, fmt::format("the value of {}", key))).second)
      reader.damaged(fmt::format("the key {} stands twice", key));
  }

  int64_t alignment = kUsualAlignment;
  if (const auto found = values_.find("general.alignment"); found != values_.end()) {
    const int64_t* number = std::get_if<int64_t>(&found->second);
    alignment = number ? *number : 0;
    if (alignment < kLeastAlignment || alignment > kMostAlignment ||
        !std::has_single_bit(static_cast<uint64_t>(alignment)))
      reader.damaged(
          fmt::format("general.alignment is no power of two from {} to {}", kLeastAlignment, kMostAlignment));
  }
  std::vector<std::pair<std::string_view, TensorRecord>> records;
  for (int64_t i = 0; i < tensors; ++i) {
    const std::string_view name = reader.name(fmt::format("the name of tensor {}", i));
    records.emplace_back(name, read_tensor(reader, name, name_));
  }

  // Tensors lie one after the other without gaps but for the alignment.
  const auto total = static_cast<int64_t>(bytes.size());
  const int64_t data = round_up(reader.position(), alignment);
  int64_t end = 0;  // from `data` on
  for (auto& [name, record] : records) {
    const int64_t begin = round_up(end, alignment);
    if (record.offset != static_cast<uint64_t>(begin))
      reader.damaged(
          fmt::format("tensor \"{}\" is said to be at byte {} of the data; expected {}, after the one before",
                      name, record.offset, begin));
    end = checked_add(begin, record.bytes, name_);
    if (end > total - data)
      reader.damaged(fmt::format("tensor \"{}\" ends at byte {} of {}: the file was cut short", name,
                                 checked_add(data, end, name_), total));
    record.tensor.bytes = bytes.subspan(static_cast<size_t>(data + begin), static_cast<size_t>(record.bytes));
    if (!tensors_.emplace(name, std::move(record.tensor)).second)
      reader.damaged(fmt::format("two tensors are named \"{}\"", name));
  }
  if (total > data + round_up(end, alignment))
    reader.damaged(fmt::format("{} bytes follow its last tensor", total - data - end));
}

}  // namespace harmonic
