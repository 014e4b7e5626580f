#include "harmonic/data/batch.h"

#include <algorithm>

#include "harmonic/base/error.h"

namespace harmonic {

void Batch::clear() {
  tokens.clear();
  targets.clear();
  offsets.assign(1, 0);
  segments.clear();
  sequences = target_count = 0;
}

void Batch::append(const TokenCorpus& corpus, int64_t position, int64_t count, bool continues,
                   bool cut_at_documents) {
  HARMONIC_ASSERT(sequences > 0 && count > 0 && count <= corpus.targets() - position);
  const int64_t first = rows(), last = first + count;
  tokens.resize(static_cast<size_t>(last));
  targets.resize(static_cast<size_t>(last));
  corpus.read(position, count, tokens.data() + first);
  std::copy(tokens.begin() + first + 1, tokens.end(), targets.begin() + first);
  corpus.read(position + count, 1, &targets.back());
  target_count += count;

  int64_t document = corpus.document_at(position);
  continues = continues && corpus.document_begin(document) != position;
  segments.push_back({sequences - 1, position, continues});
  if (cut_at_documents) {
    for (++document; document < corpus.documents(); ++document) {
      const int64_t begin = corpus.document_begin(document);
      if (begin >= position + count) break;
      offsets.push_back(first + begin - position);
      segments.push_back({sequences - 1, begin, false});
    }
  }
  offsets.push_back(last);
}

}  // namespace harmonic
