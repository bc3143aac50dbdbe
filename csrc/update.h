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

/* The penalty's part of a weight's gradient. */
INLINE vector penalty_gradient(vector g, vector p, real l1, real l2) {
    const vector zero = splat(0), slope = splat(l1);
    g = multiply_add(splat(l2), p, g);
    return g + choose(p > zero, slope, choose(p < zero, -slope, zero));
}

/* One vector of one optimizer's update; `at` is its place in every arena. A plain update has neither penalty nor
 * clipping nor weight decay. */
INLINE void update_vector(const int64_t code, const update_step *s, const int is_plain, const int is_weight, vector g, int64_t at) {
    real *p = s->parameters + at, *first = s->first + at, *second = s->second + at;
    vector x = load(p);
    if (!is_plain) {
        if (is_weight && (s->l1 != 0 || s->l2 != 0)) g = penalty_gradient(g, x, s->l1, s->l2);
        if (s->clip != 1) g *= splat(s->clip);
        if (is_weight && s->shrink != 1) x *= splat(s->shrink);
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

INLINE void update_loop(const int64_t code, const update_step *step, const int is_plain, int is_weight, int64_t rows, int64_t vectors, const real *g, int64_t g_row, int64_t at, int64_t leading) {
    const update_step s = *step; /* which no store below can change */
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < vectors; j++)
            update_vector(code, &s, is_plain, is_weight, load(g + i * g_row + j * LANES), at + i * leading + j * LANES);
}

INLINE int is_plain(const update_step *s) { return s->l1 == 0 && s->l2 == 0 && s->clip == 1 && s->shrink == 1; }

/* Updates rows of a layer's matrix that begin at `at` in every arena, from gradients g. */
static void update_rows(const update_step *s, int is_weight, int64_t rows, int64_t vectors, const real *g, int64_t g_row, int64_t at, int64_t leading) {
    const int plain = is_plain(s);
    switch (s->code) {
#define CASE(CODE)                                                                                        \
    case CODE:                                                                                            \
        if (plain) update_loop(CODE, s, 1, is_weight, rows, vectors, g, g_row, at, leading);           \
        else update_loop(CODE, s, 0, is_weight, rows, vectors, g, g_row, at, leading);                    \
        return;
        CASE(SGD) CASE(MOMENTUM) CASE(NESTEROV) CASE(ADAM) CASE(RMSPROP)
#undef CASE
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
