// Many texts at work on one model: continuous batching.
//
//   BatchScheduler scheduler(model, tokenizer, {.threads = 2});
//   GenerationRequest request{.from = beginning_of_text(model), .tokens = tokenizer.encode("Once"),
//                             .max_tokens = 100};
//   const Ticket ticket = scheduler.submit(std::move(request), listener);
//
// One thread computes, in steps. A step takes every text at work: of those that read, a piece of their
// tokens; of those that write, the next one. So a text begins at the next step, whatever the others do, and a
// long prompt delays nobody by more than its piece. What comes out depends on the request alone, to the bit:
// not on who else is there, nor on the pieces.
//
// Clients share alike: whoever has the fewest texts at work is next, and where the batch is full, a text of
// the client that has most of it goes back to the queue, as it is, to go on later.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "harmonic/model/inference.h"
#include "harmonic/runtime/level_activity.h"
#include "harmonic/runtime/log_probabilities.h"
#include "harmonic/runtime/reading_plan.h"
#include "harmonic/runtime/sampler.h"
#include "harmonic/runtime/stop_strings.h"
#include "harmonic/runtime/text_point.h"
#include "harmonic/tokenizer/tokenizer.h"
#include "harmonic/tokenizer/utf8_stream.h"

namespace harmonic {

struct GenerationRequest {
  TextPoint from;
  std::vector<int32_t> tokens;  // become part of the text first; of the model's vocabulary
  bool score = false;           // each of `tokens` by what comes before it
  int64_t max_tokens = 0;       // to write then, at most
  SamplingOptions sampling;
  int64_t alternatives = -1;      // the likeliest so many beside each token; -1: no log-probabilities at all
  std::vector<std::string> stop;  // texts at which writing ends; they are not given out
  bool ignore_end = false;        // begin another document where the model ends one
  bool activity = false;          // of the levels, with each token that is written
  int32_t end_token = -1;      // stops the text too, which it becomes part of unshown: the end of an answer
  int64_t boundary_every = 0;  // on_boundary() is called at positions that are multiples of it; 0 is never
  std::string client;          // whose it is: clients share the batch and the queue
  // Then it is cancelled, wherever it stands: the queue counts.
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

// A token that was written, or read and scored.
struct TokenReport {
  int32_t token = 0;
  std::string text;    // of those written: what can be shown now, valid UTF-8; may be empty
  double logprob = 0;  // where asked for
  std::vector<TokenLogProbability> likeliest;
  std::string activity;  // where asked for: the levels' (level_activity.h), where the token was chosen
};

struct GenerationEnd {
  enum class Finish {
    length,  // max_tokens are written, or the model can take no more of the document
    stop,    // the model ended the text, or a stop string came
    cancelled,
    failed,
  };
  Finish finish = Finish::length;
  std::string text;   // what was held back and can be shown now that the text ends; of a character that it
                      // ends within, point.unfinished has the beginning
  std::string error;  // of failed
  // Failed by its own numbers: the model's are not finite after its state, or the weights are damaged.
  bool not_finite = false;
  // After the last token that was read or written (all of a stop string; after an end of text, at the
  // beginning of another document). Of no meaning when it failed.
  TextPoint point;
};

// Called on the scheduler's thread, in this order; must be quick, and may throw nothing.
class GenerationListener {
 public:
  virtual ~GenerationListener() = default;
  virtual void on_start() {}  // it left the queue
  virtual void on_scored(std::span<const TokenReport> /*tokens*/) {}
  // `tokens` of the request's have been read: the text stands at `point`, which is copied only by calling it.
  class LazyPoint {
   public:
    virtual TextPoint point() const = 0;

   protected:
    ~LazyPoint() = default;
  };
  virtual void on_boundary(int64_t /*tokens*/, const LazyPoint& /*at*/) {}
  virtual void on_token(const TokenReport& /*token*/) {}
  virtual void on_end(GenerationEnd end) = 0;  // once, the last
};

struct SchedulerOptions {
  int threads = 0;                 // of the model; 0 is one a processor
  int64_t max_batch = 64;          // texts at work at once
  int64_t max_waiting = 256;       // texts in the queue
  double step_milliseconds = 0.5;  // of reading while nobody else is at work (reading_plan.h)
};

class BatchScheduler {
 public:
  // Packs the model's matrices. Both must outlive it; nobody else may use the model's Inference at a time,
  // but everything that is const.
  BatchScheduler(Model& model, const Tokenizer& tokenizer, const SchedulerOptions& options);
  ~BatchScheduler();  // stop()
  BatchScheduler(const BatchScheduler&) = delete;
  BatchScheduler& operator=(const BatchScheduler&) = delete;

  const Model& model() const { return model_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

  // A request that was taken. Any thread may cancel it, at any time; on_end() comes all the same.
  class Ticket {
   public:
    Ticket() = default;
    void cancel() const {
      if (cancelled_) cancelled_->store(true, std::memory_order_relaxed);
    }

   private:
    friend class BatchScheduler;
    explicit Ticket(std::shared_ptr<std::atomic<bool>> flag) : cancelled_(std::move(flag)) {}
    std::shared_ptr<std::atomic<bool>> cancelled_;
  };

  // Thrown by submit() when as many requests wait as may. The last quarter of the queue is for clients of
  // whom fewer wait than places are left.
  struct QueueFull {};

  // Cancels what is at work and what waits, and waits for it to end; submit() throws QueueFull from now on.
  void stop();

  // From any thread. Throws Error for a request that cannot be: tokens outside the vocabulary, a state of
  // another size, more tokens than the model can remember. Throws QueueFull.
  Ticket submit(GenerationRequest request, std::shared_ptr<GenerationListener> listener);

  struct Load {
    int64_t waiting = 0, working = 0;
    int64_t tokens_read = 0, tokens_written = 0, steps = 0;
  };
  Load load() const;

 private:
  struct Job;
  class PointOfRow;
  using Queue = std::deque<std::unique_ptr<Job>>;
  // How many texts of a client there are.
  struct Share {
    int64_t waiting = 0, working = 0;
  };

  void run();
  bool take_jobs();
  Queue::iterator next_waiting(std::chrono::steady_clock::time_point now);
  size_t slot_of_largest_share() const;
  void put_back(size_t slot);
  void remove(size_t slot);
  void leave(const Job& job, int64_t Share::*count);
  void step();
  void score(Job& job, const Tensor& hidden, int64_t fed, int64_t count);
  void choose(const std::vector<size_t>& writers, const Tensor& hidden, const std::vector<int64_t>& rows);
  void write(size_t slot);
  void end(size_t slot, GenerationEnd::Finish finish, std::string error = {});
  TextPoint point_of(size_t slot) const;
  StateRows states() const { return {slab_.get(), options_.max_batch, model_.state_layout()}; }
  char* row(size_t slot) const { return states().row(static_cast<int64_t>(slot)); }
  uint64_t position_of(size_t slot) const;
  bool full(size_t slot) const;

  Model& model_;
  const Tokenizer& tokenizer_;
  SchedulerOptions options_;
  ThreadPool pool_;
  Inference inference_;

  // Of the computing thread alone: the texts at work, and their states, a row each in the same order.
  std::vector<std::unique_ptr<Job>> jobs_;
  int64_t row_bytes_ = 0;
  std::unique_ptr<char[], void (*)(void*)> slab_;
  std::vector<int32_t> tokens_;
  std::vector<int64_t> offsets_;
  std::vector<char> gathered_;
  std::vector<int64_t> left_, pieces_;  // of those that read: tokens, and rows in this step
  ReadingPlan reading_;
  const LevelActivity activity_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  Queue waiting_;
  std::map<std::string, Share> shares_;  // of the clients that have texts here
  Load load_;
  bool stopping_ = false;
  std::thread thread_;  // the last: it uses the others
};

}  // namespace harmonic
