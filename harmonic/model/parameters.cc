#include "harmonic/model/parameters.h"

#include <cmath>
#include <cstring>

#include "harmonic/base/checked.h"
#include "harmonic/base/files.h"
#include "harmonic/base/portable_math.h"
#include "harmonic/base/random.h"
#include "harmonic/ops/linear.h"

namespace harmonic {
namespace {

double initial_value(const Initial& initial, const Random& random, uint64_t index, int64_t row,
                     int64_t column) {
  switch (initial.kind) {
    case Initial::Kind::zeros:
      return 0;
    case Initial::Kind::constant:
      return initial.value;
    case Initial::Kind::uniform:
      return initial.value * (2 * random.uniform(index) - 1);
    case Initial::Kind::time_scales: {
      const double octaves = portable::log(initial.highest / initial.value) / portable::log(2);
      const double tau = initial.value * portable::exp2(octaves * random.uniform(index));
      return portable::log(portable::expm1(1 / tau));
    }
    case Initial::Kind::log_of_column:
      return portable::log(static_cast<double>(1 + column));
    case Initial::Kind::identities: {
      const auto side = static_cast<int64_t>(initial.value);
      return (row % side == column % side ? 1 : 0) + 0.1 * (2 * random.uniform(index) - 1);
    }
    case Initial::Kind::one_column:
      return column == static_cast<int64_t>(initial.value) ? 1 : 0;
  }
  return 0;
}

void set(const Tensor& tensor, int64_t row, int64_t column, double value) {
  if (tensor.dtype == DType::f64) {
    tensor.row<double>(row)[column] = value;
  } else {
    tensor.row<float>(row)[column] = static_cast<float>(value);
  }
}

}  // namespace

Initial Initial::fan_in(int64_t inputs) { return uniform(1 / std::sqrt(static_cast<double>(inputs))); }

Parameter& Parameters::add(std::string name, std::vector<int64_t> shape, Role role, Initial initial) {
  HARMONIC_ASSERT(!find(name) && !shape.empty());
  Tensor view;
  view.rows = shape.size() == 1 ? 1 : shape[0];
  view.cols = 1;
  for (size_t i = shape.size() == 1 ? 0 : 1; i < shape.size(); ++i)
    view.cols = checked_mul(view.cols, shape[i], name);
  view.stride = view.cols;
  checked_mul(view.rows, view.cols, name);
  Entry entry;
  entry.parameter.name = std::move(name);
  entry.parameter.shape = std::move(shape);
  entry.parameter.value = view;
  entry.role = role;
  entry.initial = initial;
  entries_.push_back(std::move(entry));
  return entries_.back().parameter;
}

void Parameters::allocate(const Backend& backend, bool trained) {
  const DType dtype = backend.dtype;
  trained_ = trained;
  memory_.draw_from(backend.memory);
  matrices_.draw_from(backend.memory);
  // Role by role, so that an optimiser finds those that it treats alike side by side. Pages of matrices whose
  // values are dropped, or never written, hold nothing else.
  std::vector<Tensor*> gradients;
  for (const Role role : {Role::vector, Role::embedding, Role::matrix}) {
    std::vector<Tensor*> staying, dropped;
    for (Entry& entry : entries_) {
      if (entry.role != role) continue;
      Parameter& p = entry.parameter;
      (role == Role::vector || p.plain ? staying : dropped).push_back(&p.value);
      if (!trained) continue;
      p.grad = p.value;  // its shape
      gradients.push_back(&p.grad);
    }
    memory_.side_by_side(staying, dtype);
    matrices_.side_by_side(dropped, dtype);
    kept_ += static_cast<int64_t>(dropped.size());
  }
  gradients_ = memory_.side_by_side(gradients, dtype);
  if (trained) clear_gradients();
}

void Parameters::clear_gradients() {
  std::memset(gradients_.data, 0, static_cast<size_t>(gradients_.size() * size_of(gradients_.dtype)));
}

void Parameters::initialise(uint64_t seed, ThreadPool* pool) {
  for (Entry& entry : entries_) {
    const Tensor& value = entry.parameter.value;
    const Random random(seed, stream_of(entry.parameter.name));
    const auto set_rows = [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t c = 0; c < value.cols; ++c)
          set(value, r, c,
              initial_value(entry.initial, random, static_cast<uint64_t>(r * value.cols + c), r, c));
    };
    if (pool) {
      pool->parallel_ranges(value.rows, 1, set_rows);
    } else {
      set_rows(0, value.rows);
    }
  }
}

Parameter* Parameters::find(std::string_view name) {
  for (Entry& entry : entries_)
    if (entry.parameter.name == name) return &entry.parameter;
  return nullptr;
}

int64_t Parameters::count() const {
  int64_t total = 0;
  for (const Entry& entry : entries_) total += entry.parameter.value.size();
  return total;
}

int64_t Parameters::count(Role role) const {
  int64_t total = 0;
  for (const Entry& entry : entries_)
    if (entry.role == role) total += entry.parameter.value.size();
  return total;
}

void Parameters::drop_value(Parameter& parameter) {
  HARMONIC_ASSERT(parameter.packed && !parameter.plain && !trained_);
  Tensor& value = parameter.value;
  --kept_;
  if (!matrices_.source()) {  // of a file that is mapped likewise
    matrices_.forget(value.data, value.size() * size_of(value.dtype));
  } else if (kept_ == 0) {
    matrices_.release();  // a device's memory comes back as a whole
  }
  value.data = nullptr;
  if (kept_ == 0) lenders_.clear();
}

bool Parameters::may_borrow(size_t i) const {
  const Entry& entry = entries_[i];
  return !trained_ && !matrices_.source() && entry.role != Role::vector && !entry.parameter.plain;
}

void Parameters::borrow(size_t i, void* data, std::shared_ptr<const void> owner) {
  HARMONIC_ASSERT(may_borrow(i));
  entries_[i].parameter.value.data = data;
  if (lenders_.empty() || lenders_.back() != owner) lenders_.push_back(std::move(owner));
}

std::string Parameters::hash() const {
  std::string all;
  for (const Entry& entry : entries_) {
    const Tensor& value = entry.parameter.value;
    all += entry.parameter.name;
    all += fmt::format(" {} {}\n", value.rows, value.cols);
    const auto bytes = static_cast<size_t>(value.size() * size_of(value.dtype));
    const auto* numbers = static_cast<const char*>(value.data);
    std::vector<char> unpacked;
    if (!numbers) {
      unpacked.resize(bytes);
      for (int64_t r = 0; r < value.rows; ++r)
        unpack_row(entry.parameter.packed, value.rows, value.cols, r,
                   unpacked.data() + r * value.cols * size_of(value.dtype));
      numbers = unpacked.data();
    }
    all += sha256({numbers, bytes});
  }
  return sha256(all);
}

}  // namespace harmonic
