// The table of the cuda backend's ops, whose matrix products are computed in one precision.
#pragma once

#include "harmonic/ops/backend.h"
#include "harmonic/ops/cuda_device.h"

namespace harmonic::cuda {

template <Precision precision, typename Op>
void run_in(Context& context, const Op& op) {
  const UsePrecision use(precision);
  const ArenaScope scope(context.scratch);
  run(context, op);
}

template <Precision precision, typename... Ops>
OpTable<Ops...> table_of(const OpTable<Ops...>*) {
  return {{static_cast<void (*)(Context&, const Ops&)>(&run_in<precision, Ops>)...}};
}
template <Precision precision>
AllOps table() {
  return table_of<precision>(static_cast<const AllOps*>(nullptr));
}

}  // namespace harmonic::cuda
