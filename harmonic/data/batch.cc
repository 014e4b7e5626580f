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

  const int32_t bos = corpus.identity().bos;
  const bool own_bos = bos != corpus.identity().eot;
  int64_t document = corpus.document_at(position);
  const bool begins = corpus.document_begin(document) == position;
  if (begins && own_bos) tokens[static_cast<size_t>(first)] = bos;
  segments.push_back({sequences - 1, position, continues && !begins});
  if (cut_at_documents || own_bos) {
    for (++document; document < corpus.documents(); ++document) {
      const int64_t begin = corpus.document_begin(document);
      if (begin >= position + count) break;
      const int64_t row = first + begin - position;
      if (own_bos) tokens[static_cast<size_t>(row)] = bos;
      if (!cut_at_documents) continue;
      offsets.push_back(row);
      segments.push_back({sequences - 1, begin, false});
    }
  }
  offsets.push_back(last);
}

}  // namespace harmonic
