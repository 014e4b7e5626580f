#include "harmonic/runtime/batch_scheduler.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "harmonic/base/checked.h"
#include "harmonic/base/float_mode.h"

namespace harmonic {
namespace {

constexpr int64_t kScoredAtOnce = 64;  // rows of logits that are held

}  // namespace

struct BatchScheduler::Job {
  GenerationRequest request;
  std::shared_ptr<GenerationListener> listener;
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);

  // What the model is fed to read: the point's last token and all of request.tokens but the last.
  int64_t to_read() const { return static_cast<int64_t>(request.tokens.size()); }
  int32_t input(int64_t i) const { return i == 0 ? first : request.tokens[static_cast<size_t>(i - 1)]; }
  bool reading() const { return read < to_read(); }
  bool is_over(std::chrono::steady_clock::time_point now) const {
    return cancelled->load(std::memory_order_relaxed) || now >= request.deadline;
  }

  // What was held back and can be shown now that nothing follows.
  std::string flush() {
    std::string released;
    stops.flush(released);
    return characters.push(released);
  }

  std::map<std::string, Share>::iterator share;
  bool begun = false;  // it has been at work
  int32_t first = 0, pending = 0;
  uint64_t earlier = 0;
  bool at_beginning = false;  // no token of the document has been written or read
  int64_t read = 0, written = 0;
  Sampler sampler{SamplingOptions{}};
  StopStrings stops;
  Utf8Stream characters;
  // The token chosen in this step, or what went wrong.
  TokenReport chosen;
  std::string error;
};

class BatchScheduler::PointOfRow : public GenerationListener::LazyPoint {
 public:
  PointOfRow(const BatchScheduler& scheduler, size_t slot) : scheduler_(scheduler), slot_(slot) {}
  TextPoint point() const override { return scheduler_.point_of(slot_); }

 private:
  const BatchScheduler& scheduler_;
  size_t slot_;
};

BatchScheduler::BatchScheduler(Model& model, const Tokenizer& tokenizer, const SchedulerOptions& options)
    : model_(model),
      tokenizer_(tokenizer),
      options_(options),
      pool_(options.threads),
      inference_(model, pool_),
      row_bytes_(model.state_layout().bytes()),
      // Pages that no text has used take no memory.
      slab_(static_cast<char*>(std::calloc(static_cast<size_t>(options.max_batch),
                                           static_cast<size_t>(model.state_layout().bytes()))),
            std::free),
      reading_(options.step_milliseconds / 1e3, Inference::kRowsPerCall),
      activity_(model.state_layout()) {
  HARMONIC_ASSERT(options.max_batch > 0 && options.max_waiting >= 0);
  if (!slab_)
    fail("the states of {} texts at once, {} bytes each, do not fit in memory; ask for a smaller batch",
         options.max_batch, row_bytes_);
  model.pack(inference_.context());
  thread_ = std::thread([this] { run(); });
}

BatchScheduler::~BatchScheduler() { stop(); }

void BatchScheduler::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

BatchScheduler::Ticket BatchScheduler::submit(GenerationRequest request,
                                              std::shared_ptr<GenerationListener> listener) {
  const ModelConfig& config = model_.config();
  for (const int32_t token : request.tokens)
    if (token < 0 || token >= config.vocab_size)
      fail("token {} is not of the vocabulary: the model has {} tokens", token, config.vocab_size);
  HARMONIC_ASSERT(request.from.state.bytes() == row_bytes_);
  HARMONIC_ASSERT(request.from.pending >= 0 && request.from.pending < config.vocab_size);
  const auto count = static_cast<int64_t>(request.tokens.size());
  if (const int64_t longest = config.longest_text();
      longest > 0 && static_cast<int64_t>(request.from.state.position()) + count > longest)
    fail("the model remembers {} tokens of a text; this one has {} and {} more", longest,
         request.from.state.position(), count);

  auto job = std::make_unique<Job>();
  job->first = job->pending = request.from.pending;
  job->earlier = request.from.earlier;
  job->at_beginning = request.from.at_beginning();
  job->sampler = Sampler(request.sampling);
  job->stops = StopStrings(request.stop);
  job->characters.push(request.from.unfinished);
  job->request = std::move(request);
  job->listener = std::move(listener);
  const Ticket ticket(job->cancelled);
  {
    const std::lock_guard lock(mutex_);
    const auto known = shares_.find(job->request.client);
    const int64_t own = known == shares_.end() ? 0 : known->second.waiting;
    // Those that a free place in the batch awaits do not wait.
    const int64_t places = options_.max_waiting + std::max<int64_t>(0, options_.max_batch - load_.working) -
                           static_cast<int64_t>(waiting_.size());
    if (stopping_ || places <= 0 || (places <= options_.max_waiting / 4 && own >= places)) throw QueueFull{};
    job->share = known == shares_.end() ? shares_.try_emplace(job->request.client).first : known;
    ++job->share->second.waiting;
    waiting_.push_back(std::move(job));
  }
  wake_.notify_one();
  return ticket;
}

BatchScheduler::Load BatchScheduler::load() const {
  const std::lock_guard lock(mutex_);
  Load load = load_;
  load.waiting = static_cast<int64_t>(waiting_.size());
  return load;
}

void BatchScheduler::run() {
  const FlushToZero mode;
  while (take_jobs()) step();
  for (size_t slot = jobs_.size(); slot-- > 0;) end(slot, GenerationEnd::Finish::cancelled);
}

// Whose turn it is: the first text of the client that has the fewest at work. With the batch full, one that
// is over, or the one whose client has so few that another is to give up a place; the end when there is none.
BatchScheduler::Queue::iterator BatchScheduler::next_waiting(std::chrono::steady_clock::time_point now) {
  const auto next = std::min_element(waiting_.begin(), waiting_.end(), [](const auto& a, const auto& b) {
    return a->share->second.working < b->share->second.working;
  });
  if (next == waiting_.end() || static_cast<int64_t>(jobs_.size()) < options_.max_batch) return next;
  const auto over = std::find_if(waiting_.begin(), waiting_.end(),
                                 [&](const auto& waiting) { return waiting->is_over(now); });
  if (over != waiting_.end()) return over;
  const Share& largest = jobs_[slot_of_largest_share()]->share->second;
  return largest.working > (*next)->share->second.working + 1 ? next : waiting_.end();
}

// Of its texts the one that came last, or about so.
size_t BatchScheduler::slot_of_largest_share() const {
  size_t largest = 0;
  for (size_t slot = 1; slot < jobs_.size(); ++slot)
    if (jobs_[slot]->share->second.working >= jobs_[largest]->share->second.working) largest = slot;
  return largest;
}

void BatchScheduler::leave(const Job& job, int64_t Share::*count) {
  Share& share = job.share->second;
  --(share.*count);
  if (share.waiting == 0 && share.working == 0) shares_.erase(job.share);
}

// Fills the batch from the queue, and lets go of what was cancelled; waits while there is nothing to do.
// False when the scheduler is to stop.
bool BatchScheduler::take_jobs() {
  const auto now = std::chrono::steady_clock::now();
  for (size_t slot = jobs_.size(); slot-- > 0;)
    if (jobs_[slot]->is_over(now)) end(slot, GenerationEnd::Finish::cancelled);
  for (;;) {
    std::unique_ptr<Job> job;
    bool stop = false;
    {
      std::unique_lock lock(mutex_);
      load_.working = static_cast<int64_t>(jobs_.size());
      if (jobs_.empty()) wake_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
      stop = stopping_;
      const auto next = stop ? waiting_.begin() : next_waiting(now);
      if (next == waiting_.end()) return !stop;
      job = std::move(*next);
      waiting_.erase(next);
      stop |= job->is_over(std::chrono::steady_clock::now());
      if (!stop) {
        ++job->share->second.working;
        load_.working = static_cast<int64_t>(jobs_.size()) + 1;
      }
      leave(*job, &Share::waiting);
    }
    if (stop) {
      GenerationEnd ended;
      ended.finish = GenerationEnd::Finish::cancelled;
      ended.text = job->flush();
      ended.point = std::move(job->request.from);
      ended.point.unfinished = job->characters.held();
      job->listener->on_end(std::move(ended));
      continue;
    }
    if (static_cast<int64_t>(jobs_.size()) == options_.max_batch) put_back(slot_of_largest_share());
    states().set(static_cast<int64_t>(jobs_.size()), job->request.from.state);
    job->request.from.state = State();
    if (!std::exchange(job->begun, true)) job->listener->on_start();
    jobs_.push_back(std::move(job));
    const size_t slot = jobs_.size() - 1;
    if (!jobs_[slot]->reading() && (jobs_[slot]->request.max_tokens <= 0 || full(slot)))
      end(slot, GenerationEnd::Finish::length);
  }
}

// A text at work goes to the head of the queue, before the others of its client, as it is.
void BatchScheduler::put_back(size_t slot) {
  jobs_[slot]->request.from = point_of(slot);
  {
    const std::lock_guard lock(mutex_);
    Share& share = jobs_[slot]->share->second;
    --share.working;
    ++share.waiting;
    waiting_.push_front(std::move(jobs_[slot]));
  }
  remove(slot);
}

bool BatchScheduler::full(size_t slot) const {
  const int64_t longest = model_.config().longest_text();
  return longest > 0 && static_cast<int64_t>(position_of(slot)) >= longest;
}

uint64_t BatchScheduler::position_of(size_t slot) const {
  uint64_t position;
  std::memcpy(&position, row(slot), sizeof position);
  return position;
}

void BatchScheduler::step() {
  const auto begin = std::chrono::steady_clock::now();
  left_.clear();
  int64_t first = 0;
  for (const auto& job : jobs_) {
    if (job->reading()) {
      left_.push_back(job->to_read() - job->read);
    } else {
      first += job->written == 0;
    }
  }
  const auto readers = static_cast<int64_t>(left_.size());
  reading_.divide(left_, static_cast<int64_t>(jobs_.size()) - readers, first, pieces_);
  tokens_.clear();
  offsets_.assign(1, 0);
  std::vector<size_t> writers;
  std::vector<int64_t> writers_rows;
  auto piece = pieces_.begin();
  for (size_t slot = 0; slot < jobs_.size(); ++slot) {
    const Job& job = *jobs_[slot];
    if (job.reading()) {
      int64_t count = *piece++;
      if (const int64_t every = job.request.boundary_every; every > 0) {
        count = std::min(count, every - static_cast<int64_t>(position_of(slot)) % every);
      }
      for (int64_t i = 0; i < count; ++i) tokens_.push_back(job.input(job.read + i));
    } else {
      writers.push_back(slot);
      writers_rows.push_back(static_cast<int64_t>(tokens_.size()));
      tokens_.push_back(job.pending);
    }
    offsets_.push_back(static_cast<int64_t>(tokens_.size()));
  }
  const auto count = static_cast<int64_t>(jobs_.size());
  const Segments segments{offsets_.data(), count};
  StateRows states = this->states();
  states.count = count;

  try {
    const Tensor hidden = inference_.hidden(tokens_.data(), segments, states, states);
    for (size_t slot = 0; slot < jobs_.size(); ++slot) {
      Job& job = *jobs_[slot];
      if (!job.reading() || !job.request.score) continue;
      const auto b = static_cast<int64_t>(slot);
      score(job, hidden.rows_of(segments.begin(b), segments.length(b)), job.read, segments.length(b));
    }
    if (!writers.empty()) choose(writers, hidden, writers_rows);
  } catch (const std::exception& error) {
    // Nobody's state can be trusted now.
    for (size_t slot = jobs_.size(); slot-- > 0;) end(slot, GenerationEnd::Finish::failed, error.what());
    return;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto written = static_cast<int64_t>(writers.size());
  reading_.learn(segments.rows() - written, written, seconds);
  {
    const std::lock_guard lock(mutex_);
    load_.tokens_read += segments.rows() - written;
    load_.tokens_written += written;
    ++load_.steps;
  }

  // From the last on: a text that ends leaves its place to the last one.
  for (size_t slot = jobs_.size(); slot-- > 0;) {
    Job& job = *jobs_[slot];
    if (!job.error.empty()) {
      end(slot, GenerationEnd::Finish::failed, job.error);
    } else if (!job.reading()) {
      write(slot);
    } else {
      for (int64_t i = 0; i < segments.length(static_cast<int64_t>(slot)); ++i) {
        job.pending = job.input(++job.read);
        job.characters.push(
            tokenizer_.bytes_of(job.pending));  // one may begin here and end in what is written
      }
      job.at_beginning = false;
      const int64_t every = job.request.boundary_every;
      if (every > 0 && (!job.reading() || static_cast<int64_t>(position_of(slot)) % every == 0))
        job.listener->on_boundary(job.read, PointOfRow(*this, slot));
      if (!job.reading() && (job.request.max_tokens <= 0 || full(slot)))
        end(slot, GenerationEnd::Finish::length);
    }
  }
}

// The tokens that `count` rows of hidden predict, which are among the request's.
void BatchScheduler::score(Job& job, const Tensor& hidden, int64_t fed, int64_t count) {
  try {
    std::vector<TokenReport> reports(static_cast<size_t>(count));
    for (int64_t begin = 0; begin < count; begin += kScoredAtOnce) {
      const int64_t rows = std::min(kScoredAtOnce, count - begin);
      const Tensor logits = inference_.logits(hidden.rows_of(begin, rows));
      pool_.parallel_for(rows, [&](int64_t r) {
        TokenReport& report = reports[static_cast<size_t>(begin + r)];
        const LogProbabilities probabilities(logits.rows_of(r, 1));
        report.token = job.input(fed + begin + r + 1);
        report.logprob = probabilities.of(report.token);
        report.likeliest = probabilities.likeliest(job.request.alternatives);
      });
    }
    job.listener->on_scored(reports);
  } catch (const Error& error) {
    job.error = error.what();
  }
}

void BatchScheduler::choose(const std::vector<size_t>& writers, const Tensor& hidden,
                            const std::vector<int64_t>& rows) {
  const auto bytes = static_cast<size_t>(hidden.cols * size_of(hidden.dtype));
  gathered_.resize(bytes * writers.size());
  for (size_t i = 0; i < writers.size(); ++i)
    std::memcpy(gathered_.data() + i * bytes, hidden.rows_of(rows[i], 1).data, bytes);
  const Tensor chosen = {gathered_.data(), static_cast<int64_t>(writers.size()),
                         hidden.cols,      hidden.cols,
                         hidden.dtype,     hidden.device};
  const Tensor logits = inference_.logits(chosen);
  pool_.parallel_for(logits.rows, [&](int64_t i) {
    const size_t slot = writers[static_cast<size_t>(i)];
    Job& job = *jobs_[slot];
    try {
      const Tensor own = logits.rows_of(i, 1);
      // The state has seen `pending` by now: the next token's index is one less far than it looks.
      job.chosen.token = job.sampler.sample(own, job.earlier + position_of(slot));
      job.chosen.likeliest.clear();
      if (job.request.alternatives >= 0) {
        const LogProbabilities probabilities(own);
        job.chosen.logprob = probabilities.of(job.chosen.token);
        job.chosen.likeliest = probabilities.likeliest(job.request.alternatives);
      }
      if (job.request.activity)
        job.chosen.activity = activity_.picture(StateRows(row(slot), 1, model_.state_layout()), 0);
    } catch (const Error& error) {
      job.error = error.what();
    }
  });
}

// Takes the token that was chosen into the text.
void BatchScheduler::write(size_t slot) {
  Job& job = *jobs_[slot];
  ++job.written;
  const int32_t token = job.chosen.token;
  std::string released;
  bool stopped = false;
  if (token == tokenizer_.eot()) {
    // The end stands in the text of all documents; what was held back comes before it.
    job.earlier += position_of(slot);
    states().clear(static_cast<int64_t>(slot));
    job.pending = static_cast<int32_t>(model_.config().bos());
    job.at_beginning = true;
    job.stops.flush(released);
    job.chosen.text = job.characters.push(released) + job.characters.flush();
    stopped = !job.request.ignore_end;
    if (!stopped) job.chosen.text += "\n\n";
  } else if (token == job.request.end_token) {
    job.pending = token;
    job.at_beginning = false;
    job.stops.flush(released);
    job.chosen.text = job.characters.push(released) + job.characters.flush();
    stopped = true;
  } else {
    stopped = job.stops.push(job.at_beginning ? tokenizer_.first_bytes_of(token) : tokenizer_.bytes_of(token),
                             released);
    job.at_beginning = false;
    job.pending = token;
    job.chosen.text = job.characters.push(released);
    if (stopped) {
      // What stands before the stop string is shown to its end; the text itself ends after it.
      job.chosen.text += job.characters.flush();
      job.characters.push(job.stops.rest());
    }
  }
  job.listener->on_token(job.chosen);
  if (stopped) {
    end(slot, GenerationEnd::Finish::stop);
  } else if (job.written >= job.request.max_tokens || full(slot)) {
    end(slot, GenerationEnd::Finish::length);
  }
}

TextPoint BatchScheduler::point_of(size_t slot) const {
  const Job& job = *jobs_[slot];
  TextPoint point{State(model_.state_layout()), job.pending, job.earlier, job.characters.held()};
  states().get(static_cast<int64_t>(slot), point.state);
  return point;
}

void BatchScheduler::end(size_t slot, GenerationEnd::Finish finish, std::string error) {
  Job& job = *jobs_[slot];
  GenerationEnd ended;
  ended.finish = finish;
  ended.error = std::move(error);
  ended.not_finite = !job.error.empty();
  if (finish != GenerationEnd::Finish::failed) {
    if (finish != GenerationEnd::Finish::stop) ended.text = job.flush();
    ended.point = point_of(slot);
  }
  {
    const std::lock_guard lock(mutex_);
    leave(job, &Share::working);
    load_.working = static_cast<int64_t>(jobs_.size()) - 1;
  }
  job.listener->on_end(std::move(ended));
  // Of a row that failed nothing is known: not even how much of it is used.
  if (finish == GenerationEnd::Finish::failed) std::memset(row(slot), 0, static_cast<size_t>(row_bytes_));
  remove(slot);
}

// The last text at work takes the place of this one.
void BatchScheduler::remove(size_t slot) {
  if (slot + 1 < jobs_.size()) {
    model_.state_layout().shape()->copy(row(jobs_.size() - 1), row(slot));
    jobs_[slot] = std::move(jobs_.back());
  }
  jobs_.pop_back();
}

}  // namespace harmonic
