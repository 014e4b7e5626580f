// The loaders behind make_loader(), one file each. For loader.cc only.
#pragma once

#include <memory>

#include "harmonic/data/loader.h"

namespace harmonic {

std::unique_ptr<Loader> make_window_loader(TokenCorpus corpus, const LoaderConfig& config);
std::unique_ptr<Loader> make_document_loader(TokenCorpus corpus, const LoaderConfig& config);
std::unique_ptr<Loader> make_stream_loader(TokenCorpus corpus, const LoaderConfig& config);

}  // namespace harmonic
