#include "harmonic/data/document_reader.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "harmonic/base/error.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"
#include "harmonic/data/text_file.h"

namespace harmonic {
namespace {

constexpr size_t kBufferBytes = 1 << 18;
constexpr size_t kSampleBytes = 1 << 16;  // what a file is judged by
constexpr size_t kSmallestSample = 256;   // too little text to call it binary

struct FormatName {
  DocumentFormat format;
  std::string_view name;
};
constexpr FormatName kFormats[] = {
    {DocumentFormat::automatic, "auto"},    {DocumentFormat::text, "text"},
    {DocumentFormat::json_lines, "jsonl"},  {DocumentFormat::nul, "nul"},
    {DocumentFormat::blank_lines, "blank"}, {DocumentFormat::wikitext, "wikitext"},
    {DocumentFormat::shards, "shards"}};

// Text in any common encoding of bytes has almost no control characters; NULs only between documents.
// Executables, images, random bytes and UTF-16 have many.
bool looks_binary(std::string_view sample) {
  if (sample.size() < kSmallestSample) return false;
  size_t nul = 0, control = 0;
  for (unsigned char byte : sample) {
    nul += byte == 0;
    control += (byte < 0x20 && byte != 0 && !(byte >= '\t' && byte <= '\r') && byte != 0x1b) || byte == 0x7f;
  }
  return nul * 10 > sample.size() * 3 || control * 50 > sample.size();
}

bool named_as_json_lines(std::string_view name) {
  for (std::string_view ending : {".gz", ".xz", ".zst"})
    if (name.ends_with(ending)) name.remove_suffix(ending.size());
  return name.ends_with(".jsonl") || name.ends_with(".ndjson");
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

// " = Title = ", of an article; " = = Title = = " is that of a section.
bool is_article_title(std::string_view line) {
  if (is_blank(line)) return false;
  const size_t first = line.find_first_not_of(" \t\r");
  line = line.substr(first, line.find_last_not_of(" \t\r") + 1 - first);
  return line.size() > 4 && line.starts_with("= ") && line.ends_with(" =") && !line.starts_with("= = ");
}

}  // namespace

DocumentFormat document_format_of(std::string_view name) {
  for (const FormatName& known : kFormats)
    if (known.name == name) return known.format;
  fail_usage("unknown document format \"{}\"; expected one of {}", name,
             fmt::join(document_format_names(), ", "));
}

std::string_view name_of(DocumentFormat format) {
  for (const FormatName& known : kFormats)
    if (known.format == format) return known.name;
  return "?";
}

std::vector<std::string> document_format_names() {
  std::vector<std::string> names;
  for (const FormatName& known : kFormats) names.emplace_back(known.name);
  return names;
}

std::vector<std::string> text_format_names() {
  std::vector<std::string> names;
  for (const FormatName& known : kFormats)
    if (known.format != DocumentFormat::shards) names.emplace_back(known.name);
  return names;
}

struct DocumentSource::State {
  std::vector<std::string> inputs;
  std::vector<InputFile> files;
  ReaderOptions options;

  size_t next_file = 0;
  std::vector<int64_t> documents_of_input;
  std::optional<TextFile> file;
  bool in_member = false;
  std::string current;  // name of the file and member in hand
  DocumentFormat format = DocumentFormat::text;
  int64_t line_number = 0;
  std::string line;   // of JSON, or of text in search of blank lines
  std::string begun;  // of the next article: the lines that told where this one ends
  int64_t binary_files = 0;
  std::string first_binary;

  std::vector<char> buffer = std::vector<char>(kBufferBytes);
  size_t begin = 0, end = 0;
  bool member_ended = false;

  bool fill() {
    if (begin < end) return true;
    if (member_ended) return false;
    begin = 0;
    end = file->read(buffer.data(), buffer.size());
    member_ended = end < buffer.size();
    return end > 0;
  }

  void append(std::string& text, const char* from, size_t size) const {
    if (static_cast<int64_t>(text.size() + size) > options.max_document_bytes)
      fail("{}: a document longer than {} bytes; split it, or name the format that separates documents",
           current, options.max_document_bytes);
    text.append(from, size);
  }

  // Appends up to `delimiter`, which is consumed and left out. False when the member ended first.
  bool read_until(char delimiter, std::string& text) {
    while (fill()) {
      const char* from = buffer.data() + begin;
      if (const void* found = std::memchr(from, delimiter, end - begin)) {
        const size_t size = static_cast<size_t>(static_cast<const char*>(found) - from);
        append(text, from, size);
        begin += size + 1;
        return true;
      }
      append(text, from, end - begin);
      begin = end;
    }
    return false;
  }

  // Moves on to the next member of the next file. False when all inputs are read.
  bool open_member() {
    for (;;) {
      if (!file) {
        if (next_file == files.size()) return false;
        file.emplace(files[next_file++].path);
      }
      if (!file->next_member()) {
        file.reset();
        finish_inputs();
        continue;
      }
      current = file->name();
      line_number = 0;
      begun.clear();
      begin = end = 0;
      member_ended = false;
      format = options.format;
      if (format == DocumentFormat::automatic && !tell_format()) continue;
      in_member = true;
      return true;
    }
  }

  // Settles `format` by the name and the first bytes. False for a binary file to be passed over.
  bool tell_format() {
    // Where there is no NUL byte, what `nul` finds is the whole file: it serves for text as well.
    format = named_as_json_lines(current) ? DocumentFormat::json_lines : DocumentFormat::nul;
    fill();
    if (!looks_binary({buffer.data(), std::min(end, kSampleBytes)})) return true;
    if (files[next_file - 1].named)
      fail("{}: looks like a binary file, not text; name its format (e.g. text) to read it all the same",
           current);
    if (binary_files++ == 0) first_binary = current;
    return false;
  }

  // After the last file of an input: it must have given something.
  void finish_inputs() {
    const size_t input = files[next_file - 1].input;
    if (next_file < files.size() && files[next_file].input == input) return;
    if (documents_of_input[input] == 0)
      fail("{}: holds no text{}", inputs[input] == "-" ? "standard input" : inputs[input],
           binary_files > 0 ? " (its files look binary)" : "");
    if (next_file == files.size() && binary_files > 0)
      warn("{} file(s) look binary and were passed over, the first: {}", binary_files, first_binary);
  }

  bool next_json(std::string& document) {
    for (;;) {
      line.clear();
      const bool more = read_until('\n', line);
      ++line_number;
      if (!is_blank(line)) {
        const std::string place = fmt::format("{}: line {}", current, line_number);
        const Json value = parse_json(line, place);
        if (!value.is_object()) fail("{}: expected a JSON object, found {}", place, value.type_name());
        const auto field = value.find(options.json_field);
        if (field == value.end()) fail("{}: the object has no field \"{}\"", place, options.json_field);
        if (!field->is_string())
          fail("{}: field \"{}\" is {}; a string was expected", place, options.json_field,
               field->type_name());
        document = field->get_ref<const std::string&>();
        if (!document.empty()) return true;
      }
      if (!more) return false;
    }
  }

  bool next_between_blank_lines(std::string& document) {
    int64_t blank = 0;
    std::string gap;  // blank lines that belong to the document if only one stands there
    for (bool more = true; more;) {
      line.clear();
      more = read_until('\n', line);
      if (is_blank(line)) {
        if (document.empty() || !more) continue;
        if (++blank == 2) return true;
        gap = line + "\n";
        continue;
      }
      if (blank == 1) append(document, gap.data(), gap.size());
      blank = 0;
      append(document, line.data(), line.size());
      if (more) append(document, "\n", 1);
    }
    return !document.empty();
  }

  bool next_article(std::string& document) {
    bool has_text = !begun.empty();
    append(document, begun.data(), begun.size());
    begun.clear();
    std::string
        held;  // a blank line that may begin the next article, and the line after it if that is a title
    bool holds_title = false;
    const auto release = [&] {
      append(document, held.data(), held.size());
      has_text |= holds_title;
      held.clear();
      holds_title = false;
    };
    for (bool more = true; more;) {
      line.clear();
      more = read_until('\n', line);
      const bool blank = is_blank(line), title = is_article_title(line);
      if (more) line += '\n';
      if (holds_title && blank && has_text) {
        begun = held + line;
        return true;
      }
      if (title && !holds_title && (!held.empty() || document.empty())) {
        held += line;
        holds_title = true;
        continue;
      }
      release();
      if (blank) {
        held = line;
      } else {
        append(document, line.data(), line.size());
        has_text = true;
      }
    }
    release();
    return has_text;
  }

  bool next_of_member(std::string& document) {
    document.clear();
    switch (format) {
      case DocumentFormat::json_lines:
        return next_json(document);
      case DocumentFormat::blank_lines:
        return next_between_blank_lines(document);
      case DocumentFormat::wikitext:
        return next_article(document);
      case DocumentFormat::text:
        while (fill()) {
          append(document, buffer.data() + begin, end - begin);
          begin = end;
        }
        return !document.empty();
      case DocumentFormat::nul:
      case DocumentFormat::automatic:
      case DocumentFormat::shards:
        while (read_until('\0', document))
          if (!document.empty()) return true;
        return !document.empty();
    }
    return false;
  }
};

DocumentSource::DocumentSource(const std::vector<std::string>& inputs, ReaderOptions options)
    : state_(std::make_unique<State>()) {
  if (options.format == DocumentFormat::shards)
    fail_usage("format \"shards\" means folders of token shards; text was expected here");
  state_->inputs = inputs;
  state_->files = list_input_files(inputs);
  state_->options = std::move(options);
  state_->documents_of_input.resize(inputs.size());
}

DocumentSource::~DocumentSource() = default;

bool DocumentSource::next(std::string& document) {
  State& state = *state_;
  for (;;) {
    if (!state.in_member && !state.open_member()) return false;
    if (state.next_of_member(document)) {
      ++state.documents_of_input[state.files[state.next_file - 1].input];
      return true;
    }
    state.in_member = false;
  }
}

}  // namespace harmonic
