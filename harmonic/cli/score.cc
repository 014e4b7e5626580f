// harmonic score: how surprising a text is, in bits. Reads standard input of any length in constant memory.
#include <poll.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <optional>

#include "harmonic/base/divergence.h"
#include "harmonic/base/file_lock.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/cli/command.h"
#include "harmonic/cli/model_option.h"
#include "harmonic/cli/standard_input.h"
#include "harmonic/runtime/score_state.h"
#include "harmonic/runtime/stream_encoder.h"
#include "harmonic/runtime/text_stream.h"
#include "harmonic/server/json_text.h"

namespace harmonic {
namespace {

constexpr size_t kBytesPerRead = 1 << 16;
constexpr size_t kBytesPerReadWithState = 1 << 12;  // between two of which it may be stopped
constexpr int kQuietMilliseconds = 200;             // without input, after which the state is saved
constexpr std::chrono::seconds kBetweenSaves{1};    // while input comes
constexpr size_t kShownBytes = 1 << 16;             // of a line; a longer one is shown cut

// The tokens are those of the whole document (but see StreamEncoder), so the results do not depend on how a
// pipe hands the text over and are those of harmonic eval, which passes over empty documents too.
class Score : public Command {
 public:
  void declare(Options& options) override {
    model_.declare(options);
    options
        .add("--by", &by_,
             "what to report on. A NUL byte ends a document, whose end is predicted too and counts as one "
             "byte; lines and tokens leave it to the document. Empty documents are passed over. A token that "
             "reaches into the next line counts for the line it begins in, which is reported when that token "
             "is known to end. With BPE, a single run of letters, of digits, of signs or of spaces longer "
             "than 64 KiB is tokenised in parts")
        .one_of({"line", "token", "document"});
    options.add("--json", &json_, "one JSON object a result");
    options
        .add("--threshold", &threshold_,
             "with --by line: only lines that are so surprising. z=4: their bits a byte are 4 standard "
             "deviations above the mean of the lines before them; the first 30 lines never are")
        .placeholder("z=N");
    options
        .add("--state", &state_file_,
             "with --by line: a file to go on from, where it is there, and to leave the state in: at the end "
             "of "
             "the input, when stopped, and every second or so in between. The text then goes on from run to "
             "run, and its end is not scored")
        .placeholder("FILE");
  }

  bool uses_device() const override { return true; }

  int run(const CommandContext& context) override {
    check_options();
    watch_for_interrupts();
    ThreadPool pool(context.threads);
    const LoadedModel loaded = model_.load(context.backend());
    tokenizer_ = loaded.tokenizer.get();
    Inference inference(*loaded.model, pool);
    const std::string identity = state_file_.empty() ? "" : identity_of(*loaded.model);
    model_.pack(*loaded.model, inference.context());
    TextStream stream(inference, tokenizer_->bos());
    StreamEncoder encoder(*tokenizer_);
    try {
      if (state_file_.empty()) {
        score_input(stream, encoder);
      } else {
        score_on(*loaded.model, identity, stream, encoder);
      }
    } catch (const Interrupted&) {
      flush_output();  // whole results: those of what was scored
      throw;
    }
    if (documents_ == 0 && state_file_.empty())
      fail("standard input: holds no text; expected the text to score: harmonic score --model {} < FILE",
           model_.path());
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

  void check_options() {
    if (by_ != "line" && (!threshold_.empty() || !state_file_.empty()))
      fail_usage("--{} goes with --by line", threshold_.empty() ? "state" : "threshold");
    if (!threshold_.empty()) {
      double z = 0;
      const char* end = threshold_.data() + threshold_.size();
      const auto read = threshold_.starts_with("z=")
                            ? std::from_chars(threshold_.data() + 2, end, z)
                            : std::from_chars_result{end, std::errc::invalid_argument};
      if (read.ec != std::errc() || read.ptr != end || !std::isfinite(z))
        fail_usage("--threshold {}: expected z= and a number, such as z=4", threshold_);
      least_ = z;
    }
    lines_ = LineScores(!json_ || least_ ? kShownBytes : 0);
  }

  void score_input(TextStream& stream, StreamEncoder& encoder) {
    for (std::string text; read_some_input(text, kBytesPerRead); text.clear()) take(text, stream, encoder);
    if (has_text_) end_document(stream, encoder);
  }

  // The same with a state that outlives the run.
  void score_on(const Model& model, const std::string& identity, TextStream& stream, StreamEncoder& encoder) {
    // Its lock would be made beside it.
    if (std::filesystem::is_directory(state_file_))
      fail("{}: is a folder; expected a file for --state, or none yet", state_file_);
    const FileLock lock(state_file_ + ".lock", FileLock::Kind::exclusive);
    if (lock.state() == FileLock::State::taken)
      fail("{}: another harmonic score goes on from it now; name another file with --state", state_file_);
    if (auto state = load_score_state(state_file_, model, identity)) {
      has_text_ = state->begun || !state->waiting.empty();
      begun_ = state->begun;
      encoder.go_on_with(std::move(state->waiting), state->begun);
      lines_.go_on_with(std::move(state->line));
      outliers_ = state->outliers;
      stream.go_on_from(std::move(state->point));
    }
    bool changed = true;
    auto saved = std::chrono::steady_clock::time_point();
    const auto save = [&] {
      flush_output();
      save_score_state(state_file_, {stream.point(), encoder.waiting(), begun_, lines_.open(), outliers_},
                       identity);
      changed = false;
      saved = std::chrono::steady_clock::now();
    };
    try {
      for (std::string text;; text.clear()) {
        if (changed && (std::chrono::steady_clock::now() - saved >= kBetweenSaves || !input_comes())) save();
        if (!read_some_input(text, kBytesPerReadWithState)) break;
        take(text, stream, encoder);
        changed = true;
      }
    } catch (const Interrupted&) {
      save();
      throw;
    }
    save();
  }

  static bool input_comes() {
    pollfd input = {STDIN_FILENO, POLLIN, 0};
    return ::poll(&input, 1, kQuietMilliseconds) != 0;
  }

  void take(std::string_view rest, TextStream& stream, StreamEncoder& encoder) {
    while (!rest.empty()) {
      const size_t end = rest.find('\0');
      encoder.push(rest.substr(0, end), tokens_);
      has_text_ |= end > 0;
      if (has_text_ && end != rest.npos) end_document(stream, encoder);
      rest.remove_prefix(std::min(rest.size(), end) + (end != rest.npos));
    }
    score_tokens(stream);
    flush_output();
  }

  // In pieces, so that a large model can be interrupted.
  void score_tokens(TextStream& stream) {
    for (auto at = tokens_.begin(); at != tokens_.end();) {
      if (state_file_.empty()) stop_if_interrupted();
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
      fail_diverged("{}: its losses are not finite; its weights are damaged or it has diverged",
                    model_.path());
    std::string_view bytes = begun_ ? tokenizer_->bytes_of(token) : tokenizer_->first_bytes_of(token);
    begun_ = true;
    if (by_ == "token") report_token(token, bits, bytes);
    document_.bits += bits;
    document_.bytes += static_cast<int64_t>(bytes.size());
    if (by_ == "line") lines_.add(bytes, bits, [this](const LineScore& line) { report_line(line); });
  }

  void end_document(TextStream& stream, StreamEncoder& encoder) {
    encoder.finish(tokens_);
    score_tokens(stream);
    lines_.finish([this](const LineScore& line) { report_line(line); });
    stream.score({tokenizer_->eot()}, bits_);
    if (by_ == "token") report_token(tokenizer_->eot(), bits_.back(), "");
    document_.bits += bits_.back();
    document_.bytes += 1;
    total_.bits += document_.bits;
    total_.bytes += document_.bytes;
    ++documents_;
    if (by_ == "document") report_document();
    document_ = {};
    begun_ = has_text_ = false;
    stream.restart();
  }

  void report_token(int32_t token, double bits, std::string_view text) {
    if (json_) {
      print("{{\"token\":{},\"text\":{},\"bits\":{:.9g}}}\n", token, json_text(text), bits);
    } else {
      print("{:.4f}\t{}\t{}\n", bits, token, json_text(text));
    }
  }

  void report_line(const LineScore& line) {
    std::string deviations;
    if (least_) {
      const std::optional<double> z = outliers_.next(line.bits_per_byte());
      if (!z || *z < *least_) return;
      deviations = fmt::format("{:.2f}", *z);
    }
    if (json_) {
      print("{{\"line\":{},\"bytes\":{},\"bits\":{:.9g}{}}}\n", line.line, line.bytes, line.bits,
            least_ ? fmt::format(",\"z\":{},\"text\":{}", deviations, json_text(line.text)) : "");
    } else {
      const bool whole = line.bytes == static_cast<int64_t>(line.text.size());
      print("{}{}{:.2f}\t{}\t{}{}{}", deviations, least_ ? "\t" : "", line.bits, line.bytes, line.text,
            whole ? "" : "...", whole && line.text.ends_with('\n') ? "" : "\n");
    }
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

  std::string by_ = "document";
  std::string threshold_, state_file_;
  std::optional<double> least_;  // standard deviations
  bool json_ = false;
  bool has_text_ = false, begun_ = false;  // the document at hand has text; it has a token
  const Tokenizer* tokenizer_ = nullptr;
  std::vector<int32_t> tokens_;  // read, not scored yet
  std::vector<double> bits_;
  Sum document_, total_;
  LineScores lines_;
  OutlierScore outliers_;
  int64_t documents_ = 0;
  ModelOption model_;
};

const Registered<Score> registered("score", "measure how surprising standard input is, in bits");

}  // namespace
}  // namespace harmonic
