// Settings over settings: what a file says in place of what another, or its own shared part, says.
#pragma once

#include "harmonic/base/value.h"

namespace harmonic {

// Puts the entries of `from` over those of `into`, table by table; new keys come last.
void merge(Value& into, const Value& from);

}  // namespace harmonic
