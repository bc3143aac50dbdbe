/* Optimizers: one update of some rows of parameters from their gradients. Formulas are PyTorch's. */

/* One step's constants, in the kernels' dtype. */
typedef struct {
    int64_t code;
    real rate, eps;
    real beta1, beta2;             /* momentum; Adam's betas; beta2 is RMSprop's rho too */
    real one_minus1, one_minus2;   /* 1 - beta1, 1 - beta2 */
    real shrink;                   /* 1 - learning rate * weight decay, on weights */
    real clip;                     /* factor of the whole gradient */
    real l1, l2;                   /* the penalty's, 0 where the gradient has it already */
    real *parameters, *first, *second; /* arenas */
} update_step;

/* Whether an optimizer keeps a velocity or first moment, and a second. */
INLINE int uses_first(int64_t code) { return code == MOMENTUM || code == NESTEROV || code == ADAM; }
INLINE int uses_second(int64_t code) { return code == ADAM || code == RMSPROP; }

/* The gradient g of weights p with the penalty's part. */
INLINE vector penalty_gradient(vector g, vector p, real l1, real l2) {
    g = multiply_add(splat(l2), p, g);
    if (l1 == 0) return g;
    const vector zero = splat(0), slope = splat(l1);
    return g + choose(p > zero, slope, choose(p < zero, -slope, zero));
}

/* What an update has beside its optimizer: nothing, the l2 penalty, clipping and weight decay, or any of these and the l1
 * penalty. Where all are told apart for each vector 784-128-10 takes 4 to 7 % more with l2. */
typedef enum { PLAIN, WITH_L2, WITH_FACTORS, WITH_ANY } update_extras;

INLINE update_extras extras_of(const update_step *s) {
    const int has_factors = s->clip != 1 || s->shrink != 1;
    if (s->l1 != 0 || (s->l2 != 0 && has_factors)) return WITH_ANY;
    if (has_factors) return WITH_FACTORS;
    return s->l2 != 0 ? WITH_L2 : PLAIN;
}

/* One vector of one optimizer's update; `at` is its place in every arena. */
INLINE void update_vector(const int64_t code, const update_step *s, const update_extras extras, vector g, int64_t at) {
    real *p = s->parameters + at, *first = s->first + at, *second = s->second + at;
    vector x = load(p);
    if (extras == WITH_L2) g = penalty_gradient(g, x, 0, s->l2);
    if (extras == WITH_ANY) g = penalty_gradient(g, x, s->l1, s->l2);
    if (extras == WITH_FACTORS || extras == WITH_ANY) {
        g *= splat(s->clip);
        x *= splat(s->shrink);
    }
    const vector rate = splat(-s->rate), beta1 = splat(s->beta1), beta2 = splat(s->beta2);
    switch (code) {
    case SGD: x = multiply_add(rate, g, x); break;
    case MOMENTUM:
    case NESTEROV: {
        const vector velocity = multiply_add(beta1, load(first), g);
        store(first, velocity);
        x = multiply_add(rate, code == MOMENTUM ? velocity : multiply_add(beta1, velocity, g), x);
        break;
    }
    case ADAM: {
        const vector m = multiply_add(splat(s->one_minus1), g - load(first), load(first));
        const vector v = multiply_add(beta2, load(second), splat(s->one_minus2) * g * g);
        store(first, m);
        store(second, v);
        x = multiply_add(rate, m / (square_root(v) + splat(s->eps)), x);
        break;
    }
    case RMSPROP: {
        const vector v = multiply_add(beta2, load(second), splat(s->one_minus2) * g * g);
        store(second, v);
        x = multiply_add(rate, g / (square_root(v) + splat(s->eps)), x);
        break;
    }
    }
    store(p, x);
}

INLINE void update_loop(const int64_t code, const update_step *s, const update_extras extras, int64_t rows, int64_t vectors, const real *g, int64_t g_row, int64_t at, int64_t leading) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < vectors; j++)
            update_vector(code, s, extras, load(g + i * g_row + j * LANES), at + i * leading + j * LANES);
}

/* Updates rows of a layer's matrix that begin at `at` in every arena, from gradients g. */
static void update_rows(const update_step *step, int is_weight, int64_t rows, int64_t vectors, const real *g, int64_t g_row, int64_t at, int64_t leading) {
    update_step s = *step; /* which no store below can change */
    if (!is_weight) s.l1 = s.l2 = 0, s.shrink = 1;
    const update_extras extras = extras_of(&s);
    switch (s.code) {
#define LOOP(CODE, EXTRAS) update_loop(CODE, &s, EXTRAS, rows, vectors, g, g_row, at, leading)
#define CASE(CODE)                                                  \
    case CODE:                                                      \
        if (extras == PLAIN) LOOP(CODE, PLAIN);                     \
        else if (extras == WITH_L2) LOOP(CODE, WITH_L2);            \
        else if (extras == WITH_FACTORS) LOOP(CODE, WITH_FACTORS);  \
        else LOOP(CODE, WITH_ANY);                                  \
        return;
        CASE(SGD) CASE(MOMENTUM) CASE(NESTEROV) CASE(ADAM) CASE(RMSPROP)
#undef CASE
#undef LOOP
    }
}

/* The constants of the step that follows. */
static update_step begin_update(const fastmlp_update *u, double rate, double eps, real *parameters) {
    const double *scalars = u->scalars;
    const double beta1 = scalars[BETA1], beta2 = scalars[BETA2];
    update_step s = {
        .code = u->code, .eps = (real)eps, .beta1 = (real)beta1, .beta2 = (real)beta2,
        .one_minus1 = (real)(1 - beta1), .one_minus2 = (real)(1 - beta2),
        .shrink = (real)(1 - rate * scalars[WEIGHT_DECAY]), .clip = 1,
        .parameters = parameters, .first = u->first, .second = u->second,
    };
    if (u->code == ADAM) {
        const double correction = __builtin_sqrt(1 - scalars[BETA2_POWER] * beta2);
        s.eps = (real)(eps * correction);
        rate *= correction / (1 - scalars[BETA1_POWER] * beta1);
    }
    s.rate = (real)rate;
    return s;
}

/* Adam's running powers advance, once a step. */
static void end_update(const fastmlp_update *u) {
    if (u->code != ADAM) return;
    u->scalars[BETA1_POWER] *= u->scalars[BETA1];
    u->scalars[BETA2_POWER] *= u->scalars[BETA2];
}
