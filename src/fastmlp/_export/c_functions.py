"""The functions of a network in C, one number at a time: csrc/elementary.h, activation.h and softmax again.

Same coefficients, same operations, same order, so that the bits are the same where there is fused multiply-add; the
reasons and the errors in ULP stand there. They are written so that compilers can do a whole vector at a time: no
branches, since a selection between two floating-point operations is a branch to gcc, but ``choose``.

In the text ``real`` is float or double, ``natural`` the unsigned integer of that size, and R(...) a constant.
"""

import re

# Each polynomial's coefficients from the highest degree down.
POLYNOMIALS = {
    "float32": {
        "minus_one_near_zero": "0x1.6db4cep-10 0x1.123b54p-7 0x1.55545ep-5 0x1.55548ep-3 0x1p-1",
        "minus_one_relative": "0x1.a34c56p-13 0x1.6ef05cp-10 0x1.110edcp-7 0x1.55527ep-5 0x1.555558p-3 0x1.000002p-1",
        "half_minus_one": "0x1.6cp-5 0x1.120fcp-3 0x1.5555d2p-2 0x1.5554d8p-1 0x1p+0",
        "logarithm": "0x1.31e28ap-2 0x1.995ecp-2 0x1.55557ap-1",
        "scaled_tail_slope": "-0x1.9069b2p-16 0x1.f67f8ep-15 0x1.9abbe2p-12 -0x1.d19e7cp-11 -0x1.ed900cp-10 "
        "0x1.eee68ep-7 -0x1.7dff64p-5 0x1.8c6d7p-4 -0x1.373e3ap-3",
    },
    "float64": {
        "minus_one_near_zero": "0x1.af85a4fd9638ep-26 0x1.28b035102a9bbp-22 0x1.71dddfb92c31cp-19 "
        "0x1.a01996aea209p-16 0x1.a01a01baea84ap-13 0x1.6c16c1859aaa4p-10 0x1.111111110d623p-7 0x1.555555555007ep-5 "
        "0x1.5555555555561p-3 0x1.000000000000bp-1",
        "minus_one_relative": "0x1.204bb92cb94cbp-29 0x1.b06eeee4022c9p-26 0x1.27e4114c579afp-22 "
        "0x1.71dd1b1793bd2p-19 0x1.a01a0236b1599p-16 0x1.a01a022f5cdebp-13 0x1.6c16c16be7ce2p-10 0x1.11111110f1e5cp-7 "
        "0x1.555555555561ap-5 0x1.55555555555e2p-3 0x1p-1",
        "half_minus_one": "0x1.ae6a2414ee3c2p-16 0x1.28a1f462c788ep-13 0x1.71de890cba659p-11 0x1.a019a75bed25ap-9 "
        "0x1.a01a01749cee1p-7 0x1.6c16c17ee1b09p-5 0x1.11111111190fdp-3 0x1.55555555522a2p-2 0x1.5555555555539p-1 "
        "0x1.0000000000005p+0",
        "logarithm": "0x1.2f042f5cd0958p-3 0x1.39a1de5be8165p-3 0x1.74663d4834fa8p-3 0x1.c71c5212d7b39p-3 "
        "0x1.24924941e2d2ep-2 0x1.999999997ff04p-2 0x1.5555555555592p-1",
        "scaled_tail_slope": "-0x1.466817d68db46p-32 -0x1.5ec2b25f49a5ep-34 0x1.f5a8ee615f4dbp-29 "
        "0x1.12ef8aff17e9fp-28 -0x1.4b9711d034f19p-26 -0x1.5014587ba85cp-25 0x1.1ba6cd802e518p-24 "
        "0x1.12487257792d3p-22 -0x1.4fadc274bedfap-23 -0x1.8d4867e120ce2p-20 0x1.7fdb387c1671fp-23 "
        "0x1.26d05d712f12dp-17 -0x1.0011289887c89p-21 -0x1.e4a4216c6708ep-15 0x1.17a4a6125764bp-15 "
        "0x1.ab825faf908c5p-12 -0x1.c81719c982ad3p-11 -0x1.ee276104347c6p-10 0x1.eec4cc3e44598p-7 "
        "-0x1.7dff2bff684a1p-5 0x1.8c6dbf2cfc307p-4 -0x1.373e3a893c28ap-3",
    },
}

# What else differs between the two, by its name in the text.
CONSTANTS = {
    "float32": {
        "real": "float",
        "natural": "uint32_t",
        "FMA": "fmaf",
        "FABS": "fabsf",
        "MANTISSA_BITS": "23",
        "ROUNDER": "R(0x1.8p+23)",
        "SIGN": "UINT32_C(0x80000000)",
        "HIGH_BITS": "UINT32_C(0xfffff000)",
        "LN2_HIGH": "R(0x1.62e4p-1)",
        "LN2_LOW": "R(0x1.7f7d1cp-20)",
        "LOG2_E": "R(0x1.715476p+0)",
        "EXP_LOWEST": "R(-0x1.5d589ep+6)",
        "EXP_HIGHEST": "R(0x1.62e42ep+6)",
        "NEGATIVE_LOWEST": "R(-88.0)",
        "LOGISTIC_LOWEST": "R(-88.3)",
        "TANH_END": "R(-10.0)",
        "EXPM1_HIGHEST": "R(89.0)",
        "NORMAL_END": "R(14.0)",
        "SCALED_TAIL_MIDDLE": "R(0x1.82b4bcp-3)",
        "SILU_END": "R(105.0)",
        "LINE": "16",
    },
    "float64": {
        "real": "double",
        "natural": "uint64_t",
        "FMA": "fma",
        "FABS": "fabs",
        "MANTISSA_BITS": "52",
        "ROUNDER": "R(0x1.8p+52)",
        "SIGN": "UINT64_C(0x8000000000000000)",
        "HIGH_BITS": "UINT64_C(0xfffffffff8000000)",
        "LN2_HIGH": "R(0x1.62e42fefa38p-1)",
        "LN2_LOW": "R(0x1.ef35793c7673p-45)",
        "LOG2_E": "R(0x1.71547652b82fep+0)",
        "EXP_LOWEST": "R(-0x1.6232bdd7abcd2p+9)",
        "EXP_HIGHEST": "R(0x1.62e42fefa39efp+9)",
        "NEGATIVE_LOWEST": "R(-709.0)",
        "LOGISTIC_LOWEST": "R(-709.4)",
        "TANH_END": "R(-20.0)",
        "EXPM1_HIGHEST": "R(710.0)",
        "NORMAL_END": "R(39.0)",
        "SCALED_TAIL_MIDDLE": "R(0x1.82b4bb8c94dcep-3)",
        "SILU_END": "R(726.0)",
        "LINE": "8",
    },
}

_TEXT = r"""
/* a * b + c, rounded once where that is fast. */
INLINE real multiply_add(real a, real b, real c)
{
#if HAS_FMA
    return FMA(a, b, c);
#else
    return a * b + c;
#endif
}

INLINE natural bits_of(real x)
{
    union { real number; natural bits; } both;
    both.number = x;
    return both.bits;
}

INLINE real from_bits(natural bits)
{
    union { real number; natural bits; } both;
    both.bits = bits;
    return both.number;
}

/* condition ? yes : no, without a branch; the condition is 0 or 1. */
INLINE real choose(natural condition, real yes, real no)
{
    const natural mask = (natural)0 - condition;
    return from_bits((bits_of(yes) & mask) | (bits_of(no) & ~mask));
}

/* NaN stays NaN. */
INLINE real at_least(real x, real bound) { return choose(x < bound, bound, x); }

/* NaN stays NaN. */
INLINE real at_most(real x, real bound) { return choose(x > bound, bound, x); }

INLINE real absolute(real x) { return from_bits(bits_of(x) & ~SIGN); }

/* Negative if x is, which a negative result stays. */
INLINE real also_sign_of(real result, real x) { return from_bits(bits_of(result) | (bits_of(x) & SIGN)); }

/* x / ln 2 rounded to an integer n, which the number added brings into the low bits: "shifted" below. */
INLINE real round_exponent(real x) { return multiply_add(x, LOG2_E, ROUNDER); }

/* scale * 2^n. */
INLINE real times_power(real scale, real shifted)
{
    return from_bits((bits_of(shifted) << MANTISSA_BITS) + bits_of(scale));
}

/* scale * 2^-n. */
INLINE real over_power(real scale, real shifted)
{
    return from_bits(bits_of(scale) - (bits_of(shifted) << MANTISSA_BITS));
}

/* x - n ln 2. */
INLINE real reduce(real x, real shifted)
{
    const real n = shifted - ROUNDER;
    return multiply_add(n, -LN2_LOW, multiply_add(n, -LN2_HIGH, x));
}

/* exp(r) - 1 for |r| <= ln(2) / 2, with an error small against 1. */
INLINE real exponential_minus_one_near_zero(real r)
{
    return multiply_add(r * r, polynomial_minus_one_near_zero(r), r);
}

/* exp(r) - 1 for |r| <= 1/2, with an error small against itself. */
INLINE real exponential_minus_one_relative(real r)
{
    return multiply_add(r * r, polynomial_minus_one_relative(r), r);
}

/* (exp(2 h) - 1) / 2 for |h| <= ln(2) / 4, with an error small against itself. */
INLINE real half_exponential_minus_one(real h)
{
    return multiply_add(h * h, polynomial_half_minus_one(h), h);
}

/* exp(x) = 2^n (1 + q). */
INLINE real exponential(real x)
{
    const real shifted = round_exponent(x);
    const real mantissa = exponential_minus_one_near_zero(reduce(x, shifted)) + R(1.0);
    const natural is_normal = (natural)0 - (natural)(x >= EXP_LOWEST);
    const natural bits = (bits_of(mantissa) + (bits_of(shifted) << MANTISSA_BITS)) & is_normal;
    return choose(x <= EXP_HIGHEST, from_bits(bits), x * R(INFINITY));
}

/* exp(x) for x <= 0. */
INLINE real exponential_of_negative(real x)
{
    const real bounded = at_least(x, NEGATIVE_LOWEST), shifted = round_exponent(bounded);
    const real power = times_power(R(1.0), shifted);
    const real q = exponential_minus_one_near_zero(reduce(bounded, shifted) + R(-0.0));
    return multiply_add(power, q, power);
}

/* 1 / (1 + exp(-x)); with exp(-x) = 2^n (1 + q): 2^-n / (2^-n + 1 + q). */
INLINE real logistic(real x)
{
    const real bounded = at_least(at_most(x, R(40.0)), LOGISTIC_LOWEST);
    const real shifted = round_exponent(-bounded), power = over_power(R(1.0), shifted);
    return power / ((power + exponential_minus_one_near_zero(reduce(-bounded, shifted))) + R(1.0));
}

/* With exp(-2|x|) = 2^n (1 + 2q): (1 - 2^n - 2^(n+1) q) / (1 + 2^n + 2^(n+1) q). */
INLINE real hyperbolic_tangent(real x)
{
    const real negative = at_least(from_bits(bits_of(x) | SIGN), TANH_END);
    const real shifted = multiply_add(negative, R(2.0) * LOG2_E, ROUNDER);
    const real h = multiply_add(shifted - ROUNDER, R(-0.34657359027997265471), negative);
    const real power = times_power(R(2.0), shifted), q = half_exponential_minus_one(h);
    const real numerator = multiply_add(-power, q, multiply_add(-power, R(0.5), R(1.0)));
    return also_sign_of(numerator / multiply_add(power, q, multiply_add(power, R(0.5), R(1.0))), x);
}

/* exp(x) - 1 = 2^n (1 + q) - 1, n = 0 near zero; by halves, for 2^n must not overflow before the result does. */
INLINE real exponential_minus_one(real x)
{
    const real bounded = at_least(at_most(x, EXPM1_HIGHEST), R(-40.0));
    const natural near_zero = absolute(bounded) < R(0.5);
    const real shifted = choose(near_zero, ROUNDER, round_exponent(bounded));
    const real q = exponential_minus_one_relative(reduce(bounded, shifted));
    const real half = times_power(R(0.5), shifted);
    const real result = multiply_add(half, q, half - R(0.5));
    return also_sign_of(choose(near_zero, q, result + result), x);
}

/* log(1 + f) + k ln 2 for 1 + f from sqrt(1/2) to sqrt(2): f - (f^2/2 - s (f^2/2 + R(s^2))), s = f / (2 + f). */
INLINE real logarithm_near_one(real f, real k)
{
    const real s = f / (f + R(2.0)), z = s * s, half_square = f * f * R(0.5);
    const real low = multiply_add(s, multiply_add(z, polynomial_logarithm(z), half_square), k * LN2_LOW);
    return multiply_add(k, LN2_HIGH, f - (half_square - low));
}

/* log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)). */
INLINE real softplus(real x)
{
    const real power = exponential_of_negative(-absolute(x));
    const natural large = power > R(0x1.a8p-2);
    const real f = choose(large, (power - R(1.0)) * R(0.5), power);
    return at_least(x, R(0.0)) + logarithm_near_one(f, choose(large, R(1.0), R(0.0)));
}

/* x^2 = square + what is returned. */
INLINE real square_remainder(real x, real square)
{
#if HAS_FMA
    return multiply_add(x, x, -square);
#else
    const real high = from_bits(bits_of(x) & HIGH_BITS), low = x - high;
    return ((high * high - square) + (high + high) * low) + low * low;
#endif
}

/* x Phi(x) = max(x, 0) - |x| Phi(-|x|), Phi(-|x|) by (|x| / 4 + 1) Phi(-|x|) / exp(-x^2 / 2), a polynomial. The ratio
 * v = 4 |x| / (|x| + 4), the polynomial and their product carry their rounding errors along. The product is not
 * negative: its absolute value changes nothing, but keeps compilers from rounding product and sum at once. */
INLINE real gelu(real x)
{
    const real magnitude = at_most(absolute(x), NORMAL_END), four_times = magnitude * R(4.0);
    const real v = four_times / (magnitude + R(4.0));
    const real remainder = multiply_add(-v, magnitude, multiply_add(v, R(-4.0), four_times));
    const real v_low = remainder * multiply_add(v, R(-0.0625), R(0.25));
    const real u = multiply_add(v_low, R(0.5), multiply_add(v, R(0.5), R(-1.0)));
    const real slope = polynomial_scaled_tail_slope(u), scaled = multiply_add(u, slope, SCALED_TAIL_MIDDLE);
    const real low = multiply_add(u, slope, SCALED_TAIL_MIDDLE - scaled);
    const real product = absolute(scaled * v);
    const real product_low = multiply_add(low, v, multiply_add(scaled, v_low, multiply_add(scaled, v, -product)));
    const real square = magnitude * magnitude, square_low = square_remainder(magnitude, square);
    const real bounded = at_least(square * R(-0.5), NEGATIVE_LOWEST), shifted = round_exponent(bounded);
    const real q = exponential_minus_one_near_zero(reduce(bounded, shifted) + square_low * R(-0.5));
    const real tail = product + multiply_add(q, product, product_low);
    return multiply_add(-tail, times_power(R(1.0), shifted), at_least(x, R(-0.0)));
}

/* x / (1 + exp(-x)); with exp(|x|) = 2^n (1 + q): max(x, 0) - |x| 2^-n / (2^-n + 1 + q), scaled by 2^24. */
INLINE real silu(real x)
{
    const real magnitude = at_most(absolute(x), SILU_END), shifted = round_exponent(magnitude);
    const real q = exponential_minus_one_near_zero(reduce(magnitude, shifted));
    const real scaled = over_power(R(0x1p24), shifted);
    const real sum = multiply_add(scaled, R(0x1p-24), q) + R(1.0);
    return multiply_add(magnitude * scaled / sum, R(-0x1p-24), at_least(x, R(-0.0)));
}

INLINE real relu(real z) { return at_least(z, R(0.0)); }

INLINE real leaky_relu(real z) { return choose(z < R(0.0), z * R(0.01), z); }

INLINE real elu(real z) { return choose(z > R(0.0), z, exponential_minus_one(z)); }

/* n logits become probabilities; LINE partial sums are added in pairs, as the package does on every processor. */
INLINE void softmax(int n, real *z)
{
    real sum[LINE] = {R(0.0)}, largest = z[0];
    for (int j = 1; j < n; j++) largest = z[j] > largest ? z[j] : largest;
    for (int j = 0; j < n; j++) z[j] = exponential(z[j] - largest);
    for (int j = 0; j < n; j++) sum[j % LINE] += z[j];
    for (int width = LINE / 2; width > 0; width /= 2)
        for (int j = 0; j < width; j++) sum[j] += sum[j + width];
    for (int j = 0; j < n; j++) z[j] /= sum[0];
}

/* z = W x + b: every sum begins with its bias and takes the inputs in their order, whatever is done side by side. The
 * parameters have a row of `leading` numbers for each input, and the biases for last; eight rows go together. */
INLINE void dense(int n_in, int leading, const real *restrict x, const real *restrict parameters, real *restrict z)
{
    int k = 0;
    const real *w = parameters;
    for (int j = 0; j < leading; j++) z[j] = parameters[(size_t)n_in * leading + j];
    for (; k + 8 <= n_in; k += 8, w += 8 * leading)
        for (int j = 0; j < leading; j++) {
            real sum = z[j];
            sum = multiply_add(x[k], w[j], sum);
            sum = multiply_add(x[k + 1], w[leading + j], sum);
            sum = multiply_add(x[k + 2], w[2 * leading + j], sum);
            sum = multiply_add(x[k + 3], w[3 * leading + j], sum);
            sum = multiply_add(x[k + 4], w[4 * leading + j], sum);
            sum = multiply_add(x[k + 5], w[5 * leading + j], sum);
            sum = multiply_add(x[k + 6], w[6 * leading + j], sum);
            sum = multiply_add(x[k + 7], w[7 * leading + j], sum);
            z[j] = sum;
        }
    for (; k < n_in; k++, w += leading)
        for (int j = 0; j < leading; j++) z[j] = multiply_add(x[k], w[j], z[j]);
}
"""

# The function of each activation.
FUNCTION_OF_ACTIVATION = {
    "relu": "relu",
    "leaky_relu": "leaky_relu",
    "elu": "elu",
    "softplus": "softplus",
    "sigmoid": "logistic",
    "tanh": "hyperbolic_tangent",
    "gelu": "gelu",
    "silu": "silu",
    "exp": "exponential",
    "softmax": "softmax",
}


def _polynomial(name: str, coefficients: list[str]) -> str:
    """A function; a long polynomial goes in two parts side by side, high x^4 + low or high x^8 + low."""
    count = len(coefficients)
    n_low = 0 if count <= 6 else 4 if count <= 16 else 8
    lines = [f"INLINE real polynomial_{name}(real x)", "{"]
    for part, values in (("high", coefficients[: count - n_low]), ("low", coefficients[count - n_low :])):
        lines += [f"    real {part} = R({value});" for value in values[:1]]
        lines += [f"    {part} = multiply_add({part}, x, R({value}));" for value in values[1:]]
    if not n_low:
        return "\n".join([*lines, "    return high;", "}"])
    square = ["    const real square = x * x, fourth = square * square;"]
    power = "fourth" if n_low == 4 else "fourth * fourth"
    return "\n".join([*lines, *square, f"    return multiply_add(high, {power}, low);", "}"])


def _pieces(dtype: str) -> dict[str, str]:
    """Every function by its name, in an order in which each stands before its callers."""
    pieces = {}
    for text in _TEXT.strip().split("\n\n"):
        name = re.search(r"^INLINE .*?(\w+)\(", text, re.MULTILINE)
        assert name is not None, text
        pieces[name.group(1)] = text
    polynomials = {f"polynomial_{name}": _polynomial(name, text.split()) for name, text in POLYNOMIALS[dtype].items()}
    first = {"multiply_add": pieces.pop("multiply_add")}
    return first | polynomials | pieces


def functions(dtype: str, needed: set[str]) -> tuple[str, list[str]]:
    """The text of the functions ``needed`` and of those they call, and the names of all."""
    pieces = _pieces(dtype)
    wanted = set(needed)
    for name in reversed(pieces):  # callers come after what they call
        if name in wanted:
            wanted |= pieces.keys() & set(re.findall(r"(\w+)\(", pieces[name]))
    names = [name for name in pieces if name in wanted]
    return "\n\n".join(pieces[name] for name in names), names


def finished(text: str, dtype: str, words: dict[str, str], functions: dict[str, str]) -> str:
    """A text with constants of the dtype and other words put in, and functions, where called, under new names."""
    words = CONSTANTS[dtype] | words
    text = re.sub(rf"\b({'|'.join(words)})\b", lambda match: words[match.group()], text)
    text = re.sub(rf"\b({'|'.join(functions)})(?=\()", lambda match: functions[match.group()], text)
    suffix = "f" if dtype == "float32" else ""
    return re.sub(r"\bR\((-?)(\w[\w.+-]*)\)", lambda match: match.group(1) + _constant(match.group(2), suffix), text)


def _constant(text: str, suffix: str) -> str:
    return text if text == "INFINITY" else text + suffix
