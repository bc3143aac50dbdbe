/* Vectorised elementary functions, the same bits on every instruction set with FMA: only exactly rounded
 * operations, in a fixed order. Subnormal results may come out as zero. Errors are given for normal results.
 * Include after vector.h. */

#if REAL_BITS == 32
typedef uint32_t natural;
enum { MANTISSA_BITS = 23 };
#define SMALLEST_NORMAL 0x1p-126f
#define LN2_HIGH 0x1.62e4p-1f /* few bits: its product with an exponent is exact */
#define LN2_LOW 0x1.7f7d1cp-20f
#define LOG2_E 0x1.715476p+0f
#else
typedef uint64_t natural;
enum { MANTISSA_BITS = 52 };
#define SMALLEST_NORMAL 0x1p-1022
#define LN2_HIGH 0x1.62e42fefa38p-1
#define LN2_LOW 0x1.ef35793c7673p-45
#define LOG2_E 0x1.71547652b82fep+0
#endif
#define INFINITE ((real)__builtin_inf())
typedef natural nvector __attribute__((vector_size(VECTOR_BYTES)));

/* Added to a small number, it rounds it to an integer, which is then in the low bits. */
#define ROUNDER ((real)1.5 * (real)((natural)1 << MANTISSA_BITS))

/* Coefficients from the highest degree down. */
INLINE vector horner(vector x, const real *coefficients, int count) {
    vector sum = splat(coefficients[0]);
#pragma GCC unroll 32
    for (int i = 1; i < count; i++) sum = multiply_add(sum, x, splat(coefficients[i]));
    return sum;
}

/* A long polynomial goes in two parts side by side, high x^4 + low or high x^8 + low. */
INLINE vector polynomial(vector x, const real *coefficients, int count) {
    if (count <= 6) return horner(x, coefficients, count);
    const int n_high = count - (count > 16 ? 8 : 4);
    vector square = x * x, fourth = square * square, power = count > 16 ? fourth * fourth : fourth;
    return multiply_add(horner(x, coefficients, n_high), power, horner(x, coefficients + n_high, count - n_high));
}
#define POLYNOMIAL(x, coefficients) polynomial(x, coefficients, sizeof(coefficients) / sizeof *(coefficients))

/* Negative if x is, which a negative result stays. */
INLINE vector also_sign_of(vector result, vector x) {
    return from_bits(bits_of(result) | (bits_of(x) & bits_of(splat((real)-0.0))));
}

/* x / ln 2 rounded to an integer n, as n + ROUNDER. */
INLINE vector round_exponent(vector x) { return multiply_add(x, splat(LOG2_E), splat(ROUNDER)); }

/* 2^n and 2^-n from n + ROUNDER; exponents that a normal number cannot have are the caller's to avoid. */
INLINE vector power_of_two(vector shifted) {
    return from_bits((bits_of(shifted) << MANTISSA_BITS) + bits_of(splat(1)));
}
INLINE vector power_of_half(vector shifted) {
    return from_bits(bits_of(splat(1)) - (bits_of(shifted) << MANTISSA_BITS));
}

/* x + low - n ln 2. */
INLINE vector reduce(vector x, vector shifted) {
    vector n = shifted - splat(ROUNDER);
    return multiply_add(n, splat(-LN2_LOW), multiply_add(n, splat(-LN2_HIGH), x));
}

/* exp(r) - 1 for |r| <= ln(2) / 2, with an error small against 1. */
INLINE vector exponential_minus_one_near_zero(vector r) {
#if REAL_BITS == 32
    static const real Q[] = {0x1.6db4cep-10f, 0x1.123b54p-7f, 0x1.55545ep-5f, 0x1.55548ep-3f, 0x1p-1f};
#else
    static const real Q[] = {0x1.af85a4fd9638ep-26, 0x1.28b035102a9bbp-22, 0x1.71dddfb92c31cp-19, 0x1.a01996aea209p-16,
                             0x1.a01a01baea84ap-13, 0x1.6c16c1859aaa4p-10, 0x1.111111110d623p-7, 0x1.555555555007ep-5,
                             0x1.5555555555561p-3, 0x1.000000000000bp-1};
#endif
    return multiply_add(r * r, POLYNOMIAL(r, Q), r);
}

/* exp(r) - 1 for |r| <= 1/2, with an error small against itself. */
INLINE vector exponential_minus_one_relative(vector r) {
#if REAL_BITS == 32
    static const real Q[] = {0x1.a34c56p-13f, 0x1.6ef05cp-10f, 0x1.110edcp-7f,
                             0x1.55527ep-5f,  0x1.555558p-3f,  0x1.000002p-1f};
#else
    static const real Q[] = {0x1.204bb92cb94cbp-29, 0x1.b06eeee4022c9p-26, 0x1.27e4114c579afp-22, 0x1.71dd1b1793bd2p-19,
                             0x1.a01a0236b1599p-16, 0x1.a01a022f5cdebp-13, 0x1.6c16c16be7ce2p-10, 0x1.11111110f1e5cp-7,
                             0x1.555555555561ap-5,  0x1.55555555555e2p-3,  0x1p-1};
#endif
    return multiply_add(r * r, POLYNOMIAL(r, Q), r);
}

/* exp(x) = 2^n exp(r); 2^n by adding to the exponent, which serves n = 128 (1024) too. */
INLINE vector exponential(vector x) {
    const real lowest = REAL_BITS == 32 ? -0x1.5d589ep+6 : -0x1.6232bdd7abcd2p+9; /* logarithm of SMALLEST_NORMAL */
    const real highest = REAL_BITS == 32 ? 0x1.62e42ep+6 : 0x1.62e42fefa39efp+9;  /* of the largest number */
    vector shifted = round_exponent(x);
    vector mantissa = exponential_minus_one_near_zero(reduce(x, shifted)) + splat(1);
    ivector result = (bits_of(mantissa) + (bits_of(shifted) << MANTISSA_BITS)) & (x >= splat(lowest));
    return choose(x <= splat(highest), from_bits(result), x * splat(INFINITE));
}

/* exp(x + low) = power (1 + what is returned), for x <= 0; low, which is small, corrects a rounded x. */
INLINE vector exponential_in_parts(vector x, vector low, vector *power) {
    vector bounded = at_least(x, splat(REAL_BITS == 32 ? -88 : -709)); /* there 2^n comes out as zero */
    vector shifted = round_exponent(bounded);
    *power = power_of_two(shifted);
    return exponential_minus_one_near_zero(reduce(bounded, shifted) + low);
}

/* exp(x) for x <= 0, a little faster. */
INLINE vector exponential_of_negative(vector x) {
    vector power, q = exponential_in_parts(x, splat((real)-0.0), &power);
    return multiply_add(power, q, power);
}

/* With exp(-x) = 2^n (1 + q): 2^-n / (2^-n + 1 + q), which cannot overflow. */
INLINE vector logistic(vector x) {
    x = at_least(at_most(x, splat(40)), splat(REAL_BITS == 32 ? -88.3 : -709.4));
    vector shifted = round_exponent(-x), power = power_of_half(shifted);
    return power / ((power + exponential_minus_one_near_zero(reduce(-x, shifted))) + splat(1));
}

/* With exp(2|x|) = 2^n (1 + q): above = 1 + q - 2^-n and tanh = above / (above + 2 2^-n); n = 0 near zero. */
INLINE vector hyperbolic_tangent(vector x) {
    vector magnitude = at_most(absolute(x), splat(REAL_BITS == 32 ? 10 : 20)), twice = magnitude + magnitude;
    vector shifted = choose(magnitude < splat(0.25), splat(ROUNDER), round_exponent(twice));
    vector power = power_of_half(shifted);
    vector above = (splat(1) - power) + exponential_minus_one_relative(reduce(twice, shifted));
    return also_sign_of(above / multiply_add(power, splat(2), above), x);
}

/* exp(x) = 2^n (1 + q), n = 0 near zero; halves, so that 2^n cannot overflow before the result does. */
INLINE vector exponential_minus_one(vector x) {
    vector bounded = at_least(at_most(x, splat(REAL_BITS == 32 ? 89 : 710)), splat(-40));
    vector shifted = choose(absolute(bounded) < splat(0.5), splat(ROUNDER), round_exponent(bounded));
    vector q = exponential_minus_one_relative(reduce(bounded, shifted));
    vector half = from_bits((bits_of(shifted) << MANTISSA_BITS) + bits_of(splat(0.5)));
    vector result = multiply_add(half, q, half - splat(0.5));
    return also_sign_of(result + result, x);
}

/* log(1 + f) + k ln 2 for 1 + f from sqrt(1/2) to sqrt(2): 2 atanh(s) with s = f / (2 + f), arranged as
 * f - (f^2/2 - s (f^2/2 + R(s^2))). */
INLINE vector logarithm_near_one(vector f, vector k) {
#if REAL_BITS == 32
    static const real L[] = {0x1.31e28ap-2f, 0x1.995ecp-2f, 0x1.55557ap-1f};
#else
    static const real L[] = {0x1.2f042f5cd0958p-3, 0x1.39a1de5be8165p-3, 0x1.74663d4834fa8p-3, 0x1.c71c5212d7b39p-3,
                             0x1.24924941e2d2ep-2, 0x1.999999997ff04p-2, 0x1.5555555555592p-1};
#endif
    vector s = f / (f + splat(2)), z = s * s, half_square = f * f * splat(0.5);
    vector low = multiply_add(s, multiply_add(z, POLYNOMIAL(z, L), half_square), k * splat(LN2_LOW));
    return multiply_add(k, splat(LN2_HIGH), f - (half_square - low));
}

/* Splits x = 2^k (1 + f). Shifts are of unsigned lanes: AVX2 has no arithmetic one for 64 bits. */
INLINE vector logarithm(vector x) {
    const nvector lowest = (nvector)splat(REAL_BITS == 32 ? (real)0x1.6a09e6p-1f : (real)0x1.6a09e667f3bcdp-1);
    const nvector one = (nvector)splat(1), rounder = (nvector)splat(ROUNDER);
    nvector exponent = ((nvector)x - lowest + one) >> MANTISSA_BITS; /* k + bias */
    vector f = (vector)((nvector)x - (exponent << MANTISSA_BITS) + one) - splat(1);
    vector k = (vector)(exponent + rounder) - splat(ROUNDER + (REAL_BITS == 32 ? 127 : 1023));
    vector result = choose(x < splat(INFINITE), logarithm_near_one(f, k), x);
    vector special = choose(x < splat(0), splat((real)__builtin_nan("")), splat(-INFINITE));
    return choose(x < splat(SMALLEST_NORMAL), special, result);
}

/* log(1 + exp(-x)) for x >= 0. */
INLINE vector log_one_plus_exp_negative(vector x) {
    vector power = exponential_of_negative(-x);
    ivector large = power > splat(0x1.a8p-2); /* sqrt(2) - 1, about */
    vector f = choose(large, (power - splat(1)) * splat(0.5), power);
    return logarithm_near_one(f, from_bits(large & bits_of(splat(1))));
}

/* log(1 + exp(x)). */
INLINE vector softplus(vector x) { return at_least(x, splat(0)) + log_one_plus_exp_negative(absolute(x)); }

/* x^2 = square + what is returned. */
INLINE vector square_remainder(vector x, vector square) {
#if HAS_FMA
    return multiply_add(x, x, -square);
#else
    vector high = from_bits(bits_of(x) & ~(((integer)1 << (MANTISSA_BITS / 2 + 1)) - 1)), low = x - high;
    return ((high * high - square) + (high + high) * low) + low * low;
#endif
}

/* exp(-x^2 / 2) = power (1 + what is returned). */
INLINE vector bell_in_parts(vector x, vector *power) {
    vector square = x * x;
    return exponential_in_parts(square * splat(-0.5), square_remainder(x, square) * splat(-0.5), power);
}

/* (x + 4) Phi(-x) / exp(-x^2 / 2) for x >= 0 up to where Phi underflows; a polynomial of u = (x - 4) / (x + 4). */
INLINE vector scaled_tail(vector u) {
#if REAL_BITS == 32
    static const real H[] = {-0x1.09feb2p-13f, 0x1.8fac22p-13f, 0x1.9cb214p-10f, -0x1.cd0ae8p-9f, -0x1.ed6182p-8f,
                             0x1.eed53ep-5f,   -0x1.7dffbep-3f, 0x1.8c6d9cp-2f,  -0x1.373e3ap-1f, 0x1.82b4bcp-1f};
#else
    static const real H[] = {
        -0x1.466817d68db46p-30, -0x1.5ec2b25f49a5ep-32, 0x1.f5a8ee615f4dbp-27,  0x1.12ef8aff17e9fp-26,
        -0x1.4b9711d034f19p-24, -0x1.5014587ba85cp-23,  0x1.1ba6cd802e518p-22,  0x1.12487257792d3p-20,
        -0x1.4fadc274bedfap-21, -0x1.8d4867e120ce2p-18, 0x1.7fdb387c1671fp-21,  0x1.26d05d712f12dp-15,
        -0x1.0011289887c89p-19, -0x1.e4a4216c6708ep-13, 0x1.17a4a6125764bp-13,  0x1.ab825faf908c5p-10,
        -0x1.c81719c982ad3p-9,  -0x1.ee276104347c6p-8,  0x1.eec4cc3e44598p-5,   -0x1.7dff2bff684a1p-3,
        0x1.8c6dbf2cfc307p-2,   -0x1.373e3a893c28ap-1,  0x1.82b4bb8c94dcep-1};
#endif
    return POLYNOMIAL(u, H);
}

/* Where exp(-x^2 / 2) is zero for certain. */
#define NORMAL_END (REAL_BITS == 32 ? 14 : 39)

/* Phi(x), the normal distribution, and its density. */
INLINE vector normal_cdf_and_density(vector x, vector *density) {
    vector magnitude = at_most(absolute(x), splat(NORMAL_END)), reciprocal = splat(1) / (magnitude + splat(4));
    vector power, q = bell_in_parts(magnitude, &power), bell = multiply_add(power, q, power);
    vector tail = scaled_tail((magnitude - splat(4)) * reciprocal) * reciprocal * bell;
    *density = bell * splat((real)0.39894228040143267794);
    return choose(x < splat(0), tail, splat(1) - tail);
}

/* x Phi(x) = max(x, 0) - |x| Phi(-|x|). The ratio v = |x| / (|x| + 4) carries its rounding error in low. */
INLINE vector gelu(vector x) {
    vector magnitude = at_most(absolute(x), splat(NORMAL_END)), v = magnitude / (magnitude + splat(4));
    vector residual = multiply_add(-v, magnitude, multiply_add(v, splat(-4), magnitude)); /* |x| - v (|x| + 4) */
    vector low = residual * multiply_add(v, splat(-0.25), splat(0.25));
    vector scaled = scaled_tail(multiply_add(low, splat(2), multiply_add(v, splat(2), splat(-1))));
    vector power, q = bell_in_parts(magnitude, &power), tail = multiply_add(scaled, v, scaled * low);
    return multiply_add(-multiply_add(q, tail, tail), power, at_least(x, splat((real)-0.0)));
}

/* With exp(|x|) = 2^n (1 + q): max(x, 0) - |x| 2^-n / (2^-n + 1 + q). The numerator is scaled by 2^24, for it
 * underflows before the result does. */
INLINE vector silu(vector x) {
    vector magnitude = at_most(absolute(x), splat(REAL_BITS == 32 ? 105 : 726)); /* there it comes out as zero */
    vector shifted = round_exponent(magnitude);
    vector scaled = from_bits(bits_of(splat(0x1p24)) - (bits_of(shifted) << MANTISSA_BITS));
    vector sum = multiply_add(scaled, splat(0x1p-24), exponential_minus_one_near_zero(reduce(magnitude, shifted))) + splat(1);
    return multiply_add(magnitude * scaled / sum, splat(-0x1p-24), at_least(x, splat((real)-0.0)));
}
