#include <map>
#include <set>

#include "harmonic/base/random.h"
#include "harmonic/data/evaluation_windows.h"
#include "harmonic/data/loader.h"
#include "tests/data_fixture.h"

namespace harmonic {
namespace {

TokenCorpus corpus_of_lengths(const std::vector<int64_t>& lengths) {
  std::vector<std::string> documents;
  uint64_t at = 0;
  for (int64_t length : lengths) {
    std::string document;
    for (int64_t i = 0; i < length; ++i) document += static_cast<char>(Random(9, 9).below(at++, 256));
    documents.push_back(document);
  }
  return TokenCorpus::from_documents(documents, TinyTokenizer());
}

TokenCorpus mixed_corpus() {
  std::vector<int64_t> lengths;
  for (uint64_t d = 0; d < 60; ++d)
    lengths.push_back(static_cast<int64_t>(1 + Random(4, 4).below(d, d % 5 == 0 ? 400 : 30)));
  return corpus_of_lengths(lengths);
}

struct Copy {
  std::vector<int32_t> tokens, targets;
  std::vector<int64_t> offsets, shape;
  bool operator==(const Copy&) const = default;
};
Copy copy_of(const Batch& batch) {
  Copy copy{batch.tokens, batch.targets, batch.offsets, {batch.sequences, batch.target_count}};
  for (const auto& segment : batch.segments)
    copy.shape.insert(copy.shape.end(), {segment.sequence, segment.position, segment.continues});
  return copy;
}

// What holds for every batch: segments cover the rows in order, rows are the stream at the segment's
// position, and each target is the token that follows.
void expect_sound(const Batch& batch, const TokenCorpus& corpus) {
  ASSERT_EQ(batch.offsets.size(), batch.segments.size() + 1);
  ASSERT_EQ(batch.targets.size(), batch.tokens.size());
  ASSERT_EQ(batch.offsets.front(), 0);
  ASSERT_EQ(batch.offsets.back(), batch.rows());
  ASSERT_EQ(batch.target_count, batch.rows());
  int64_t sequence = 0;
  for (size_t s = 0; s < batch.segments.size(); ++s) {
    const auto& segment = batch.segments[s];
    const int64_t count = batch.offsets[s + 1] - batch.offsets[s];
    ASSERT_GT(count, 0);
    ASSERT_GE(segment.sequence, sequence);
    ASSERT_LT(segment.sequence, batch.sequences);
    if (segment.continues) {
      ASSERT_TRUE(s == 0 || batch.segments[s - 1].sequence != segment.sequence);
    }
    sequence = segment.sequence;
    std::vector<int32_t> stream(static_cast<size_t>(count) + 1);
    corpus.read(segment.position, count + 1, stream.data());
    for (int64_t i = 0; i < count; ++i) {
      const auto row = static_cast<size_t>(batch.offsets[s] + i), at = static_cast<size_t>(i);
      ASSERT_EQ(batch.tokens[row], stream[at]);
      ASSERT_EQ(batch.targets[row], stream[at + 1]);
    }
  }
}

bool starts_document(const TokenCorpus& corpus, int64_t position) {
  return corpus.document_begin(corpus.document_at(position)) == position;
}

// No document start lies inside a segment, only at its beginning.
void expect_cut_at_documents(const Batch& batch, const TokenCorpus& corpus) {
  for (size_t s = 0; s < batch.segments.size(); ++s) {
    const int64_t begin = batch.segments[s].position, count = batch.offsets[s + 1] - batch.offsets[s];
    ASSERT_EQ(corpus.document_at(begin), corpus.document_at(begin + count - 1));
  }
}

LoaderConfig config_of(LoaderKind kind, int64_t seq_len, int64_t batch_size, bool within = false) {
  LoaderConfig config;
  config.kind = kind;
  config.seq_len = seq_len;
  config.batch_size = batch_size;
  config.within_document = within;
  return config;
}

const std::vector<LoaderConfig> kEveryKind = {
    config_of(LoaderKind::windows, 50, 3),   config_of(LoaderKind::windows, 50, 3, true),
    config_of(LoaderKind::documents, 50, 3), config_of(LoaderKind::streams, 50, 3),
    config_of(LoaderKind::streams, 5000, 2), config_of(LoaderKind::documents, 1, 7)};

TEST(Loader, ABatchIsAFunctionOfTheStepWhateverCameBefore) {
  const TokenCorpus corpus = mixed_corpus();
  for (const LoaderConfig& config : kEveryKind) {
    const auto in_order = make_loader(corpus, config);
    std::vector<Copy> batches;
    for (int64_t step = 0; step < 200; ++step) batches.push_back(copy_of(in_order->next(step)));
    const auto jumping = make_loader(corpus, config);
    for (int64_t step : {150, 3, 199, 0, 100, 101, 60})
      EXPECT_EQ(copy_of(jumping->next(step)), batches[static_cast<size_t>(step)])
          << "kind " << static_cast<int>(config.kind) << " step " << step;
  }
}

TEST(Loader, EveryRowIsTheStreamAndItsTargetTheTokenAfterIt) {
  const TokenCorpus corpus = mixed_corpus();
  for (const LoaderConfig& config : kEveryKind) {
    const auto loader = make_loader(corpus, config);
    for (int64_t step = 0; step < 60; ++step) {
      const Batch& batch = loader->next(step);
      EXPECT_EQ(batch.sequences, config.batch_size);
      expect_sound(batch, corpus);
      if (!config.within_document) expect_cut_at_documents(batch, corpus);
    }
  }
}

TEST(Loader, AnotherSeedGivesAnotherOrder) {
  const TokenCorpus corpus = mixed_corpus();
  for (LoaderConfig config : {kEveryKind[0], kEveryKind[1], kEveryKind[2]}) {
    const Copy first = copy_of(make_loader(corpus, config)->next(0));
    config.seed = 2;
    EXPECT_NE(copy_of(make_loader(corpus, config)->next(0)), first);
  }
}

TEST(Loader, ImpossibleConfigurationsAreErrors) {
  const TokenCorpus corpus = corpus_of_lengths({10});
  EXPECT_THROW(make_loader(corpus, config_of(LoaderKind::windows, 0, 1)), Error);
  EXPECT_THROW(make_loader(corpus, config_of(LoaderKind::windows, 1, -1)), Error);
  EXPECT_THROW(make_loader(corpus, config_of(LoaderKind::windows, 12, 1)), Error);
  EXPECT_NO_THROW(make_loader(corpus, config_of(LoaderKind::windows, 11, 1)));
  EXPECT_THROW(make_loader(corpus, config_of(LoaderKind::windows, int64_t{1} << 40, int64_t{1} << 40)),
               Error);
  EXPECT_THROW(make_loader(corpus, config_of(LoaderKind::streams, 5, 1, true)), Error);
  EXPECT_THROW(make_loader(corpus, config_of(LoaderKind::streams, 5, 12)), Error);
  EXPECT_THROW(loader_kind_of("random"), Error);
}

TEST(WindowLoader, EveryStartOfTheStreamIsAboutEquallyLikely) {
  const TokenCorpus corpus = corpus_of_lengths({5, 7, 3});  // 18 targets
  const auto loader = make_loader(corpus, config_of(LoaderKind::windows, 4, 1));
  std::map<int64_t, int> seen;
  constexpr int kDraws = 15'000;
  for (int64_t step = 0; step < kDraws; ++step) ++seen[loader->next(step).segments.front().position];
  ASSERT_EQ(seen.size(), 15u);
  for (const auto& [position, count] : seen) EXPECT_NEAR(count, kDraws / 15, 160) << position;
}

TEST(WindowLoader, WithinDocumentWindowsNeverCrossIntoAnotherUnlessTheBookIsShorter) {
  const TokenCorpus corpus = mixed_corpus();
  constexpr int64_t kLength = 60;
  const auto loader = make_loader(corpus, config_of(LoaderKind::windows, kLength, 4, true));
  std::set<int64_t> inside, joined;
  for (int64_t step = 0; step < 2000; ++step) {
    const Batch& batch = loader->next(step);
    ASSERT_EQ(batch.segments.size(), 4u) << "a window is one segment: no reset inside";
    for (const auto& segment : batch.segments) {
      const int64_t document = corpus.document_at(segment.position);
      if (corpus.document_at(segment.position + kLength - 1) == document) {
        inside.insert(document);
      } else {
        joined.insert(document);
        ASSERT_LT(corpus.document_length(document), kLength);
      }
    }
  }
  EXPECT_GT(inside.size(), 5u);
  EXPECT_GT(joined.size(), 5u);
  EXPECT_NE(loader->remark().find("joined"), std::string::npos);
}

TEST(WindowLoader, WithinDocumentEveryPossibleStartIsAboutEquallyLikely) {
  const TokenCorpus corpus = corpus_of_lengths({9, 1, 13, 2});  // with their EOT 10, 2, 14, 3; 29 targets
  const auto loader = make_loader(corpus, config_of(LoaderKind::windows, 8, 1, true));
  // Starts: 0..2 in the first, 10 and 11 in the second (joined), 12..18 in the third; none fits from the
  // last.
  std::map<int64_t, int> seen;
  constexpr int kDraws = 12'000;
  for (int64_t step = 0; step < kDraws; ++step) ++seen[loader->next(step).segments.front().position];
  std::set<int64_t> starts;
  for (const auto& [position, count] : seen) {
    starts.insert(position);
    EXPECT_NEAR(count, kDraws / 12, 160) << position;
  }
  EXPECT_EQ(starts, (std::set<int64_t>{0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 18}));
}

TEST(WindowLoader, ADocumentThatStartsInsideAWindowStartsASegmentFromZero) {
  const TokenCorpus corpus = corpus_of_lengths({3, 3, 3, 3});
  const auto loader = make_loader(corpus, config_of(LoaderKind::windows, 9, 2));
  for (int64_t step = 0; step < 20; ++step) {
    const Batch& batch = loader->next(step);
    for (size_t s = 0; s < batch.segments.size(); ++s) {
      EXPECT_FALSE(batch.segments[s].continues);
      const bool first = s == 0 || batch.segments[s - 1].sequence != batch.segments[s].sequence;
      if (!first) {
        EXPECT_TRUE(starts_document(corpus, batch.segments[s].position));
      }
    }
  }
}

TEST(DocumentLoader, EachEpochScoresEveryTargetOnceInAnotherOrder) {
  const TokenCorpus corpus = mixed_corpus();
  const auto loader = make_loader(corpus, config_of(LoaderKind::documents, 64, 1));
  std::vector<std::vector<int64_t>> orders;
  int64_t step = 0;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<int> scored(static_cast<size_t>(corpus.targets()), 0);
    orders.emplace_back();
    for (int64_t left = corpus.targets(); left > 0; ++step) {
      const Batch& batch = loader->next(step);
      ASSERT_LE(batch.rows(), 64);
      for (size_t s = 0; s < batch.segments.size(); ++s) {
        const int64_t begin = batch.segments[s].position, count = batch.offsets[s + 1] - batch.offsets[s];
        const int64_t document = corpus.document_at(begin);
        ASSERT_EQ((begin - corpus.document_begin(document)) % 64, 0);
        orders.back().push_back(begin);
        for (int64_t i = 0; i < count; ++i) ++scored[static_cast<size_t>(begin + i)];
      }
      left -= batch.target_count;
    }
    for (int count : scored) ASSERT_EQ(count, 1);
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_NE(orders[1], orders[2]);
  std::sort(orders[0].begin(), orders[0].end());
  std::sort(orders[1].begin(), orders[1].end());
  EXPECT_EQ(orders[0], orders[1]);
}

TEST(DocumentLoader, DocumentsThatFitAreNeverSplitAndASequenceEndsOnlyWhereTheNextPieceDoesNotFit) {
  const TokenCorpus corpus = mixed_corpus();
  constexpr int64_t kLength = 64;
  const auto loader = make_loader(corpus, config_of(LoaderKind::documents, kLength, 1));
  int64_t scored = 0, rows_before = 0, epochs = 0;
  for (int64_t step = 0; step < 100; ++step) {
    const Batch& batch = loader->next(step);
    for (size_t s = 0; s < batch.segments.size(); ++s) {
      const int64_t begin = batch.segments[s].position, count = batch.offsets[s + 1] - batch.offsets[s];
      const int64_t length = corpus.document_length(corpus.document_at(begin));
      EXPECT_FALSE(batch.segments[s].continues);
      if (length <= kLength) {
        EXPECT_EQ(count, length);
      }
    }
    if (scored % corpus.targets() == 0) {
      ++epochs;
    } else {
      EXPECT_GT(rows_before + batch.offsets[1], kLength) << "step " << step;
    }
    scored += batch.target_count;
    rows_before = batch.rows();
    EXPECT_LE(rows_before, kLength);
  }
  EXPECT_GT(epochs, 1);
}

TEST(DocumentLoader, ABatchLargerThanTheCorpusGoesThroughSeveralEpochs) {
  const TokenCorpus corpus = corpus_of_lengths({3, 4});
  const auto loader = make_loader(corpus, config_of(LoaderKind::documents, 16, 5));
  const Batch& batch = loader->next(7);
  EXPECT_EQ(batch.sequences, 5);
  EXPECT_EQ(batch.target_count, 5 * corpus.targets());
}

TEST(StreamLoader, EachStreamGoesThroughTheCorpusInOrderAndRoundAgain) {
  const TokenCorpus corpus = mixed_corpus();
  constexpr int64_t kLength = 37, kStreams = 3;
  const auto loader = make_loader(corpus, config_of(LoaderKind::streams, kLength, kStreams));
  std::vector<int64_t> expected;
  for (int64_t b = 0; b < kStreams; ++b) expected.push_back(corpus.targets() * b / kStreams);
  for (int64_t step = 0; step < 300; ++step) {
    const Batch& batch = loader->next(step);
    ASSERT_EQ(batch.rows(), kLength * kStreams);
    expect_sound(batch, corpus);
    for (size_t s = 0; s < batch.segments.size(); ++s) {
      const auto& segment = batch.segments[s];
      int64_t& position = expected[static_cast<size_t>(segment.sequence)];
      ASSERT_EQ(segment.position, position);
      const bool first = s == 0 || batch.segments[s - 1].sequence != segment.sequence;
      ASSERT_EQ(segment.continues, first && step > 0 && !starts_document(corpus, position)) << step;
      if (!first) {
        ASSERT_TRUE(starts_document(corpus, position));
      }
      position = (position + batch.offsets[s + 1] - batch.offsets[s]) % corpus.targets();
    }
  }
}

TEST(StreamLoader, AStepFarBeyondTheCorpusIsFoundWithoutOverflow) {
  const TokenCorpus corpus = mixed_corpus();
  const auto loader = make_loader(corpus, config_of(LoaderKind::streams, 1000, 2));
  expect_sound(loader->next(int64_t{1} << 60), corpus);
}

TEST(EvaluationWindows, EachTargetIsScoredOnceAtEveryLength) {
  const TokenCorpus corpus = mixed_corpus();
  for (EvaluationState state : {EvaluationState::cold, EvaluationState::carry}) {
    for (int64_t length :
         {int64_t{1}, int64_t{7}, int64_t{64}, int64_t{1000}, corpus.targets(), int64_t{1} << 20}) {
      for (int64_t batch_size : {1, 2, 5, 100}) {
        EvaluationWindows windows(corpus, length, state, batch_size);
        for (int pass = 0; pass < 2; ++pass) {
          std::vector<int> scored(static_cast<size_t>(corpus.targets()), 0);
          while (const Batch* batch = windows.next()) {
            ASSERT_GT(batch->rows(), 0);
            expect_sound(*batch, corpus);
            expect_cut_at_documents(*batch, corpus);
            for (size_t s = 0; s < batch->segments.size(); ++s)
              for (int64_t i = 0; i < batch->offsets[s + 1] - batch->offsets[s]; ++i)
                ++scored[static_cast<size_t>(batch->segments[s].position + i)];
          }
          for (int count : scored) ASSERT_EQ(count, 1) << length << " x " << batch_size;
          windows.restart();
        }
      }
    }
  }
}

TEST(EvaluationWindows, ColdWindowsAreAdjacentAndAllStartFromZero) {
  const TokenCorpus corpus = mixed_corpus();
  EvaluationWindows windows(corpus, 50, EvaluationState::cold, 3);
  int64_t window = 0;
  while (const Batch* batch = windows.next()) {
    int64_t sequence = -1;
    for (const auto& segment : batch->segments) {
      EXPECT_FALSE(segment.continues);
      if (segment.sequence != sequence) {
        EXPECT_EQ(segment.position, 50 * window++);
      }
      sequence = segment.sequence;
    }
  }
  EXPECT_EQ(window, (corpus.targets() + 49) / 50);
}

TEST(EvaluationWindows, CarriedStateGoesOnExactlyWhereNoDocumentStarts) {
  const TokenCorpus corpus = mixed_corpus();
  for (int64_t lanes : {1, 4}) {
    EvaluationWindows windows(corpus, 50, EvaluationState::carry, lanes);
    std::map<int64_t, int64_t> expected;  // the next position of each lane
    while (const Batch* batch = windows.next()) {
      for (size_t s = 0; s < batch->segments.size(); ++s) {
        const auto& segment = batch->segments[s];
        EXPECT_EQ(segment.continues, !starts_document(corpus, segment.position));
        if (expected.contains(segment.sequence)) {
          EXPECT_EQ(segment.position, expected[segment.sequence]);
        } else {
          EXPECT_TRUE(starts_document(corpus, segment.position));
        }
        expected[segment.sequence] = segment.position + batch->offsets[s + 1] - batch->offsets[s];
      }
    }
    EXPECT_EQ(expected.size(), static_cast<size_t>(lanes));
  }
}

TEST(EvaluationWindows, MoreLanesThanDocumentsLeavesSomeEmpty) {
  const TokenCorpus corpus = corpus_of_lengths({100, 3});
  EvaluationWindows windows(corpus, 10, EvaluationState::carry, 8);
  int64_t targets = 0;
  while (const Batch* batch = windows.next()) {
    EXPECT_EQ(batch->sequences, 8);
    targets += batch->target_count;
  }
  EXPECT_EQ(targets, corpus.targets());
  EXPECT_THROW(EvaluationWindows(corpus, 0, EvaluationState::cold, 1), Error);
  EXPECT_THROW(EvaluationWindows(corpus, 1, EvaluationState::cold, 0), Error);
}

}  // namespace
}  // namespace harmonic
