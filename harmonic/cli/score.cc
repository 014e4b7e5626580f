// harmonic score: how surprising a text is, in bits. Reads standard input of any length in constant memory.
#include <algorithm>

#include "harmonic/base/json.h"
#include "harmonic/cli/command.h"
#include "harmonic/cli/standard_input.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/runtime/text_stream.h"

namespace harmonic {
namespace {

// The text is cut after each line, and after 64 KB where a line is longer; pieces are tokenised one by one.
// So the result does not depend on how the pipe hands the text over.
constexpr size_t kLongestPiece = 1 << 16;

class Score : public Command {
 public:
  void declare(Options& options) override {
    options.add("--model", &model_, "model folder").placeholder("DIR").required();
    options.add("--by", &by_, "what to report on").one_of({"line", "token", "document"});
    options.add("--json", &json_, "one JSON object a result");
  }

  int run(const CommandContext& context) override {
    ThreadPool pool(context.threads);
    const LoadedModel loaded = load_model_folder(model_, cpu_backend());
    tokenizer_ = loaded.tokenizer.get();
    Inference inference(*loaded.model, pool);
    loaded.model->pack(inference.context());
    TextStream stream(inference, tokenizer_->eot());
    std::string text;
    for (bool more = true; more;) {
      more = read_some_input(text, kLongestPiece);
      take(stream, text, !more);
      flush_output();
    }
    if (document_bytes_ > 0 || documents_ == 0) end_document(stream);
    if (by_ == "document" && documents_ > 1 && !json_)
      print("{:.2f}\t{}\t{:.4f}\ttotal of {} documents\n", total_bits_, total_bytes_,
            total_bits_ / static_cast<double>(total_bytes_), documents_);
    flush_output();
    return 0;
  }

 private:
  // Scores the whole pieces at the front of `text` and removes them; at the end of the input, everything.
  void take(TextStream& stream, std::string& text, bool end) {
    size_t at = 0;
    while (at < text.size()) {
      const std::string_view rest = std::string_view(text).substr(at);
      const size_t stop = rest.find_first_of(std::string_view("\n\0", 2));
      const size_t limit = std::min(stop, kLongestPiece);
      if (stop == std::string_view::npos && rest.size() < kLongestPiece && !end) break;
      const bool document_ends = limit < rest.size() && limit == stop && rest[stop] == '\0';
      const bool line_ends = limit < rest.size() && limit == stop && rest[stop] == '\n';
      add_piece(rest.substr(0, std::min(rest.size(), limit + (line_ends ? 1 : 0))));
      at += std::min(rest.size(), limit + (line_ends || document_ends ? 1 : 0));
      if (line_ends) end_line();
      if (document_ends || tokens_.size() >= static_cast<size_t>(Inference::kRowsPerCall))
        score_tokens(stream);
      if (document_ends) end_document(stream);
    }
    text.erase(0, at);
    score_tokens(stream);
  }

  void add_piece(std::string_view piece) {
    tokenizer_->encode(piece, tokens_);
    open_line_.bytes += static_cast<int64_t>(piece.size());
    document_bytes_ += static_cast<int64_t>(piece.size());
    if (by_ == "line" && !json_) open_line_.text.append(piece);
  }

  // A line whose tokens have all been read; they end at `tokens_end` of the ones not scored yet.
  void end_line() {
    open_line_.tokens_end = tokens_.size();
    lines_.push_back(std::move(open_line_));
    open_line_ = {};
  }

  void score_tokens(TextStream& stream) {
    bits_.clear();
    stream.score(tokens_, bits_);
    size_t token = 0;
    for (Line& line : lines_) {
      for (; token < line.tokens_end; ++token) add_bits(tokens_[token], bits_[token], line);
      report_line(line);
    }
    for (; token < tokens_.size(); ++token) add_bits(tokens_[token], bits_[token], open_line_);
    lines_.clear();
    tokens_.clear();
  }

  struct Line {
    double bits = 0;
    int64_t bytes = 0;
    size_t tokens_end = 0;
    std::string text;
  };

  void add_bits(int32_t token, double bits, Line& line) {
    line.bits += bits;
    document_bits_ += bits;
    if (by_ == "token") report_token(token, bits);
  }

  void report_token(int32_t token, double bits) {
    const std::string text(tokenizer_->bytes_of(token));
    const Json object = {{"token", token}, {"text", text}, {"bits", bits}};
    const std::string line = object.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (json_) {
      print("{}\n", line);
    } else {
      print("{:.4f}\t{}\t{}\n", bits, token, Json(text).dump(-1, ' ', false, Json::error_handler_t::replace));
    }
  }

  void report_line(const Line& line) {
    ++line_number_;
    if (by_ != "line") return;
    if (json_) {
      print("{{\"line\":{},\"bytes\":{},\"bits\":{:.6f}}}\n", line_number_, line.bytes, line.bits);
    } else {
      print("{:.2f}\t{}\t{}{}", line.bits, line.bytes, line.text, line.text.ends_with('\n') ? "" : "\n");
    }
  }

  // The end of a text is predicted too; it counts as one byte.
  void end_document(TextStream& stream) {
    bits_.clear();
    stream.score({tokenizer_->eot()}, bits_);
    if (open_line_.bytes > 0) {
      report_line(open_line_);
      open_line_ = {};
    }
    if (by_ == "token") report_token(tokenizer_->eot(), bits_[0]);
    document_bits_ += bits_[0];
    document_bytes_ += 1;
    ++documents_;
    total_bits_ += document_bits_;
    total_bytes_ += document_bytes_;
    if (by_ == "document") {
      const double rate = document_bits_ / static_cast<double>(document_bytes_);
      if (json_) {
        print("{{\"document\":{},\"bytes\":{},\"bits\":{:.6f},\"bits_per_byte\":{:.6f}}}\n", documents_,
              document_bytes_, document_bits_, rate);
      } else {
        print("{:.2f}\t{}\t{:.4f}\tdocument {}\n", document_bits_, document_bytes_, rate, documents_);
      }
    }
    document_bits_ = 0;
    document_bytes_ = 0;
    stream.restart();
  }

  std::string model_, by_ = "document";
  bool json_ = false;
  const Tokenizer* tokenizer_ = nullptr;
  std::vector<int32_t> tokens_;  // read, not scored yet
  std::vector<double> bits_;
  std::vector<Line> lines_;  // ended lines among them
  Line open_line_;
  int64_t line_number_ = 0, document_bytes_ = 0, total_bytes_ = 0, documents_ = 0;
  double document_bits_ = 0, total_bits_ = 0;
};

const Registered<Score> registered("score", "measure how surprising standard input is, in bits");

}  // namespace
}  // namespace harmonic
