/* Activations and their derivatives, over some rows of some whole vectors. */

#define LEAKY_SLOPE ((real)0.01)

/* f(z) of a hidden or output activation; softmax stands in loss.h. */
INLINE vector activate(const int64_t activation, vector z) {
    const vector zero = splat(0);
    switch (activation) {
    case RELU: return at_least(z, zero);
    case LEAKY_RELU: return choose(z < zero, z * LEAKY_SLOPE, z);
    case ELU: return choose(z > zero, z, exponential_minus_one(z));
    case SOFTPLUS: return softplus(z);
    case SIGMOID: return logistic(z);
    case TANH: return hyperbolic_tangent(z);
    case GELU: return gelu(z);
    case SILU: return silu(z);
    case EXP: return exponential(z);
    default: return z;
    }
}

/* f'(z), given z and a = f(z): mostly a polynomial of a, which needs no z. */
INLINE vector derivative(const int64_t activation, vector z, vector a) {
    const vector zero = splat(0), one = splat(1);
    switch (activation) {
    case RELU: return choose(a > zero, one, zero);
    case LEAKY_RELU: return choose(a > zero, one, splat(LEAKY_SLOPE));
    case ELU: return choose(a > zero, one, a + one);
    case SOFTPLUS: return logistic(z);
    case SIGMOID: return a * (one - a);
    case TANH: return multiply_add(-a, a, one);
    case GELU: return gelu_derivative(z);
    case SILU: return silu_derivative(z);
    case EXP: return a;
    default: return one;
    }
}

/* A loop over rows and vectors for each activation, so that the choice is made once. */
#define FOR_EACH_ACTIVATION(DO) \
    DO(RELU) DO(LEAKY_RELU) DO(ELU) DO(SOFTPLUS) DO(SIGMOID) DO(TANH) DO(GELU) DO(SILU) DO(EXP)

INLINE void activate_loop(const int64_t activation, int64_t rows, int64_t vectors, real *z, int64_t leading) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < vectors; j++) {
            real *p = z + i * leading + j * LANES;
            store(p, activate(activation, load(p)));
        }
}

/* z becomes f(z). */
static void activate_rows(int64_t activation, int64_t rows, int64_t vectors, real *z, int64_t leading) {
    switch (activation) {
#define CASE(ACTIVATION) \
    case ACTIVATION: activate_loop(ACTIVATION, rows, vectors, z, leading); return;
        FOR_EACH_ACTIVATION(CASE)
#undef CASE
    default: return;
    }
}

INLINE void factor_loop(const int64_t activation, int64_t rows, int64_t vectors, real *z, real *factor, int64_t leading) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < vectors; j++) {
            const int64_t at = i * leading + j * LANES;
            const vector input = load(z + at), output = activate(activation, input);
            store(z + at, output);
            store(factor + at, derivative(activation, input, output));
        }
}

/* z becomes f(z), and factor f'(z): for layers whose output does not tell the derivative. */
static void activate_rows_keeping_factor(int64_t activation, int64_t rows, int64_t vectors, real *z, real *factor, int64_t leading) {
    switch (activation) {
#define CASE(ACTIVATION) \
    case ACTIVATION: factor_loop(ACTIVATION, rows, vectors, z, factor, leading); return;
        FOR_EACH_ACTIVATION(CASE)
#undef CASE
    default: factor_loop(IDENTITY, rows, vectors, z, factor, leading); return;
    }
}

INLINE void chain_loop(const int64_t activation, real scale, int64_t rows, int64_t vectors, const real *d, int64_t d_row, real *a, int64_t leading) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < vectors; j++) {
            real *p = a + i * leading + j * LANES;
            const vector output = load(p), zero = splat(0);
            const vector slope = activation == RELU ? choose(output > zero, splat(scale), zero) : derivative(activation, output, output);
            store(p, load(d + i * d_row + j * LANES) * slope);
        }
}

/* The chain rule through an activation, in place: the outputs a become dL/dz = d * f'(a), d being dL/da. `scale` is what
 * dropout has multiplied relu's outputs by. */
static void chain_rows(int64_t activation, real scale, int64_t rows, int64_t vectors, const real *d, int64_t d_row, real *a, int64_t leading) {
    switch (activation) {
#define CASE(ACTIVATION) \
    case ACTIVATION: chain_loop(ACTIVATION, scale, rows, vectors, d, d_row, a, leading); return;
        CASE(RELU) CASE(LEAKY_RELU) CASE(ELU) CASE(SIGMOID) CASE(TANH)
#undef CASE
    default: chain_loop(IDENTITY, scale, rows, vectors, d, d_row, a, leading); return;
    }
}

/* The same where the derivative was kept. */
static void chain_rows_by_factor(int64_t rows, int64_t vectors, const real *d, int64_t d_row, const real *factor, real *a, int64_t leading) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < vectors; j++) {
            const int64_t at = i * leading + j * LANES;
            store(a + at, load(d + i * d_row + j * LANES) * load(factor + at));
        }
}

/* f''(z), given z, a = f(z) and slope = f'(z). At a kink it is 0. Within 2.5 eps of its largest value, but for those that
 * start from a rounded output or slope: tanh within 4.7, softplus 3.9, sigmoid 10. */
INLINE vector second_derivative(const int64_t activation, vector z, vector a, vector slope) {
    const vector zero = splat(0), one = splat(1), minus_two = splat(-2);
    switch (activation) {
    case ELU: return choose(a < zero, slope, zero);
    case SOFTPLUS: return slope * (one - slope);
    case SIGMOID: return slope * multiply_add(minus_two, a, one);
    case TANH: return minus_two * a * slope;
    case GELU: return gelu_second_derivative(z);
    case SILU: return silu_second_derivative(z);
    case EXP: return a;
    default: return zero;
    }
}

INLINE void bend_loop(const int64_t activation, int64_t rows, int64_t vectors, real *z, real *slope, real *tangent, real *bend, int64_t leading) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < vectors; j++) {
            const int64_t at = i * leading + j * LANES;
            const vector input = load(z + at), output = activate(activation, input), first = derivative(activation, input, output);
            const vector t = load(tangent + at);
            store(z + at, output);
            store(slope + at, first);
            store(bend + at, second_derivative(activation, input, output, first) * t);
            store(tangent + at, first * t);
        }
}

/* z, whose tangent is t, becomes f(z), whose tangent f'(z) t replaces t; slope becomes f'(z), and bend its tangent f''(z) t. */
static void bend_rows(int64_t activation, int64_t rows, int64_t vectors, real *z, real *slope, real *tangent, real *bend, int64_t leading) {
    switch (activation) {
#define CASE(ACTIVATION) \
    case ACTIVATION: bend_loop(ACTIVATION, rows, vectors, z, slope, tangent, bend, leading); return;
        FOR_EACH_ACTIVATION(CASE)
#undef CASE
    default: bend_loop(IDENTITY, rows, vectors, z, slope, tangent, bend, leading); return;
    }
}
