// A few rows by a matrix as it lies in memory, for products too small to pack anything for.
#pragma once

namespace harmonic {

// y [columns] = gain row matrix; row has as many numbers as the matrix rows.
struct RowProduct {
  const float* row;
  float* y;
  float gain;
};

}  // namespace harmonic
