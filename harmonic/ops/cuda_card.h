// What the entry of libharmonic_cuda.so asks of the card.
#pragma once

#include <string>

#include "harmonic/tensor/memory_source.h"

namespace harmonic::cuda {

// Whether there is a card that all kernels run on, and its name for people; otherwise why not.
bool find_card(std::string& name, std::string& message);
// Memory that it and the program address.
MemorySource& card_memory();
// Returns when all that was asked for is done; throws Error where something has failed.
void synchronize();

}  // namespace harmonic::cuda
