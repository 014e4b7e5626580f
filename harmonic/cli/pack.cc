// harmonic pack, harmonic unpack: files made smaller by a model, and back.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

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
  // Of a regular file: its size, and bytes from anywhere.
  int64_t bytes() const {
    struct stat found;
    if (::fstat(descriptor_, &found) != 0 || !S_ISREG(found.st_mode))
      fail("{}: --from and --bytes need a regular file, which can be read from anywhere", name_);
    return found.st_size;
  }
  // Of a regular file: who may read and write it.
  std::optional<mode_t> mode() const {
    struct stat found;
    if (::fstat(descriptor_, &found) != 0 || !S_ISREG(found.st_mode)) return {};
    return found.st_mode & 0777;
  }
  std::string read_at(int64_t offset, int64_t most) const {
    std::string bytes(static_cast<size_t>(most), '\0');
    size_t filled = 0;
    while (filled < bytes.size()) {
      const ssize_t got = ::pread(descriptor_, bytes.data() + filled, bytes.size() - filled,
                                  offset + static_cast<int64_t>(filled));
      if (got < 0) fail("{}: cannot read: {}", name_, std::strerror(errno));
      if (got == 0) break;
      filled += static_cast<size_t>(got);
    }
    bytes.resize(filled);
    return bytes;
  }
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
    if constexpr (kUnpacks) {
      options.add("--from", &from_, "the first byte to unpack; what comes before it is passed over")
          .range(0, 1e15);
      options.add("--bytes", &bytes_, "how many to unpack; 0 is all that follow").range(0, 1e15);
    }
  }

  int run(const CommandContext& context) override {
    watch_for_interrupts();
    ThreadPool pool(context.threads);
    const LoadedModel loaded = load_model_folder(model_, cpu_backend());
    Inference inference(*loaded.model, pool);
    loaded.model->pack(inference.context());
    Packer packer(inference, *loaded.tokenizer, identity_of(*loaded.model));
    Source source(in_);
    Packer::Sizes sizes;
    if (out_ == "-") {
      sizes = work(packer, source, [](std::string_view bytes) { write_output(bytes); });
      flush_output();
    } else {
      // Who may not read the source may not read what is made of it.
      if (const auto mode = source.mode()) ::umask(::umask(0) | (~*mode & 0777));
      AtomicFile file{std::filesystem::path(out_)};
      sizes = work(packer, source, [&](std::string_view bytes) { file.write(bytes); });
      file.commit();
    }
    if (from_ > 0 || bytes_ > 0) {
      log("{} bytes, of {} packed ones", sizes.source, sizes.packed);
      return 0;
    }
    log("{} bytes, packed {}: {:.4f} bits a byte", sizes.source, sizes.packed,
        sizes.source > 0 ? 8.0 * static_cast<double>(sizes.packed) / static_cast<double>(sizes.source) : 0.0);
    return 0;
  }

 private:
  Packer::Sizes work(Packer& packer, Source& source, const Packer::Write& write) const {
    const Packer::Read read = [&](int64_t most) { return source.read(most); };
    if (!kUnpacks) return packer.pack(read, write);
    if (from_ == 0 && bytes_ == 0) return packer.unpack(read, write, source.name());
    return packer.unpack_range([&](int64_t offset, int64_t most) { return source.read_at(offset, most); },
                               source.bytes(), from_, bytes_ > 0 ? bytes_ : INT64_MAX, write, source.name());
  }
  std::string model_, in_, out_;
  int64_t from_ = 0, bytes_ = 0;
};

const Registered<PackCommand<false>> pack(
    "pack", "make a file smaller by what a model knows of its kind, losslessly");
const Registered<PackCommand<true>> unpack("unpack", "bring back a file that harmonic pack made smaller");

}  // namespace
}  // namespace harmonic
