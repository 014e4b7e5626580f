#include "harmonic/data/corpora.h"

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

constexpr int64_t kMillion = 1'000'000;

// Sizes and checksums are those on which independent public sources agree; docs/corpora.md names them.
std::vector<Corpus> known_corpora() {
  std::vector<Corpus> all;

  Corpus enwik8;
  enwik8.name = "enwik8";
  enwik8.about = "the first 10^8 bytes of the English Wikipedia of 2006, XML; CC BY-SA 3.0 and GFDL";
  enwik8.addresses = {"http://mattmahoney.net/dc/enwik8.zip", "https://data.deepai.org/enwik8.zip"};
  enwik8.file = "enwik8.zip";
  enwik8.bytes = 36'445'475;
  enwik8.sha256 = "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc";
  enwik8.members = {{"enwik8", "enwik8", 100 * kMillion,
                     "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"}};
  enwik8.splits = {
      {"90/5/5",
       {{"train.txt", 0, 90 * kMillion},
        {"valid.txt", 90 * kMillion, 5 * kMillion},
        {"test.txt", 95 * kMillion, 5 * kMillion}}},
      {"90/10", {{"train.txt", 0, 90 * kMillion}, {"heldout.txt", 90 * kMillion, 10 * kMillion}}}};
  enwik8.by_hand = "http://mattmahoney.net/dc/textdata.html";
  all.push_back(enwik8);

  Corpus wikitext;
  wikitext.name = "wikitext-103-raw";
  wikitext.about = "28,595 good and featured articles of the English Wikipedia; CC BY-SA 3.0 and GFDL";
  wikitext.addresses = {"https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
                        "https://huggingface.co/datasets/mattdangerw/wikitext-103-raw/resolve/main/"
                        "wikitext-103-raw-v1.zip"};
  wikitext.file = "wikitext-103-raw-v1.zip";
  wikitext.bytes = 191'984'949;
  wikitext.sha256 = "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794";
  wikitext.members = {{"wikitext-103-raw/wiki.train.raw", "train.txt", 0, ""},
                      {"wikitext-103-raw/wiki.valid.raw", "valid.txt", 0, ""},
                      {"wikitext-103-raw/wiki.test.raw", "test.txt", 0, ""}};
  wikitext.by_hand = "https://wikitext.smerity.com";
  wikitext.format = "wikitext";
  all.push_back(wikitext);

  wikitext.name = "wikitext-103";
  wikitext.about = "the same articles with rare words as <unk>, for word-level figures";
  wikitext.addresses = {"https://wikitext.smerity.com/wikitext-103-v1.zip"};
  wikitext.file = "wikitext-103-v1.zip";
  wikitext.bytes = 190'229'076;
  wikitext.sha256 = "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590";
  wikitext.members = {{"wikitext-103/wiki.train.tokens", "train.txt", 0, ""},
                      {"wikitext-103/wiki.valid.tokens", "valid.txt", 0, ""},
                      {"wikitext-103/wiki.test.tokens", "test.txt", 0, ""}};
  all.push_back(wikitext);

  Corpus lambada;
  lambada.name = "lambada";
  lambada.about = "5,153 passages whose last word is asked for, OpenAI's form of the test set; CC BY 4.0";
  lambada.addresses = {"https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
                       "https://huggingface.co/datasets/EleutherAI/lambada_openai/resolve/main/data/"
                       "lambada_test.jsonl"};
  lambada.file = "lambada_test.jsonl";
  lambada.bytes = 1'819'752;
  lambada.sha256 = "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226";
  lambada.by_hand = "https://huggingface.co/datasets/EleutherAI/lambada_openai";
  all.push_back(lambada);

  Corpus pg19;
  pg19.name = "pg19";
  pg19.about = "28,752 books of Project Gutenberg from before 1919, 11 GB; public domain in the USA";
  pg19.by_hand =
      "it is 28,752 files without a published checksum: gsutil -m cp -r gs://deepmind-gutenberg/train "
      "gs://deepmind-gutenberg/validation gs://deepmind-gutenberg/test . "
      "(https://github.com/google-deepmind/pg19); each book is a .txt file, and each folder is read as it is";
  all.push_back(pg19);

  Corpus fineweb;
  fineweb.name = "fineweb-edu";
  fineweb.about = "educational web pages, a sample of 10 billion tokens; ODC-By 1.0";
  fineweb.by_hand =
      "it is published as Parquet, which is not read here: write JSON lines with Python's datasets library, "
      "load_dataset(\"HuggingFaceFW/fineweb-edu\", \"sample-10BT\", split=\"train\")"
      ".to_json(\"fineweb-edu.jsonl\") (https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu)";
  all.push_back(fineweb);
  return all;
}

}  // namespace

const std::vector<Corpus>& corpora() {
  static const std::vector<Corpus> all = known_corpora();
  return all;
}

const Corpus& corpus_named(std::string_view name) {
  std::string names;
  for (const Corpus& corpus : corpora()) {
    if (corpus.name == name) return corpus;
    names += (names.empty() ? "" : ", ") + corpus.name;
  }
  fail_usage("no corpus is known as \"{}\"; there are {}", name, names);
}

}  // namespace harmonic
