// Documents, one at a time, from files, folders, patterns and standard input.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/data/input_files.h"

namespace harmonic {

enum class DocumentFormat {
  automatic,    // json_lines for names in .jsonl or .ndjson; otherwise nul if the file holds a NUL byte, else
                // text
  text,         // the whole file, whatever bytes it holds
  nul,          // each document is ended by a NUL byte; the last may go without
  blank_lines,  // documents separated by two or more blank lines, which belong to none
  json_lines,   // a JSON object a line, the text in one of its fields
  wikitext,     // the articles of a WikiText file, each from the blank line before its title " = Title = ",
                // which stands between blank lines, to the next one's: together every byte of the file
  shards,       // no text: folders of token shards only, for load_corpus(); DocumentSource refuses it
};
// Throws Error (usage) for a name that is none of document_format_names().
DocumentFormat document_format_of(std::string_view name);
std::string_view name_of(DocumentFormat format);
// "auto", "text", ...: all of them, and those of text, which are all but "shards".
std::vector<std::string> document_format_names();
std::vector<std::string> text_format_names();

struct ReaderOptions {
  DocumentFormat format = DocumentFormat::automatic;
  std::string json_field = "text";
  int64_t max_document_bytes = int64_t{1} << 32;  // a longer document is an error
};

// The documents of all inputs, in the order of the inputs, of the sorted files, of the text: always the same.
// Bytes are handed on as they are; empty documents are passed over. An input that gives no document at all is
// an error; so is a file that looks binary under `automatic`, unless it was only found in a folder or by a
// pattern: then it is passed over and counted in one warning. Memory: the document in hand and a fixed
// buffer. Not thread-safe.
class DocumentSource {
 public:
  explicit DocumentSource(const std::vector<std::string>& inputs, ReaderOptions options = {});
  ~DocumentSource();
  DocumentSource(const DocumentSource&) = delete;
  DocumentSource& operator=(const DocumentSource&) = delete;

  // Replaces `document` by the next one; false when there are no more. Throws Error naming the file, and the
  // line for JSON lines. After an error the source must not be used again.
  bool next(std::string& document);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace harmonic
