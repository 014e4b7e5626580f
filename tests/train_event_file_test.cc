// TensorBoard's files, read by the letter of their formats.
#include "harmonic/train/event_file.h"

#include <cstring>
#include <map>

#include "train_fixture.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0);
  }
  return ~crc;
}

template <typename T>
T take(std::string_view& bytes) {
  T number;
  EXPECT_GE(bytes.size(), sizeof number);
  std::memcpy(&number, bytes.data(), sizeof number);
  bytes.remove_prefix(sizeof number);
  return number;
}

// The data of the records; each must have its two checksums.
std::vector<std::string> records_of(std::string_view bytes) {
  const auto masked = [](std::string_view data) {
    const uint32_t crc = crc32c(data);
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
  };
  std::vector<std::string> records;
  while (!bytes.empty()) {
    const std::string_view head = bytes.substr(0, 8);
    const auto size = take<uint64_t>(bytes);
    EXPECT_EQ(take<uint32_t>(bytes), masked(head));
    EXPECT_LE(size, bytes.size());
    records.emplace_back(bytes.substr(0, size));
    bytes.remove_prefix(size);
    EXPECT_EQ(take<uint32_t>(bytes), masked(records.back()));
  }
  return records;
}

// A message's fields: number -> content, of a varint or a fixed one its bytes.
std::map<int, std::string> fields_of(std::string_view message) {
  const auto varint = [&] {
    uint64_t number = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = take<uint8_t>(message);
      number |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return number;
    }
  };
  std::map<int, std::string> fields;
  while (!message.empty()) {
    const uint64_t key = varint();
    std::string& content = fields[static_cast<int>(key >> 3)];
    if ((key & 7) == 0) {
      content = std::to_string(varint());
      continue;
    }
    const uint64_t size = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : varint();
    content = message.substr(0, size);
    message.remove_prefix(size);
  }
  return fields;
}

struct Scalar {
  std::string tag, step;
  float value = 0;
};

class EventFiles : public DataTest {
 protected:
  std::vector<std::string> events() const {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(folder_))
      if (entry.path().filename().string().starts_with("events.out.tfevents.")) paths.push_back(entry.path());
    EXPECT_EQ(paths.size(), 1u);
    return records_of(read_file(paths.at(0)));
  }
  static Scalar scalar_of(const std::string& event) {
    std::map<int, std::string> fields = fields_of(event);
    std::map<int, std::string> value = fields_of(fields_of(fields[5])[1]);
    Scalar scalar{value[1], fields[2], 0};
    std::memcpy(&scalar.value, value[2].data(), 4);
    return scalar;
  }
};

TEST_F(EventFiles, HoldWhatWasGivenInRecordsWithChecksums) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);  // the check value of CRC-32C
  {
    EventFile file(folder_, 0);
    file.scalar("train/loss", 3, 1.5);
    file.scalar("valid/bits_per_byte", 70000, -2.25);
  }
  const std::vector<std::string> found = events();
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(fields_of(found[0])[3], "brain.Event:2");
  const Scalar loss = scalar_of(found[1]), bits = scalar_of(found[2]);
  EXPECT_EQ(loss.tag, "train/loss");
  EXPECT_EQ(loss.step, "3");
  EXPECT_EQ(loss.value, 1.5f);
  EXPECT_EQ(bits.tag, "valid/bits_per_byte");
  EXPECT_EQ(bits.step, "70000");
  EXPECT_EQ(bits.value, -2.25f);
}

TEST_F(EventFiles, OfAResumedRunVoidTheStepsThatAreTakenAgain) {
  EventFile file(folder_, 40);
  std::map<int, std::string> restart = fields_of(events().at(1));
  EXPECT_EQ(restart[2], "41");
  EXPECT_EQ(fields_of(restart[7])[1], "1");  // SessionLog.START
}

TEST_F(EventFiles, AreWrittenByARunThatAsksForThem) {
  RunConfig config = small_run();
  config.train.eval_every = 6;
  config.train.tensorboard = true;
  SmallRun run(config, folder_);
  run.trainer.run();
  std::map<std::string, int> tags;
  for (const std::string& event : events())
    if (fields_of(event).count(5)) ++tags[scalar_of(event).tag];
  EXPECT_EQ(tags["train/loss"], config.train.steps);
  EXPECT_EQ(tags["valid/bits_per_byte"], 2);
}

}  // namespace
}  // namespace harmonic
