#include "harmonic/data/loader.h"

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"
#include "harmonic/data/loader_kinds.h"

namespace harmonic {

LoaderKind loader_kind_of(std::string_view name) {
  if (name == "windows") return LoaderKind::windows;
  if (name == "documents") return LoaderKind::documents;
  if (name == "streams") return LoaderKind::streams;
  fail_usage("unknown loader \"{}\"; expected windows, documents or streams", name);
}

std::unique_ptr<Loader> make_loader(TokenCorpus corpus, const LoaderConfig& config) {
  if (config.seq_len < 1) fail_usage("seq_len is {}; at least 1 was expected", config.seq_len);
  if (config.batch_size < 1) fail_usage("batch_size is {}; at least 1 was expected", config.batch_size);
  checked_mul(config.seq_len, config.batch_size, "seq_len x batch_size");
  if (config.within_document && config.kind != LoaderKind::windows)
    fail_usage("within_document belongs to the loader \"windows\" only");
  switch (config.kind) {
    case LoaderKind::windows:
      return make_window_loader(std::move(corpus), config);
    case LoaderKind::documents:
      return make_document_loader(std::move(corpus), config);
    case LoaderKind::streams:
      return make_stream_loader(std::move(corpus), config);
  }
  fail_usage("unknown loader");
}

}  // namespace harmonic
