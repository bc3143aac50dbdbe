"""Elementary functions of vectors: only correctly rounded operations in a fixed order, so the bits are the same on
every instruction set with FMA. As csrc/elementary.h, which tells the errors. Subnormal results may come out as zero,
subnormal arguments may count as zero."""

from fastmlp._backends._numba._compiler import inline
from fastmlp._backends._numba._structs import Vector
from fastmlp._backends._numba._vector import (
    absolute,
    at_least,
    at_most,
    bits_of,
    choose,
    constant,
    from_bits,
    has_fma,
    mantissa_bits,
    multiply_add,
    naturals_of,
    polynomial,
    splat,
    with_sign_of,
)

INFINITY = float("inf")
NAN = float("nan")
SMALLEST_NORMAL = constant("0x1p-126f", "0x1p-1022")
LN2_HIGH = constant("0x1.62e4p-1f", "0x1.62e42fefa38p-1")  # few bits: its product with an exponent is exact
LN2_LOW = constant("0x1.7f7d1cp-20f", "0x1.ef35793c7673p-45")
LOG2_E = constant("0x1.715476p+0f", "0x1.71547652b82fep+0")

# Added to a small number, it rounds it to an integer, which is then in the low bits.
ROUNDER = constant("0x1.8p+23f", "0x1.8p+52")


@inline
def also_sign_of(result: Vector, x: Vector) -> Vector:
    """Negative if x is, which a negative result stays."""
    return from_bits(bits_of(result) | (bits_of(x) & bits_of(splat(-0.0, x))))


@inline
def round_exponent(x: Vector) -> Vector:
    """x / ln 2 rounded to an integer n, as n + ROUNDER."""
    return multiply_add(x, LOG2_E(x), ROUNDER(x))


@inline
def scale_up(x: Vector, shifted: Vector) -> Vector:
    """2^n x from n + ROUNDER; exponents that a normal number cannot have are the caller's to avoid, here and below."""
    return from_bits((bits_of(shifted) << mantissa_bits(shifted)) + bits_of(x))


@inline
def power_of_two(shifted: Vector) -> Vector:
    """2^n from n + ROUNDER."""
    return scale_up(splat(1, shifted), shifted)


@inline
def power_of_half(shifted: Vector) -> Vector:
    """2^-n from n + ROUNDER."""
    return from_bits(bits_of(splat(1, shifted)) - (bits_of(shifted) << mantissa_bits(shifted)))


@inline
def reduce(x: Vector, shifted: Vector) -> Vector:
    """x - n ln 2."""
    n = shifted - ROUNDER(x)
    return multiply_add(n, -LN2_LOW(x), multiply_add(n, -LN2_HIGH(x), x))


_near_zero = polynomial(
    (
        "0x1.6db4cep-10f", "0x1.123b54p-7f", "0x1.55545ep-5f", "0x1.55548ep-3f",
        "0x1p-1f",
    ),
    (
        "0x1.af85a4fd9638ep-26", "0x1.28b035102a9bbp-22", "0x1.71dddfb92c31cp-19", "0x1.a01996aea209p-16",
        "0x1.a01a01baea84ap-13", "0x1.6c16c1859aaa4p-10", "0x1.111111110d623p-7", "0x1.555555555007ep-5",
        "0x1.5555555555561p-3", "0x1.000000000000bp-1",
    ),
)  # fmt: skip


@inline
def exponential_minus_one_near_zero(r: Vector) -> Vector:
    """exp(r) - 1 for |r| <= ln(2) / 2, with an error small against 1."""
    return multiply_add(r * r, _near_zero(r), r)


_relative = polynomial(
    (
        "0x1.a34c56p-13f", "0x1.6ef05cp-10f", "0x1.110edcp-7f", "0x1.55527ep-5f",
        "0x1.555558p-3f", "0x1.000002p-1f",
    ),
    (
        "0x1.204bb92cb94cbp-29", "0x1.b06eeee4022c9p-26", "0x1.27e4114c579afp-22", "0x1.71dd1b1793bd2p-19",
        "0x1.a01a0236b1599p-16", "0x1.a01a022f5cdebp-13", "0x1.6c16c16be7ce2p-10", "0x1.11111110f1e5cp-7",
        "0x1.555555555561ap-5", "0x1.55555555555e2p-3", "0x1p-1",
    ),
)  # fmt: skip


@inline
def exponential_minus_one_relative(r: Vector) -> Vector:
    """exp(r) - 1 for |r| <= 1/2, with an error small against itself."""
    return multiply_add(r * r, _relative(r), r)


_half = polynomial(
    ("0x1.6cp-5f", "0x1.120fcp-3f", "0x1.5555d2p-2f", "0x1.5554d8p-1f", "0x1p+0f"),
    (
        "0x1.ae6a2414ee3c2p-16", "0x1.28a1f462c788ep-13", "0x1.71de890cba659p-11", "0x1.a019a75bed25ap-9",
        "0x1.a01a01749cee1p-7", "0x1.6c16c17ee1b09p-5", "0x1.11111111190fdp-3", "0x1.55555555522a2p-2",
        "0x1.5555555555539p-1", "0x1.0000000000005p+0",
    ),
)  # fmt: skip


@inline
def half_exponential_minus_one(h: Vector) -> Vector:
    """(exp(2 h) - 1) / 2 for |h| <= ln(2) / 4, with an error small against itself."""
    return multiply_add(h * h, _half(h), h)


_exponential_lowest = constant("-0x1.5d589ep+6", "-0x1.6232bdd7abcd2p+9")  # logarithm of SMALLEST_NORMAL
_exponential_highest = constant("0x1.62e42ep+6", "0x1.62e42fefa39efp+9")  # of the largest number


@inline
def exponential(x: Vector) -> Vector:
    """exp(x) = 2^n exp(r); 2^n by adding to the exponent, which serves n = 128 (1024) too."""
    shifted = round_exponent(x)
    mantissa = exponential_minus_one_near_zero(reduce(x, shifted)) + splat(1, x)
    result = (bits_of(mantissa) + (bits_of(shifted) << mantissa_bits(x))) & (x >= _exponential_lowest(x))
    return choose(x <= _exponential_highest(x), from_bits(result), x * splat(INFINITY, x))


_parts_lowest = constant(-88, -709)  # there 2^n comes out as zero


@inline
def exponential_in_parts(x: Vector, low: Vector) -> tuple[Vector, Vector]:
    """power and q of exp(x + low) = power (1 + q), for x <= 0; low, which is small, corrects a rounded x."""
    bounded = at_least(x, _parts_lowest(x))
    shifted = round_exponent(bounded)
    return power_of_two(shifted), exponential_minus_one_near_zero(reduce(bounded, shifted) + low)


@inline
def exponential_of_negative(x: Vector) -> Vector:
    """exp(x) for x <= 0, a little faster."""
    power, q = exponential_in_parts(x, splat(-0.0, x))
    return multiply_add(power, q, power)


_logistic_lowest = constant(-88.3, -709.4)


@inline
def logistic(x: Vector) -> Vector:
    """With exp(-x) = 2^n (1 + q): 2^-n / (2^-n + 1 + q), which cannot overflow."""
    x = at_least(at_most(x, splat(40, x)), _logistic_lowest(x))
    shifted = round_exponent(-x)
    power = power_of_half(shifted)
    return power / ((power + exponential_minus_one_near_zero(reduce(-x, shifted))) + splat(1, x))


_tanh_is_minus_one = constant(-10, -20)


@inline
def hyperbolic_tangent(x: Vector) -> Vector:
    """With exp(-2|x|) = 2^n (1 + 2q): (1 - 2^n - 2^(n+1) q) / (1 + 2^n + 2^(n+1) q)."""
    negative = at_least(from_bits(bits_of(x) | bits_of(splat(-0.0, x))), _tanh_is_minus_one(x))
    shifted = multiply_add(negative, LOG2_E(x) + LOG2_E(x), ROUNDER(x))
    q = half_exponential_minus_one(multiply_add(shifted - ROUNDER(x), splat(-0.34657359027997265471, x), negative))
    power, half, one = scale_up(splat(2, x), shifted), splat(0.5, x), splat(1, x)
    numerator = multiply_add(-power, q, multiply_add(-power, half, one))
    return also_sign_of(numerator / multiply_add(power, q, multiply_add(power, half, one)), x)


_expm1_highest = constant(89, 710)


@inline
def exponential_minus_one(x: Vector) -> Vector:
    """exp(x) = 2^n (1 + q), n = 0 near zero; halves, so that 2^n cannot overflow before the result does."""
    bounded = at_least(at_most(x, _expm1_highest(x)), splat(-40, x))
    near_zero = absolute(bounded) < splat(0.5, x)
    shifted = choose(near_zero, ROUNDER(x), round_exponent(bounded))
    q = exponential_minus_one_relative(reduce(bounded, shifted))
    half = from_bits((bits_of(shifted) << mantissa_bits(x)) + bits_of(splat(0.5, x)))
    result = multiply_add(half, q, half - splat(0.5, x))
    return also_sign_of(choose(near_zero, q, result + result), x)


_logarithm = polynomial(
    (
        "0x1.31e28ap-2f", "0x1.995ecp-2f", "0x1.55557ap-1f",
    ),
    (
        "0x1.2f042f5cd0958p-3", "0x1.39a1de5be8165p-3", "0x1.74663d4834fa8p-3", "0x1.c71c5212d7b39p-3",
        "0x1.24924941e2d2ep-2", "0x1.999999997ff04p-2", "0x1.5555555555592p-1",
    ),
)  # fmt: skip


@inline
def logarithm_near_one(f: Vector, k: Vector) -> Vector:
    """log(1 + f) + k ln 2 for 1 + f from sqrt(1/2) to sqrt(2): 2 atanh(s) with s = f / (2 + f), arranged as
    f - (f^2/2 - s (f^2/2 + R(s^2)))."""
    s = f / (f + splat(2, f))
    z = s * s
    half_square = f * f * splat(0.5, f)
    low = multiply_add(s, multiply_add(z, _logarithm(z), half_square), k * LN2_LOW(f))
    return multiply_add(k, LN2_HIGH(f), f - (half_square - low))


_half_root = constant("0x1.6a09e6p-1f", "0x1.6a09e667f3bcdp-1")
_shifted_bias = constant(3 * 2**22 + 127, 3 * 2**51 + 1023)  # ROUNDER + the exponents' bias


@inline
def logarithm(x: Vector) -> Vector:
    """Splits x = 2^k (1 + f). Shifts are of unsigned lanes: AVX2 has no arithmetic one for 64 bits."""
    one = naturals_of(splat(1, x))
    exponent = (naturals_of(x) - naturals_of(_half_root(x)) + one) >> mantissa_bits(x)  # k + bias
    f = from_bits(naturals_of(x) - (exponent << mantissa_bits(x)) + one) - splat(1, x)
    k = from_bits(exponent + naturals_of(ROUNDER(x))) - _shifted_bias(x)
    result = choose(x < splat(INFINITY, x), logarithm_near_one(f, k), x)
    special = choose(x < splat(0, x), splat(NAN, x), splat(-INFINITY, x))
    return choose(x < SMALLEST_NORMAL(x), special, result)


_root_minus_one = constant("0x1.a8p-2", "0x1.a8p-2")  # sqrt(2) - 1, about


@inline
def log_one_plus_exp_negative(x: Vector) -> Vector:
    """log(1 + exp(-x)) for x >= 0."""
    power = exponential_of_negative(-x)
    large = power > _root_minus_one(x)
    f = choose(large, (power - splat(1, x)) * splat(0.5, x), power)
    return logarithm_near_one(f, from_bits(large & bits_of(splat(1, x))))


@inline
def softplus(x: Vector) -> Vector:
    """log(1 + exp(x))."""
    return at_least(x, splat(0, x)) + log_one_plus_exp_negative(absolute(x))


@inline
def square_remainder(x: Vector, square: Vector) -> Vector:
    """x^2 = square + what is returned."""
    if has_fma():
        return multiply_add(x, x, -square)
    high = from_bits(bits_of(x) & ~((1 << (mantissa_bits(x) // 2 + 1)) - 1))
    low = x - high
    return ((high * high - square) + (high + high) * low) + low * low


@inline
def bell_in_parts(x: Vector) -> tuple[Vector, Vector]:
    """power and q of exp(-x^2 / 2) = power (1 + q)."""
    square = x * x
    return exponential_in_parts(square * splat(-0.5, x), square_remainder(x, square) * splat(-0.5, x))


_scaled_tail_slope = polynomial(
    (
        "-0x1.9069b2p-16f", "0x1.f67f8ep-15f", "0x1.9abbe2p-12f", "-0x1.d19e7cp-11f",
        "-0x1.ed900cp-10f", "0x1.eee68ep-7f", "-0x1.7dff64p-5f", "0x1.8c6d7p-4f",
        "-0x1.373e3ap-3f",
    ),
    (
        "-0x1.466817d68db46p-32", "-0x1.5ec2b25f49a5ep-34", "0x1.f5a8ee615f4dbp-29", "0x1.12ef8aff17e9fp-28",
        "-0x1.4b9711d034f19p-26", "-0x1.5014587ba85cp-25", "0x1.1ba6cd802e518p-24", "0x1.12487257792d3p-22",
        "-0x1.4fadc274bedfap-23", "-0x1.8d4867e120ce2p-20", "0x1.7fdb387c1671fp-23", "0x1.26d05d712f12dp-17",
        "-0x1.0011289887c89p-21", "-0x1.e4a4216c6708ep-15", "0x1.17a4a6125764bp-15", "0x1.ab825faf908c5p-12",
        "-0x1.c81719c982ad3p-11", "-0x1.ee276104347c6p-10", "0x1.eec4cc3e44598p-7", "-0x1.7dff2bff684a1p-5",
        "0x1.8c6dbf2cfc307p-4", "-0x1.373e3a893c28ap-3",
    ),
)  # fmt: skip
_scaled_tail_middle = constant("0x1.82b4bcp-3f", "0x1.82b4bb8c94dcep-3")


@inline
def scaled_tail(u: Vector) -> tuple[Vector, Vector]:
    """(x / 4 + 1) Phi(-x) / exp(-x^2 / 2) for x >= 0 up to where Phi underflows: a polynomial of
    u = (x - 4) / (x + 4). And its last addition's rounding error, which may be left out."""
    slope, middle = _scaled_tail_slope(u), _scaled_tail_middle(u)
    result = multiply_add(u, slope, middle)
    return result, multiply_add(u, slope, middle - result)


NORMAL_END = constant(14, 39)  # where exp(-x^2 / 2) is zero for certain


@inline
def normal_cdf_and_density(x: Vector) -> tuple[Vector, Vector]:
    """Phi(x), the normal distribution, and its density."""
    magnitude = at_most(absolute(x), NORMAL_END(x))
    inverse = splat(4, x) / (magnitude + splat(4, x))
    power, q = bell_in_parts(magnitude)
    bell = multiply_add(power, q, power)
    scaled, _ = scaled_tail(multiply_add(magnitude, splat(0.25, x), splat(-1, x)) * inverse)
    tail = scaled * inverse * bell
    density = bell * splat(0.39894228040143267794, x)
    return choose(x < splat(0, x), tail, splat(1, x) - tail), density


@inline
def gelu(x: Vector) -> Vector:
    """x Phi(x) = max(x, 0) - |x| Phi(-|x|). The ratio v = 4 |x| / (|x| + 4), the scaled tail and their product carry
    their rounding errors along."""
    magnitude = at_most(absolute(x), NORMAL_END(x))
    four_times = magnitude * splat(4, x)
    v = four_times / (magnitude + splat(4, x))
    remainder = multiply_add(-v, magnitude, multiply_add(v, splat(-4, x), four_times))  # 4 |x| - v (|x| + 4)
    v_low = remainder * multiply_add(v, splat(-0.0625, x), splat(0.25, x))
    scaled, low = scaled_tail(multiply_add(v_low, splat(0.5, x), multiply_add(v, splat(0.5, x), splat(-1, x))))
    product = scaled * v
    product_low = multiply_add(low, v, multiply_add(scaled, v_low, multiply_add(scaled, v, -product)))
    power, q = bell_in_parts(magnitude)
    tail = product + multiply_add(q, product, product_low)
    return multiply_add(-tail, power, at_least(x, splat(-0.0, x)))


@inline
def gelu_derivative(x: Vector) -> Vector:
    """Phi(x) + x density(x); the bound keeps infinities out of the product."""
    cdf, density = normal_cdf_and_density(x)
    return multiply_add(with_sign_of(at_most(absolute(x), NORMAL_END(x)), x), density, cdf)


_silu_is_zero = constant(105, 726)
_2_TO_24 = constant("0x1p24", "0x1p24")
_2_TO_MINUS_24 = constant("0x1p-24", "0x1p-24")


@inline
def silu(x: Vector) -> Vector:
    """x logistic(x). With exp(|x|) = 2^n (1 + q): max(x, 0) - |x| 2^-n / (2^-n + 1 + q). The numerator is scaled by
    2^24, for it underflows before the result does."""
    magnitude = at_most(absolute(x), _silu_is_zero(x))
    shifted = round_exponent(magnitude)
    q = exponential_minus_one_near_zero(reduce(magnitude, shifted))
    scaled = from_bits(bits_of(_2_TO_24(x)) - (bits_of(shifted) << mantissa_bits(x)))
    total = multiply_add(scaled, _2_TO_MINUS_24(x), q) + splat(1, x)
    return multiply_add(magnitude * scaled / total, -_2_TO_MINUS_24(x), at_least(x, splat(-0.0, x)))


@inline
def silu_derivative(x: Vector) -> Vector:
    """s (1 + x (1 - s)) with s = logistic(x). 1 - s is computed as logistic(-x), for rounding s would cost 16 eps."""
    x = at_least(at_most(x, splat(40, x)), _logistic_lowest(x))
    shifted = round_exponent(-x)
    power = power_of_half(shifted)
    above = exponential_minus_one_near_zero(reduce(-x, shifted)) + splat(1, x)
    inverse = splat(1, x) / (power + above)
    return power * inverse * multiply_add(x, above * inverse, splat(1, x))


@inline
def gelu_second_derivative(x: Vector) -> Vector:
    """density(x) (2 - x^2)."""
    magnitude = at_most(absolute(x), NORMAL_END(x))
    _, density = normal_cdf_and_density(x)
    return density * multiply_add(-magnitude, magnitude, splat(2, x))


@inline
def silu_second_derivative(x: Vector) -> Vector:
    """s (1 - s) (2 + x (1 - 2 s)) with s = logistic(x) and 1 - s as in silu_derivative."""
    x = at_least(at_most(x, splat(40, x)), _logistic_lowest(x))
    shifted = round_exponent(-x)
    power = power_of_half(shifted)
    above = exponential_minus_one_near_zero(reduce(-x, shifted)) + splat(1, x)
    inverse = splat(1, x) / (power + above)
    s = power * inverse
    rest = above * inverse
    return s * rest * multiply_add(x, rest - s, splat(2, x))
