// harmonic pack, harmonic unpack: files made smaller by a model, and back.
#include <unistd.h>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/runtime/pack.h"
#include "harmonic/runtime/text_point.h"

namespace harmonic {
namespace {

// A file, or standard input, in pieces of any size.
class Source {
 public:
  explicit Source(const std::string& path)
      : name_(path == "-" ? "standard input" : path),
        descriptor_(path == "-" ? STDIN_FILENO : open_for_reading(path)) {}
  ~Source() {
    if (descriptor_ != STDIN_FILENO) ::close(descriptor_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  const std::string& name() const { return name_; }
  std::string read(int64_t most) {
    std::string bytes(static_cast<size_t>(most), '\0');
    size_t filled = 0;
    while (filled < bytes.size()) {
      const size_t got = read_when_ready(descriptor_, bytes.data() + filled, bytes.size() - filled, name_);
      if (got == 0) break;
      filled += got;
    }
    bytes.resize(filled);
    return bytes;
  }

 private:
  std::string name_;
  int descriptor_;
};

template <bool kUnpacks>
class PackCommand : public Command {
 public:
  void declare(Options& options) override {
    options.add("--model", &model_, kUnpacks ? "model folder, the one that packed the file" : "model folder")
        .placeholder("DIR")
        .required();
    options.add("IN", &in_, "a file; - is standard input").required();
    options.add("OUT", &out_, "the file to write; - is standard output").required();
  }

  int run(const CommandContext& context) override {
    watch_for_interrupts();
    ThreadPool pool(context.threads);
    const LoadedModel loaded = load_model_folder(model_, cpu_backend());
    Inference inference(*loaded.model, pool);
    loaded.model->pack(inference.context());
    Packer packer(inference, *loaded.tokenizer, identity_of(*loaded.model));
    Source source(in_);
    const Packer::Read read = [&](int64_t most) { return source.read(most); };
    Packer::Sizes sizes;
    if (out_ == "-") {
      sizes = work(
          packer, read, [](std::string_view bytes) { write_output(bytes); }, source.name());
      flush_output();
    } else {
      AtomicFile file{std::filesystem::path(out_)};
      sizes = work(
          packer, read, [&](std::string_view bytes) { file.write(bytes); }, source.name());
      file.commit();
    }
    log("{} bytes, packed {}: {:.4f} bits a byte", sizes.source, sizes.packed,
        sizes.source > 0 ? 8.0 * static_cast<double>(sizes.packed) / static_cast<double>(sizes.source) : 0.0);
    return 0;
  }

 private:
  static Packer::Sizes work(Packer& packer, const Packer::Read& read, const Packer::Write& write,
                            const std::string& name) {
    if constexpr (kUnpacks) {
      return packer.unpack(read, write, name);
    } else {
      return packer.pack(read, write);
    }
  }
  std::string model_, in_, out_;
};

const Registered<PackCommand<false>> pack(
    "pack", "make a file smaller by what a model knows of its kind, losslessly");
const Registered<PackCommand<true>> unpack("unpack", "bring back a file that harmonic pack made smaller");

}  // namespace
}  // namespace harmonic
