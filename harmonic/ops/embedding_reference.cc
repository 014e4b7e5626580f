#include "harmonic/ops/embedding.h"

#include "harmonic/ops/reference.h"

namespace harmonic::reference {

void run(Context&, const Embedding& op) {
  for (int64_t r = 0; r < op.y.rows; ++r)
    for (int64_t c = 0; c < op.y.cols; ++c)
      op.y.row<double>(r)[c] = weight_at(op.table, op.packed, op.tokens.as<int32_t>()[r], c);
}

void run(Context&, const EmbeddingBackward& op) {
  for (int64_t r = 0; r < op.dy.rows; ++r)
    for (int64_t c = 0; c < op.dy.cols; ++c)
      op.dtable.row<double>(op.tokens.as<int32_t>()[r])[c] += op.dy.row<double>(r)[c];
}

}  // namespace harmonic::reference
