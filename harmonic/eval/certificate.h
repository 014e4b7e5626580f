// eval: what a model is worth and whether it can be believed. Bits per token and byte, the causality
// certificate.
//
// The certificate: proof by test that a model never looks at the future, that every way of running it gives
// the same result, and that it cannot foretell noise. Any model can be put through it; one that looks ahead
// does not pass.
#pragma once

#include <string>
#include <vector>

#include "harmonic/model/inference.h"

namespace harmonic {

struct CertificateTest {
  std::string name;
  bool passed = false;
  std::string detail;  // what was compared, or where the first difference is
};

struct Certificate {
  std::vector<CertificateTest> tests;
  bool passed() const;
};

struct CertificateOptions {
  uint64_t seed = 1;
  int64_t random_tokens = 65536;  // of the tests by noise; the short form takes fewer
  bool gradients = true;          // needs a model loaded for training
};

// Runs every test on `model`. Equality is of bits on the CPU; on a card, logits and states of other splits
// may differ by 2e-3 of their norm, but what a later token could change must be equal to the bit there, too.
// The model's parameters are not changed; gradients, where it has them, must be zero and are left zero.
Certificate certify(Model& model, ThreadPool& pool, const CertificateOptions& options = {});

// The short form (2,048 tokens of noise, no gradients) that stands beside a measurement. It packs the model
// first, unless it is packed, so that what is certified is what is measured. The model must not be trained.
Certificate certify_for_measurement(Model& model, ThreadPool& pool);

}  // namespace harmonic
