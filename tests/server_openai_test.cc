// The OpenAI routes, as clients see them.
#include "harmonic/convert/convert.h"
#include "harmonic/runtime/log_probabilities.h"
#include "harmonic/runtime/sampler.h"
#include "harmonic/runtime/text_stream.h"
#include "harmonic/tokenizer/chat_template.h"
#include "harmonic/tokenizer/utf8_stream.h"
#include "tests/server_fixture.h"

namespace harmonic {
namespace {

using OpenAi = ServerTest;

TEST_F(OpenAi, ModelsAreListed) {
  const Json models = look("/v1/models");
  EXPECT_EQ(models["object"], "list");
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  EXPECT_EQ(look("/v1/models/tiny")["id"], "tiny");
  EXPECT_EQ(HttpClient(port()).get("/v1/models/other").status, 404);
}

TEST_F(OpenAi, ACompletionIsTheTextThatHarmonicGenerateWrites) {
  const LoadedModel loaded = load_model_folder(folder_ / "model", cpu_backend());
  ThreadPool pool(1);
  Inference inference(*loaded.model, pool);
  TextStream stream(inference, loaded.tokenizer->bos());
  stream.append(loaded.tokenizer->encode("Once upon"));
  SamplingOptions options;
  options.temperature = 0.7;
  options.top_k = 50;
  options.seed = 5;
  Sampler sampler(options);
  Utf8Stream characters;
  std::string expected;
  for (int i = 0; i < 30; ++i) {
    const int32_t token = sampler.sample(stream.next_logits(), stream.length());
    if (token == 0) break;
    expected += characters.push(loaded.tokenizer->bytes_of(token));
    stream.append({token});
  }
  expected += characters.flush();
  const Json body = {{"model", "tiny"},    {"prompt", "Once upon"}, {"max_tokens", 30},
                     {"temperature", 0.7}, {"top_k", 50},           {"seed", 5}};
  const Json answer = ask("/v1/completions", body);
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["choices"][0]["text"], expected);
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 9);
  EXPECT_EQ(answer["usage"]["total_tokens"], 9 + answer["usage"]["completion_tokens"].get<int>());
  // Streamed, the same.
  Json streamed = body;
  streamed["stream"] = true;
  streamed["stream_options"] = {{"include_usage", true}};
  const HttpReply reply = post("/v1/completions", streamed);
  EXPECT_EQ(reply.headers.at("content-type"), "text/event-stream; charset=utf-8");
  std::string text;
  Json last;
  const std::vector<Json> events = events_of(reply.body);
  for (const Json& event : events) {
    if (!event["choices"].empty()) {
      EXPECT_TRUE(event["usage"].is_null());
      text += event["choices"][0]["text"].get<std::string>();
      last = event["choices"][0]["finish_reason"];
    }
  }
  EXPECT_EQ(text, expected);
  EXPECT_EQ(last, answer["choices"][0]["finish_reason"]);
  EXPECT_EQ(events.back()["usage"], [&] {
    Json usage = answer["usage"];
    usage["prompt_tokens_details"]["cached_tokens"] = 9;  // the prompt's state was kept
    return usage;
  }());
}

TEST_F(OpenAi, SeveralPromptsAndSeveralChoicesAreThoseOfSingleRequests) {
  const Json single = {{"max_tokens", 12}, {"seed", 3}, {"ignore_end", true}, {"logprobs", 2}};
  Json both = single;
  both["prompt"] = {"abc", "the second"};
  both["n"] = 3;
  const Json answer = ask("/v1/completions", both);
  ASSERT_EQ(answer["choices"].size(), 6u);
  for (size_t p = 0; p < 2; ++p) {
    Json one = single;
    one["prompt"] = both["prompt"][p];
    const Json alone = ask("/v1/completions", one);
    Json first = answer["choices"][3 * p];
    EXPECT_EQ(first["index"], 3 * p);
    EXPECT_EQ(first["text"], alone["choices"][0]["text"]);
    EXPECT_EQ(first["logprobs"], alone["choices"][0]["logprobs"]);
    EXPECT_NE(answer["choices"][3 * p + 1]["text"], first["text"]);
    EXPECT_NE(answer["choices"][3 * p + 1]["text"], answer["choices"][3 * p + 2]["text"]);
  }
}

TEST_F(OpenAi, WhatTheEvaluationHarnessSendsIsAnsweredAsItExpects) {
  const std::vector<int> context = {72, 101, 108, 108, 111}, target = {32, 119};
  std::vector<int> prompt = context;
  prompt.insert(prompt.end(), target.begin(), target.end());
  const Json answer = ask("/v1/completions", {{"model", "tiny"},
                                              {"prompt", {prompt, context}},
                                              {"temperature", 0},
                                              {"max_tokens", 1},
                                              {"logprobs", 1},
                                              {"seed", 1234},
                                              {"echo", true}});
  const Json& logprobs = answer["choices"][0]["logprobs"];
  ASSERT_EQ(logprobs["token_logprobs"].size(), prompt.size() + 1);
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  const LoadedModel loaded = load_model_folder(folder_ / "model", cpu_backend());
  ThreadPool pool(1);
  Inference inference(*loaded.model, pool);
  TextStream stream(inference, 0);
  std::vector<double> bits;
  stream.score({prompt.begin(), prompt.end()}, bits);
  for (size_t i = 1; i < prompt.size(); ++i)
    EXPECT_NEAR(logprobs["token_logprobs"][i].get<double>(), -bits[i] / kBitsPerNat, 1e-5);
  // The token that was written is the likeliest, and its log-probability the top one's as a number.
  const Json& top = logprobs["top_logprobs"].back();
  EXPECT_EQ(top.size(), 1u);
  EXPECT_EQ(logprobs["token_logprobs"].back(), top.begin().value());
  EXPECT_TRUE(answer["choices"][0]["text"].get<std::string>().starts_with("Hello w"));
  // The token that leads every document may be sent, and is one entry more.
  std::vector<int> led = {0};
  led.insert(led.end(), prompt.begin(), prompt.end());
  const Json with =
      ask("/v1/completions",
          {{"prompt", led}, {"max_tokens", 0}, {"logprobs", 1}, {"echo", true}})["choices"][0]["logprobs"];
  ASSERT_EQ(with["token_logprobs"].size(), prompt.size() + 1);
  EXPECT_TRUE(with["token_logprobs"][0].is_null());
  EXPECT_EQ(with["tokens"][0], "<|endoftext|>");
  EXPECT_NEAR(with["token_logprobs"][1].get<double>(), -bits[0] / kBitsPerNat, 1e-5);
  EXPECT_EQ(with["token_logprobs"][2], logprobs["token_logprobs"][1]);
  EXPECT_EQ(ask("/v1/completions", {{"prompt", led},
                                    {"max_tokens", 0},
                                    {"logprobs", 1},
                                    {"echo", true},
                                    {"return_token_ids", true}})["choices"][0]["logprobs"]["token_ids"],
            Json(led));
  const Json info = look("/tokenizer_info");
  EXPECT_EQ(ask("/tokenize", {{"prompt", info["eos_token"]}, {"add_special_tokens", false}})["tokens"],
            Json({0}));
  EXPECT_EQ(ask("/tokenize", {{"prompt", "Hi"}, {"add_special_tokens", true}})["tokens"], Json({0, 72, 105}));
  EXPECT_EQ(ask("/detokenize", {{"tokens", {72, 105}}})["prompt"], "Hi");
}

TEST_F(OpenAi, AModelOfAnyNameIsFoundByIt) {
  config.model_name = "org/my m\u00f6del";
  EXPECT_EQ(look("/v1/models/org/my%20m%C3%B6del")["id"], config.model_name);
  EXPECT_EQ(look("/v1/models/org%2Fmy%20m%c3%b6del")["id"], config.model_name);
  for (const char* path :
       {"/v1/models/org", "/v1/models/", "/v1/models/%", "/v1/models/%4", "/v1/models/%zz"})
    EXPECT_EQ(HttpClient(port()).get(path).status, 404) << path;
}

TEST_F(OpenAi, ALongEchoStreamsToWhatAWholeAnswerSays) {
  std::vector<int> prompt;
  for (int i = 0; i < 12'000; ++i) prompt.push_back(i % 7 == 3 ? 0xC3 + (i % 2) : 97 + i % 26);
  Json body = {{"prompt", prompt}, {"echo", true}, {"logprobs", 20},           {"max_tokens", 5},
               {"n", 2},           {"seed", 3},    {"return_token_ids", true}, {"ignore_end", true}};
  const Json whole = ask("/v1/completions", body);
  body["stream"] = true;
  HttpReply reply = post("/v1/completions", body);
  ASSERT_EQ(reply.status, 200);
  EXPECT_GT(reply.body.size(), 10u << 20) << "more than a stream's reader may leave";
  std::vector<std::string> texts(2);
  std::vector<Json> logprobs(2);
  for (const Json& event : events_of(reply.body)) {
    const Json& choice = event["choices"][0];
    const size_t i = choice["index"].get<size_t>();
    texts[i] += choice["text"].get<std::string>();
    for (const auto& [key, list] : choice["logprobs"].items())
      for (const Json& one : list) logprobs[i][key].push_back(one);
  }
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(texts[i] == whole["choices"][i]["text"], true);
    for (const auto& [key, list] : whole["choices"][i]["logprobs"].items())
      EXPECT_EQ(logprobs[i][key] == list, true) << key;
  }
}

TEST_F(OpenAi, AnEchoShowsACharacterThatIsCutOnce) {
  Json body = {{"prompt", {0x61, 0xC3}}, {"echo", true}, {"max_tokens", 0}};
  EXPECT_EQ(ask("/v1/completions", body)["choices"][0]["text"], "a\xEF\xBF\xBD");
  body["stream"] = true;
  std::string text;
  for (const Json& event : events_of(post("/v1/completions", body).body))
    text += event["choices"][0]["text"].get<std::string>();
  EXPECT_EQ(text, "a\xEF\xBF\xBD");
}

TEST_F(OpenAi, ATextThatTheModelEndsSaysSo) {
  // Of many seeds some end early.
  bool ended = false;
  for (int seed = 0; seed < 40 && !ended; ++seed) {
    const Json choice = ask("/v1/completions", {{"prompt", "a"},
                                                {"max_tokens", 100},
                                                {"seed", seed},
                                                {"logprobs", 0},
                                                {"temperature", 2}})["choices"][0];
    ended = choice["finish_reason"] == "stop";
    if (ended) {
      EXPECT_EQ(choice["logprobs"]["tokens"].back(), "<|endoftext|>");
    }
    if (!ended) {
      EXPECT_EQ(choice["logprobs"]["tokens"].size(), 100u);
    }
  }
  EXPECT_TRUE(ended);
}

TEST_F(OpenAi, AChatIsWrittenAsTheModelsTemplateHasIt) {
  const PretrainedModel source =
      read_pretrained(std::string(HARMONIC_SOURCE_DIR) + "/tests/golden/small_llama.gguf", {}, cpu_backend());
  Model& model = *source.loaded.model;
  const Tokenizer& tokenizer = *source.loaded.tokenizer;
  std::filesystem::remove_all(folder_ / "model");
  save_model_folder(folder_ / "model", model, tokenizer, "chatml");
  const auto answer_to = [&](const Json& messages) {
    return ask("/v1/chat/completions", {{"messages", messages}, {"max_tokens", 8}, {"temperature", 0}});
  };
  const Json answer = answer_to({{{"role", "developer"}, {"content", "the hat"}},
                                 {{"role", "user"}, {"content", "the cat sat"}},
                                 {{"role", "assistant"}, {"content", "on it"}},
                                 {{"role", "user"}, {"content", "the mat"}}});

  const ChatTemplate chat("chatml", tokenizer);
  const std::vector<ChatMessage> messages = {
      {"system", "the hat"}, {"user", "the cat sat"}, {"assistant", "on it"}, {"user", "the mat"}};
  const std::vector<int32_t> tokens = chat.conversation(messages);
  ThreadPool pool(1);
  Inference inference(model, pool);
  TextStream stream(inference, tokens.front());
  stream.append({tokens.begin() + 1, tokens.end()});
  Sampler sampler({.temperature = 0});
  std::vector<int32_t> expected;
  for (int i = 0; i < 8; ++i) {
    const int32_t token = sampler.sample(stream.next_logits(), stream.length());
    if (token == tokenizer.eot() || token == chat.end_of_answer()) break;
    expected.push_back(token);
    stream.append({token});
  }
  EXPECT_EQ(answer["usage"]["prompt_tokens"], tokens.size());
  EXPECT_EQ(answer["choices"][0]["message"]["content"], tokenizer.decode(expected));
  EXPECT_NE(answer_to({{{"role", "user"}, {"content", "the mat"}}})["choices"], answer["choices"]);
}

TEST_F(OpenAi, AChatIsAnsweredWholeAndAsAStream) {
  const Json body = {{"model", "tiny"},
                     {"messages",
                      {{{"role", "system"}, {"content", "Be brief."}},
                       {{"role", "user"}, {"content", {{{"type", "text"}, {"text", "Hello"}}}}}}},
                     {"max_tokens", 10},
                     {"seed", 4},
                     {"logprobs", true},
                     {"top_logprobs", 2}};
  const Json answer = ask("/v1/chat/completions", body);
  EXPECT_EQ(answer["object"], "chat.completion");
  const Json& choice = answer["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["logprobs"]["content"].size(), answer["usage"]["completion_tokens"].get<size_t>());
  EXPECT_EQ(choice["logprobs"]["content"][0]["top_logprobs"].size(), 2u);
  Json streamed = body;
  streamed["stream"] = true;
  std::string text;
  size_t logprobs = 0;
  for (const Json& event : events_of(post("/v1/chat/completions", streamed).body)) {
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    const Json& delta = event["choices"][0]["delta"];
    if (delta.contains("content")) text += delta["content"].get<std::string>();
    if (!event["choices"][0]["logprobs"].is_null())
      logprobs += event["choices"][0]["logprobs"]["content"].size();
  }
  EXPECT_EQ(text, choice["message"]["content"]);
  EXPECT_EQ(logprobs, choice["logprobs"]["content"].size());
}

TEST_F(OpenAi, MistakesAreNamedInTheFormThatClientsKnow) {
  const std::vector<std::pair<Json, std::string>> mistakes = {
      {{{"max_tokens", -1}}, "max_tokens"},
      {{{"max_tokens", 1.5}}, "max_tokens"},
      {{{"max_tokens", 1e30}}, "max_tokens"},
      {{{"temperature", "hot"}}, "temperature"},
      {{{"temperature", -1}}, "temperature"},
      {{{"n", 0}}, "n"},
      {{{"n", 1000}}, "n"},
      {{{"prompt", 5}}, "prompt"},
      {{{"prompt", Json::array()}}, "prompt"},
      {{{"prompt", {1, 256}}}, "prompt"},
      {{{"prompt", {1, -1}}}, "prompt"},
      {{{"prompt", {1, "x"}}}, "prompt"},
      {{{"prompt", {"x", 1}}}, "prompt"},
      {{{"stop", 5}}, "stop"},
      {{{"stream", "yes"}}, "stream"},
      {{{"logprobs", 21}}, "logprobs"},
      {{{"suffix", "x"}}, "suffix"},
      {{{"best_of", 4}}, "best_of"},
      {{{"frequency_penalty", 1}}, "frequency_penalty"},
      {{{"max_token", 5}}, "max_token"},
      {{{"stream", true}, {"stream_options", {{"include_usages", true}}}}, "stream_options"},
  };
  for (const auto& [body, field] : mistakes) {
    const HttpReply reply = post("/v1/completions", body);
    EXPECT_EQ(reply.status, 400) << body.dump();
    const Json error = parse_json(reply.body, "the answer")["error"];
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_EQ(error["param"], field) << body.dump();
    EXPECT_NE(error["message"].get<std::string>().find(field), std::string::npos);
  }
  EXPECT_EQ(post("/v1/completions", {{"frequency_penalty", 0},
                                     {"logit_bias", Json::object()},
                                     {"suffix", nullptr},
                                     {"best_of", 1},
                                     {"max_tokens", 1}})
                .status,
            200);
  const auto says = [&](Json message) {
    message["role"] = "user";
    return post("/v1/chat/completions", {{"messages", {message}}, {"max_tokens", 1}}).status;
  };
  EXPECT_EQ(says({{"content", "a"}, {"name", "b"}, {"tool_calls", nullptr}}), 200);
  EXPECT_EQ(says({{"content", "a"}, {"tool_calls", {{{"id", "b"}}}}}), 400);
  EXPECT_EQ(says({{"content", "a"}, {"contents", "b"}}), 400);
  EXPECT_EQ(says({{"content", {{{"type", "text"}, {"text", "a"}}}}}), 200);
  EXPECT_EQ(says({{"content", {{{"type", "text"}, {"text", "a"}, {"texts", "b"}}}}}), 400);
  EXPECT_EQ(post("/v1/completions", {{"model", "other"}}).status, 404);
  EXPECT_EQ(HttpClient(port()).post("/v1/completions", "{\"prompt\":").status, 400);
  EXPECT_EQ(HttpClient(port()).post("/v1/completions", "[]").status, 400);
  EXPECT_EQ(HttpClient(port()).post("/v1/completions", std::string(100, '[') + std::string(100, ']')).status,
            400);
  HttpReply refused = HttpClient(port()).get("/v1/completions");
  EXPECT_EQ(refused.status, 405);
  EXPECT_EQ(refused.headers["allow"], "POST, OPTIONS");
  EXPECT_EQ(HttpClient(port()).post("/health", "{}").status, 405);
  HttpReply options = HttpClient(port()).request("OPTIONS", "/v1/sessions/a");
  EXPECT_EQ(options.status, 204);
  EXPECT_EQ(options.headers["allow"], "GET, HEAD, DELETE, OPTIONS");
  EXPECT_EQ(HttpClient(port()).request("OPTIONS", "/no/such/path").status, 404);
  EXPECT_EQ(HttpClient(port()).request("DELETE", "/v1/sessions/import").status, 405);
  EXPECT_EQ(HttpClient(port()).get("/v1/nothing").status, 404);
  EXPECT_EQ(HttpClient(port()).get("/v1/models/../../etc/passwd").status, 404);
  HttpClient form(port());
  form.send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: "
      "2\r\n\r\n{}");
  EXPECT_EQ(form.read().status, 415);
}

// Only ids may begin with the token that leads every text; what a text begins with is text.
TEST_F(OpenAi, ATextThatBeginsWithANulByteKeepsIt) {
  const std::string text("\0abc", 4);
  const Json logprobs =
      ask("/v1/completions",
          {{"prompt", text}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}})["choices"][0]["logprobs"];
  const Json scored = ask("/v1/score", {{"text", text}, {"by", "token"}, {"end", false}})["results"];
  ASSERT_EQ(logprobs["token_logprobs"].size(), 4u);
  ASSERT_EQ(scored.size(), 4u);
  for (size_t i = 1; i < 4; ++i)
    EXPECT_NEAR(-logprobs["token_logprobs"][i].get<double>() * kBitsPerNat, scored[i]["bits"].get<double>(),
                1e-5);
}

TEST_F(OpenAi, OneRequestAmongManyIsAnsweredAsAloneByAnyNumberOfThreads) {
  const Json body = {
      {"prompt", "Among others"}, {"max_tokens", 20}, {"seed", 9}, {"logprobs", 3}, {"ignore_end", true}};
  start(1);
  const Json alone = ask("/v1/completions", body)["choices"];
  stop();
  start(2);
  std::vector<std::thread> others;
  std::atomic<int> same{0};
  for (int i = 0; i < 24; ++i)
    others.emplace_back([&, i] {
      if (i % 2 == 0) {
        same += ask("/v1/completions", body)["choices"] == alone;
      } else {
        ask("/v1/completions",
            {{"prompt", std::string(static_cast<size_t>(i * 50), 'z')}, {"max_tokens", i}, {"n", 2}});
      }
    });
  for (std::thread& other : others) other.join();
  EXPECT_EQ(same, 12);
}

TEST_F(OpenAi, PromptsThatBeginAlikeAreReadOnceAndAnsweredAlike) {
  const std::string shared(1000, 'q');
  Json body = {{"prompt", shared + " one"}, {"max_tokens", 8}, {"seed", 2}, {"logprobs", 1}};
  config.cache_mb = 0;
  start();
  const Json first = ask("/v1/completions", body);
  EXPECT_EQ(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  stop();
  config.cache_mb = 16;
  start();
  EXPECT_EQ(ask("/v1/completions", {{"prompt", shared + " two"},
                                    {"max_tokens", 1}})["usage"]["prompt_tokens_details"]["cached_tokens"],
            0);
  const Json second = ask("/v1/completions", body);
  EXPECT_EQ(second["usage"]["prompt_tokens_details"]["cached_tokens"], 768);
  EXPECT_EQ(second["choices"], first["choices"]);
  EXPECT_EQ(ask("/v1/completions", body)["usage"]["prompt_tokens_details"]["cached_tokens"], 1004);
  EXPECT_EQ(ask("/v1/completions", body)["choices"], first["choices"]);
}

}  // namespace
}  // namespace harmonic
