// harmonic score: how surprising a text is, in bits. Reads standard input of any length in constant memory.
#include <cmath>

#include "harmonic/base/divergence.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/json.h"
#include "harmonic/cli/command.h"
#include "harmonic/cli/standard_input.h"
#include "harmonic/cli/weights_option.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/runtime/stream_encoder.h"
#include "harmonic/runtime/text_stream.h"

namespace harmonic {
namespace {

constexpr size_t kBytesPerRead = 1 << 16;
constexpr size_t kShownBytes = 1 << 16;  // of a line; a longer one is shown cut

std::string json_text(std::string_view bytes) {
  return Json(std::string(bytes)).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The tokens are those of the whole document (but see StreamEncoder), so the results do not depend on how a
// pipe hands the text over and are those of harmonic eval, which passes over empty documents too.
class Score : public Command {
 public:
  void declare(Options& options) override {
    options.add("--model", &model_, "model folder").placeholder("DIR").required();
    weights_.declare(options);
    options
        .add("--by", &by_,
             "what to report on. A NUL byte ends a document, whose end is predicted too and counts as one "
             "byte; lines and tokens leave it to the document. Empty documents are passed over. A token that "
             "reaches into the next line counts for the line it begins in, which is reported when that token "
             "is known to end. With BPE, a single run of letters, of digits, of signs or of spaces longer "
             "than 64 KiB is tokenised in parts")
        .one_of({"line", "token", "document"});
    options.add("--json", &json_, "one JSON object a result");
  }

  bool uses_device() const override { return true; }

  int run(const CommandContext& context) override {
    watch_for_interrupts();
    ThreadPool pool(context.threads);
    const LoadedModel loaded = load_model_folder(model_, context.backend());
    tokenizer_ = loaded.tokenizer.get();
    Inference inference(*loaded.model, pool);
    weights_.apply(*loaded.model, inference.context());
    TextStream stream(inference, tokenizer_->bos());
    try {
      score_input(stream);
    } catch (const Interrupted&) {
      flush_output();  // whole results: those of what was scored
      throw;
    }
    if (documents_ == 0)
      fail("standard input: holds no text; expected the text to score: harmonic score --model {} < FILE",
           model_);
    if (by_ == "document" && documents_ > 1 && !json_)
      print("{:.2f}\t{}\t{:.4f}\ttotal of {} documents\n", total_.bits, total_.bytes, total_.rate(),
            documents_);
    return 0;
  }

 private:
  struct Sum {
    double bits = 0;
    int64_t bytes = 0;
    double rate() const { return bits / static_cast<double>(bytes); }
  };

  void score_input(TextStream& stream) {
    StreamEncoder encoder(*tokenizer_);
    bool begun = false;  // the document at hand has text
    for (std::string text; read_some_input(text, kBytesPerRead); text.clear()) {
      for (std::string_view rest = text; !rest.empty();) {
        const size_t end = rest.find('\0');
        encoder.push(rest.substr(0, end), tokens_);
        begun |= end > 0;
        if (begun && end != rest.npos) {
          end_document(stream, encoder);
          begun = false;
        }
        rest.remove_prefix(std::min(rest.size(), end) + (end != rest.npos));
      }
      score_tokens(stream);
      flush_output();
    }
    if (begun) end_document(stream, encoder);
  }

  // In pieces, so that a large model can be interrupted.
  void score_tokens(TextStream& stream) {
    for (auto at = tokens_.begin(); at != tokens_.end();) {
      stop_if_interrupted();
      const auto end = at + std::min<std::ptrdiff_t>(tokens_.end() - at, Inference::kRowsPerCall);
      bits_.clear();
      stream.score({at, end}, bits_);
      for (size_t i = 0; i < bits_.size(); ++i) add(at[static_cast<std::ptrdiff_t>(i)], bits_[i]);
      at = end;
    }
    tokens_.clear();
  }

  void add(int32_t token, double bits) {
    if (!std::isfinite(bits))
      fail_diverged("{}: its losses are not finite; its weights are damaged or it has diverged", model_);
    std::string_view bytes = begun_ ? tokenizer_->bytes_of(token) : tokenizer_->first_bytes_of(token);
    begun_ = true;
    if (by_ == "token") report_token(token, bits, bytes);
    document_.bits += bits;
    document_.bytes += static_cast<int64_t>(bytes.size());
    if (by_ != "line") return;
    line_.bits += bits;
    for (size_t end; (end = bytes.find('\n')) != std::string_view::npos; bytes.remove_prefix(end + 1)) {
      add_to_line(bytes.substr(0, end + 1));
      report_line();
    }
    add_to_line(bytes);
  }

  void add_to_line(std::string_view bytes) {
    line_.bytes += static_cast<int64_t>(bytes.size());
    if (!json_ && line_text_.size() < kShownBytes) line_text_ += bytes.substr(0, kShownBytes);
  }

  void end_document(TextStream& stream, StreamEncoder& encoder) {
    encoder.finish(tokens_);
    score_tokens(stream);
    if (line_.bytes > 0) report_line();
    stream.score({tokenizer_->eot()}, bits_);
    if (by_ == "token") report_token(tokenizer_->eot(), bits_.back(), "");
    document_.bits += bits_.back();
    document_.bytes += 1;
    total_.bits += document_.bits;
    total_.bytes += document_.bytes;
    ++documents_;
    if (by_ == "document") report_document();
    document_ = {};
    begun_ = false;
    stream.restart();
  }

  void report_token(int32_t token, double bits, std::string_view text) {
    if (json_) {
      print("{{\"token\":{},\"text\":{},\"bits\":{:.9g}}}\n", token, json_text(text), bits);
    } else {
      print("{:.4f}\t{}\t{}\n", bits, token, json_text(text));
    }
  }

  void report_line() {
    ++lines_;
    if (json_) {
      print("{{\"line\":{},\"bytes\":{},\"bits\":{:.9g}}}\n", lines_, line_.bytes, line_.bits);
    } else {
      const bool whole = line_.bytes == static_cast<int64_t>(line_text_.size());
      print("{:.2f}\t{}\t{}{}{}", line_.bits, line_.bytes, line_text_, whole ? "" : "...",
            whole && line_text_.ends_with('\n') ? "" : "\n");
    }
    line_ = {};
    line_text_.clear();
  }

  void report_document() {
    if (json_) {
      print("{{\"document\":{},\"bytes\":{},\"bits\":{:.9g},\"bits_per_byte\":{:.9g}}}\n", documents_,
            document_.bytes, document_.bits, document_.rate());
    } else {
      print("{:.2f}\t{}\t{:.4f}\tdocument {}\n", document_.bits, document_.bytes, document_.rate(),
            documents_);
    }
  }

  std::string model_, by_ = "document";
  bool json_ = false, begun_ = false;  // begun_: the document at hand has a token
  const Tokenizer* tokenizer_ = nullptr;
  std::vector<int32_t> tokens_;  // read, not scored yet
  std::vector<double> bits_;
  Sum line_, document_, total_;
  std::string line_text_;
  int64_t lines_ = 0, documents_ = 0;
  WeightsOption weights_;
};

const Registered<Score> registered("score", "measure how surprising standard input is, in bits");

}  // namespace
}  // namespace harmonic
