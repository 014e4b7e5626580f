// Functions of libm as fixed sequences of IEEE operations, for numbers that must have the same bits on every
// machine: libm's own differ between its versions and processors. Relative errors below 1e-14; slow, for
// start-up only, but for exp_falling.
#pragma once

namespace harmonic::portable {

double expm1(double x);        // e^x - 1, |x| <= 700
double exp2(double x);         // 2^x, |x| <= 1000
double exp_falling(double x);  // e^x, x <= 0; to 1e-13 and fast: additions and multiplications alone
double log(double x);          // x > 0 and normal
double cos_pi(double x);       // cos(pi x), x in [0, 1]
// The sine and cosine of 2 pi turns, |turns| < 2^40.
void sin_cos_turns(double turns, double& sine, double& cosine);

}  // namespace harmonic::portable
