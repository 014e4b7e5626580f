#include "harmonic/train/backpropagation.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "harmonic/base/checked.h"

namespace harmonic {
namespace {

constexpr int64_t kRowGrain = 64;     // chunks are multiples of this, but for the last
constexpr int64_t kShareOfKept = 8;   // of the memory, the part that states at chunk borders may take
constexpr int64_t kStatesAtHand = 2;  // beside them: the state and the gradient that go from chunk to chunk
constexpr int64_t kMostLanes = 16;
constexpr int64_t kLaneRows = 512;    // that a lane has at least: fewer are not worth an op's call
constexpr int64_t kShareOfLanes = 8;  // of the memory, the part that lanes' gradients may take

Tensor row_of(const std::vector<int32_t>& values, int64_t begin, int64_t count) {
  return {const_cast<int32_t*>(values.data()) + begin, 1, count, count, DType::i32, Device::cpu};
}

// Whether the first segment starts from a state that comes from before the piece.
bool enters(const Batch& batch, const BatchPiece& piece) {
  return piece.cut_before || batch.segments[static_cast<size_t>(piece.first_segment)].continues;
}

}  // namespace

Backpropagation::Backpropagation(Model& model, ThreadPool& pool, int64_t memory_bytes, int64_t chunk_len,
                                 int64_t kept_states, const Objective& objective)
    : model_(model),
      objective_(objective),
      pool_(pool),
      all_(pool, model.backend().memory),
      states_(model.backend().memory),
      kept_states_(kept_states) {
  cuts_ = chunk_len > 0 || !layout().has_caches();
  measure();
  if (chunk_len > 0) {
    chunk_rows_ = chunk_len;
    most_bytes_ = std::numeric_limits<int64_t>::max();
  } else {
    const int64_t state = round_up(model_.state_layout().bytes(), 64) + 64;
    kept_states_ = std::clamp<int64_t>(memory_bytes / kShareOfKept / state, 1, kept_states);
    const int64_t kept_bytes = cuts_ ? (kept_states_ + kStatesAtHand) * state : 0;
    const Tensor& gradients = model.parameters().gradients();
    const int64_t lane_bytes = gradients.size() * size_of(gradients.dtype);
    // A power of two: of three equal lanes the last would leave one of two threads idle.
    if (model.backend().device == Device::cpu)
      while (most_lanes_ < kMostLanes && 2 * most_lanes_ * lane_bytes <= memory_bytes / kShareOfLanes)
        most_lanes_ *= 2;
    const int64_t lanes_bytes = most_lanes_ > 1 ? most_lanes_ * lane_bytes : 0;
    most_bytes_ = std::max(memory_bytes - kept_bytes - lanes_bytes, cost_.of(kRowGrain, 1));
    chunk_rows_ = (most_bytes_ - cost_.segment) / cost_.row / kRowGrain * kRowGrain;
  }
}

void Backpropagation::measure() {
  cost_ = measure_pass_cost(
      model_,
      [&](const Batch& batch, int64_t position) {
        const BatchPiece piece = piece_of(batch, 0, batch.rows(), all_.activations);
        const States states = make_states(all_, piece.segments.count, false);
        for (int64_t s = 0; s < states.in.count; ++s) states.in.position(s) = static_cast<uint64_t>(position);
        record_and_return(all_, batch, piece, states, 1);
        const int64_t bytes = all_.held();
        all_.release();  // it may have been more than the passes to come will take
        return bytes;
      },
      objective_.longest_text());
  model_.parameters().clear_gradients();
}

void Backpropagation::refuse(int64_t tokens) {
  fail_usage(
      "a sequence of {} tokens does not fit train.memory_mb, or train.chunk_len where that is given, and a "
      "teacher has no pieces of it; raise train.memory_mb or lower train.seq_len",
      tokens);
}

void Backpropagation::expect_room_for(int64_t tokens) const {
  if (cuts_ && !objective_.takes_pieces() && !fits(tokens, 1)) refuse(tokens);
}

LossSum Backpropagation::run(const Batch& batch, const StateRows& carried, double loss_scale) {
  HARMONIC_ASSERT(!carried || carried.count == batch.sequences);
  const auto segments = static_cast<int64_t>(batch.segments.size());
  const auto sequence = [&](int64_t s) { return batch.segments[static_cast<size_t>(s)].sequence; };
  const auto offset = [&](int64_t s) { return batch.offsets[static_cast<size_t>(s)]; };
  const bool whole_sequences = (cuts_ && objective_.takes_pieces()) || carried;
  LossSum sum;
  int64_t first = 0;
  while (first < segments) {
    // Whole sequences, as many as fit; always at least one, and as many for each lane where there are more
    // than lanes. Documents, where they are not cut and leave nothing.
    int64_t last = first, count = 0, even = first;
    while (last < segments) {
      int64_t next = last;
      do {
        ++next;
      } while (next < segments && sequence(next) == sequence(last) && whole_sequences);
      if (last > first && !fits(offset(next) - offset(first), next - first)) break;
      last = next;
      if (++count % most_lanes_ == 0) even = last;
    }
    if (even > first) last = even;
    const LossSum part = !cuts_ || fits(offset(last) - offset(first), last - first)
                             ? by_lanes(batch, lanes_of(batch, first, last), carried, loss_scale)
                             : in_chunks(batch, first, last, carried, loss_scale);
    sum.nats += part.nats;
    sum.targets += part.targets;
    most_held_ = std::max(most_held_, held());
    first = last;
  }
  return sum;
}

void Backpropagation::Workspace::release() {
  activations.release();
  gradients.release();
  scratch.release();
}

int64_t Backpropagation::held() const {
  int64_t sum = all_.held();
  for (const auto& [count, workers] : lane_workers_)
    for (const LaneWorker& worker : workers) sum += worker.workspace.held();
  return sum;
}

// Before passes of up to `each` bytes by every one of `workers` (null: by all threads together): gives back
// what is held where that and theirs would be more than is allowed.
void Backpropagation::make_room(std::deque<LaneWorker>* workers, int64_t each) {
  if (most_bytes_ == std::numeric_limits<int64_t>::max()) return;
  const auto more = [&](const Workspace& workspace) { return std::max<int64_t>(0, each - workspace.held()); };
  int64_t sum = held() + (workers ? 0 : more(all_));
  if (workers)
    for (const LaneWorker& worker : *workers) sum += more(worker.workspace);
  if (sum <= std::max(most_bytes_, each)) return;  // a document that is not cut may take more
  all_.release();
  for (auto& [count, lane_workers] : lane_workers_)
    for (LaneWorker& worker : lane_workers) worker.workspace.release();
}

LossSum Backpropagation::record_and_return(Workspace& workspace, const Batch& batch, const BatchPiece& piece,
                                           const States& states, double loss_scale) {
  const int64_t rows = piece.segments.rows();
  const Tensor targets = row_of(batch.targets, piece.begin, rows);
  const Tensor losses = workspace.activations.tensor(1, rows, model_.backend().dtype, MemoryUse::shared);
  objective_.run({model_, workspace.context, workspace.activations, workspace.gradients, piece.segments,
                  states.in, states.out, states.d_out, states.d_in, row_of(batch.tokens, piece.begin, rows),
                  targets, losses, loss_scale});
  model_.backend().synchronize();
  LossSum sum;
  for (int64_t r = 0; r < rows; ++r) {
    sum.nats += losses.dtype == DType::f64 ? losses.as<double>()[r] : losses.as<float>()[r];
    sum.targets += targets.as<int32_t>()[r] >= 0;
  }
  return sum;
}

Backpropagation::States Backpropagation::make_states(Workspace& workspace, int64_t count, bool with_caches) {
  Arena& memory = workspace.activations;
  const auto make = [&] {
    return with_caches ? make_state_rows(memory, layout(), count)
                       : make_state_rows_without_caches(memory, layout(), count);
  };
  return {make(), make(), make(), make()};
}

// The first segment of each lane, and the end: whole sequences, as many in each.
std::vector<int64_t> Backpropagation::lanes_of(const Batch& batch, int64_t first_segment,
                                               int64_t last_segment) const {
  std::vector<int64_t> sequences;  // the first segment of each
  for (int64_t s = first_segment; s < last_segment; ++s)
    if (const auto i = static_cast<size_t>(s);
        s == first_segment || batch.segments[i].sequence != batch.segments[i - 1].sequence)
      sequences.push_back(s);
  const int64_t rows =
      batch.offsets[static_cast<size_t>(last_segment)] - batch.offsets[static_cast<size_t>(first_segment)];
  const auto count = static_cast<int64_t>(sequences.size());
  const int64_t lanes = std::max<int64_t>(1, std::min({most_lanes_, count, rows / kLaneRows}));
  std::vector<int64_t> borders;
  for (int64_t lane = 0; lane < lanes; ++lane)
    borders.push_back(sequences[static_cast<size_t>(count * lane / lanes)]);
  borders.push_back(last_segment);
  return borders;
}

LossSum Backpropagation::by_lanes(const Batch& batch, const std::vector<int64_t>& borders,
                                  const StateRows& carried, double loss_scale) {
  const size_t lanes = borders.size() - 1;
  int64_t largest = 0;
  for (size_t lane = 0; lane < lanes; ++lane)
    largest = std::max(largest, cost_.of(batch.offsets[static_cast<size_t>(borders[lane + 1])] -
                                             batch.offsets[static_cast<size_t>(borders[lane])],
                                         borders[lane + 1] - borders[lane]));
  if (lanes == 1) {
    make_room(nullptr, largest);
    return together(all_, batch, borders[0], borders[1], carried, loss_scale);
  }
  const Backend& backend = model_.backend();
  const Tensor& own = model_.parameters().gradients();
  while (lane_gradients_.size() < lanes)
    lane_gradients_.push_back(lane_memory_.tensor(1, own.cols, own.dtype));
  // A thread has a lane after the other, or a lane several threads: all the same number, as the last lane to
  // end is the one that counts.
  const auto threads = static_cast<size_t>(pool_.threads());
  const size_t of_lane = std::max<size_t>(1, threads / lanes), count = std::min(lanes, threads / of_lane);
  std::deque<LaneWorker>& workers = lane_workers_[of_lane];
  while (workers.size() < count) workers.emplace_back(static_cast<int>(of_lane), backend.memory);
  make_room(&workers, largest);
  std::vector<LossSum> sums(lanes);
  std::atomic<size_t> next{0};
  pool_.parallel_for(static_cast<int64_t>(count), [&](int64_t w) {
    Workspace& workspace = workers[static_cast<size_t>(w)].workspace;
    workspace.context.share = 1 / static_cast<double>(count);
    for (size_t lane; (lane = next.fetch_add(1, std::memory_order_relaxed)) < lanes;) {
      backend.zero(lane_gradients_[lane]);
      workspace.gradients.collect_in(lane_gradients_[lane], own);
      sums[lane] = together(workspace, batch, borders[lane], borders[lane + 1], carried, loss_scale);
    }
  });
  LossSum sum;
  for (size_t lane = 0; lane < lanes; ++lane) {
    backend(all_.context, Add{own, lane_gradients_[lane], own});
    sum.nats += sums[lane].nats;
    sum.targets += sums[lane].targets;
  }
  return sum;
}

LossSum Backpropagation::together(Workspace& workspace, const Batch& batch, int64_t first_segment,
                                  int64_t last_segment, const StateRows& carried, double loss_scale) {
  workspace.activations.clear();
  const BatchPiece piece = piece_of(batch, batch.offsets[static_cast<size_t>(first_segment)],
                                    batch.offsets[static_cast<size_t>(last_segment)], workspace.activations);
  const int64_t count = piece.segments.count;
  const States states = make_states(workspace, count, static_cast<bool>(carried));
  const auto bytes = static_cast<size_t>(states.in.row_bytes);
  for (int64_t s = 0; carried && s < count; ++s) {
    const Batch::Segment& segment = batch.segments[static_cast<size_t>(first_segment + s)];
    if (segment.continues) std::memcpy(states.in.row(s), carried.row(segment.sequence), bytes);
  }
  const LossSum sum = record_and_return(workspace, batch, piece, states, loss_scale);
  // The last segment of a sequence leaves its state: later ones overwrite earlier ones.
  for (int64_t s = 0; carried && s < count; ++s)
    std::memcpy(carried.row(batch.segments[static_cast<size_t>(first_segment + s)].sequence),
                states.out.row(s), bytes);
  return sum;
}

void Backpropagation::forward(const Batch& batch, const BatchPiece& piece, const char* state_before,
                              char* state_after) {
  const auto bytes = static_cast<size_t>(layout().bytes());
  Arena& memory = all_.activations;
  const StateRows in = make_state_rows(memory, layout(), piece.segments.count);
  const StateRows out = make_state_rows(memory, layout(), piece.segments.count);
  if (enters(batch, piece)) std::memcpy(in.row(0), state_before, bytes);
  Tape tape(model_.backend(), all_.context, memory, nullptr);
  Step step(tape, piece.segments, in, out);
  model_.forward(step, row_of(batch.tokens, piece.begin, piece.segments.rows()));
  tape.synchronize();
  std::memcpy(state_after, out.row(out.count - 1), bytes);
}

void Backpropagation::cut_into_chunks(const Batch& batch, int64_t begin, int64_t end) {
  borders_.assign(1, begin);
  while (borders_.back() < end)
    borders_.push_back(
        cost_.piece_end(batch, borders_.back(), std::min(end, borders_.back() + chunk_rows_), most_bytes_));
}

LossSum Backpropagation::in_chunks(const Batch& batch, int64_t first_segment, int64_t last_segment,
                                   const StateRows& carried, double loss_scale) {
  if (!objective_.takes_pieces())
    refuse(batch.offsets[static_cast<size_t>(last_segment)] -
           batch.offsets[static_cast<size_t>(first_segment)]);
  const auto bytes = static_cast<size_t>(layout().bytes());
  cut_into_chunks(batch, batch.offsets[static_cast<size_t>(first_segment)],
                  batch.offsets[static_cast<size_t>(last_segment)]);
  const auto chunks = static_cast<int64_t>(borders_.size()) - 1;
  make_room(nullptr, most_bytes_);
  const auto chunk = [&](int64_t c) {
    all_.activations.clear();
    return piece_of(batch, borders_[static_cast<size_t>(c)], borders_[static_cast<size_t>(c) + 1],
                    all_.activations);
  };

  // Two tiers of kept states: before every group of chunks, and before every chunk of the group at hand.
  int64_t group = 1;
  while (ceil_div(chunks, group) + group > kept_states_ && group * group < chunks) ++group;
  const int64_t groups = ceil_div(chunks, group);
  states_.clear();
  const StateRows at_group = make_state_rows(states_, layout(), groups);
  const StateRows at_chunk = make_state_rows(states_, layout(), group);
  const StateRows now = make_state_rows(states_, layout(), 1);
  const StateRows d_next = make_state_rows(states_, layout(), 1);

  const auto step_forward = [&](int64_t c) { forward(batch, chunk(c), now.row(0), now.row(0)); };

  const int64_t sequence = batch.segments[static_cast<size_t>(first_segment)].sequence;
  if (carried) std::memcpy(now.row(0), carried.row(sequence), bytes);
  for (int64_t c = 0; c + 1 < chunks || (c < chunks && c % group == 0); ++c) {
    if (c % group == 0) std::memcpy(at_group.row(c / group), now.row(0), bytes);
    if (c + 1 < chunks) step_forward(c);
  }

  LossSum sum;
  for (int64_t g = groups; g-- > 0;) {
    const int64_t first = g * group, last = std::min(chunks, first + group);
    std::memcpy(now.row(0), at_group.row(g), bytes);
    for (int64_t c = first; c < last; ++c) {
      std::memcpy(at_chunk.row(c - first), now.row(0), bytes);
      if (c + 1 < last) step_forward(c);
    }
    for (int64_t c = last; c-- > first;) {
      const BatchPiece piece = chunk(c);
      const int64_t count = piece.segments.count;
      const States states = make_states(all_, count, true);
      if (enters(batch, piece)) std::memcpy(states.in.row(0), at_chunk.row(c - first), bytes);
      if (piece.cut_after) std::memcpy(states.d_out.row(count - 1), d_next.row(0), bytes);
      const LossSum part = record_and_return(all_, batch, piece, states, loss_scale);
      std::memcpy(d_next.row(0), states.d_in.row(0), bytes);
      if (c + 1 == chunks && carried) std::memcpy(carried.row(sequence), states.out.row(count - 1), bytes);
      sum.nats += part.nats;
      sum.targets += part.targets;
    }
  }
  return sum;
}

}  // namespace harmonic
