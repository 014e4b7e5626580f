// A request for texts: its prompts are read, the texts written, and the answer given whole or as a stream, in
// the form of one of OpenAI's two routes.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "harmonic/server/json_fields.h"
#include "harmonic/server/service.h"

namespace harmonic {

struct Prompt {
  std::vector<int32_t> tokens;
  std::string text;           // for echo
  bool with_leading = false;  // the client sent the token that leads every document, which is not in `tokens`
};

struct GenerationPlan {
  enum class Form { completion, chat };
  Form form = Form::completion;
  std::vector<Prompt> prompts;
  std::shared_ptr<const TextPoint> from;  // null: every prompt begins a document
  bool from_was_sent = false;             // it came with the request; the server kept it otherwise
  bool begins_document() const { return !from || from->at_beginning(); }
  int64_t choices = 1;  // of each prompt
  int64_t max_tokens = 16;
  SamplingOptions sampling;
  int64_t alternatives = -1;
  std::vector<std::string> stop;
  bool echo = false, ignore_end = false, stream = false, include_usage = false;
  int32_t end_token = -1;                    // that ends an answer, beside the end of a text; -1: none does
  bool token_ids = false, activity = false;  // beside the log-probabilities
  std::string id;                            // of the answer
  // Called on a worker's thread when every text has ended, with where each stands: what it returns are more
  // fields of the answer, `"session":"..."`, or nothing. May throw ApiError. Not called when the client went
  // away or something failed; what it holds is then let go of.
  std::function<std::string(std::vector<TextPoint>)> ended;
};

// The fields that both routes have: temperature, top_p, top_k, min_p, seed, n, stop, stream, stream_options,
// ignore_end and model; those that are known and refused.
void read_common_fields(const Service& service, JsonFields& fields, GenerationPlan& plan);

// Reads the fields of /v1/completions into a plan whose `from` is set, where it is. Throws ApiError.
void read_completion(Service& service, JsonFields& fields, GenerationPlan& plan);

// Throws ApiError where the plan's prompts and texts are more than one request may have.
void check_sizes(const Service& service, const GenerationPlan& plan);
// About how much memory its answer may come to until it leaves.
int64_t answer_bytes(const GenerationPlan& plan);

// What is to be written for one of a prompt's choices: choice 0 has the plan's own seed.
void set_writing(const GenerationPlan& plan, int64_t choice, GenerationRequest& request);

// Starts it. Throws ApiError when it cannot be; the exchange is then the caller's to answer.
void generate(Service& service, const Call& call, GenerationPlan plan);

}  // namespace harmonic
