/* Output activations and losses, row by row over the logits.
 *
 * Sums along a row: one sum per lane of a 64-byte line, then a fixed tree over the line, on every instruction set.
 * Sums over examples: in float64, in the order of the examples. */

typedef struct {
    vector part[LINE_VECTORS];
} line;

INLINE line line_of(real x) {
    line l;
    for (int g = 0; g < LINE_VECTORS; g++) l.part[g] = splat(x);
    return l;
}

/* The upper half of the lanes is added to the lower half until one is left. To zip a vector with itself puts each half where
 * the other can be added to it: in the end every lane has the sum. */
INLINE real line_sum(line l) {
    UNROLL
    for (int width = LINE_VECTORS / 2; width > 0; width /= 2)
        UNROLL
        for (int g = 0; g < width; g++) l.part[g] += l.part[g + width];
    vector x = l.part[0];
    UNROLL
    for (int width = LANES; width > 1; width /= 2) x = zip_lower(x, x) + zip_upper(x, x);
    return x[0];
}

INLINE real largest_lane(vector x) {
    UNROLL
    for (int width = LANES; width > 1; width /= 2) x = at_least(zip_lower(x, x), zip_upper(x, x));
    return x[0];
}

INLINE int64_t whole_lines(int64_t n) { return (n + LINE_LANES - 1) / LINE_LANES; }

/* A vector of n logits from the one in place j on; minus infinity in padding. */
INLINE vector logits_of_row(const real *z, int64_t n, int64_t j) { return choose(real_lanes(n - j), load(z + j), splat(-INFINITE)); }

/* z becomes exp(z - max z), padding zero; returns the sum, and in *largest the maximum. */
static real exponentials_of_row(real *z, int64_t n, real *largest) {
    const int64_t padded = whole_lines(n) * LINE_LANES;
    vector most = logits_of_row(z, n, 0);
    for (int64_t j = LANES; j < padded; j += LANES) most = at_least(most, logits_of_row(z, n, j));
    const real top = largest_lane(most);
    line sum = line_of(0);
    for (int64_t j = 0; j < padded; j += LINE_LANES)
        for (int g = 0; g < LINE_VECTORS; g++) {
            const vector e = exponential(logits_of_row(z, n, j + g * LANES) - splat(top));
            store(z + j + g * LANES, e);
            sum.part[g] += e;
        }
    *largest = top;
    return line_sum(sum);
}

/* The logits of one row become probabilities. */
static void softmax_row(real *z, int64_t n) {
    real largest;
    const vector sum = splat(exponentials_of_row(z, n, &largest));
    for (int64_t j = 0; j < n; j += LANES) store(z + j, load(z + j) / sum);
}

/* The same of LANES rows. */
static void softmax_rows(real *z, int64_t leading, int64_t n) {
    columns c;
    vector largest;
    rows_to_columns(z, leading, n, &c);
    const vector sum = lane_exponentials(c.column[0], n, &largest);
    for (int64_t j = 0; j < n; j++) store(c.column[j], load(c.column[j]) / sum);
    columns_to_rows(&c, n, z, leading);
}

/* The logits of some rows become outputs. */
static void output_rows(int64_t activation, int64_t rows, int64_t n, real *z, int64_t leading) {
    if (activation != SOFTMAX) {
        activate_rows(activation, rows, whole_vectors(n), z, leading);
        return;
    }
    int64_t i = 0;
    for (; fit_columns(rows - i, n); i += LANES) softmax_rows(z + i * leading, leading, n);
    for (; i < rows; i++) softmax_row(z + i * leading, n);
}

/* One vector of an element-wise loss: its value, and its derivative by z up to the factor of the batch. */
INLINE vector element_loss(const int64_t loss, const int64_t activation, vector z, vector y, vector *slope) {
    const vector zero = splat(0), one = splat(1);
    if (loss == BCE) {
        *slope = logistic(z) - y;
        return multiply_add(-z, y, at_least(z, zero)) + log_one_plus_exp_negative(absolute(z));
    }
    if (loss == POISSON) {
        const vector mean = exponential(z);
        *slope = mean - y;
        return multiply_add(-y, z, mean);
    }
    const vector a = activate(activation, z), d = a - y, size = absolute(d), chain = derivative(activation, z, a);
    if (loss == MSE) {
        *slope = d * chain;
        return d * d;
    }
    if (loss == MAE) {
        *slope = choose(d > zero, one, choose(d < zero, -one, d)) * chain;
        return size;
    }
    *slope = choose(size > one, with_sign_of(one, d), d) * chain;
    return choose(size > one, size - splat((real)0.5), splat((real)0.5) * d * d);
}

INLINE real element_row(const int64_t loss, int64_t activation, real *z, const real *y, int64_t n, int with_gradient, real scale) {
    line sum = line_of(0);
    const vector zero = splat(0);
    for (int64_t j = 0; j < n; j += LINE_LANES)
        for (int g = 0; g < LINE_VECTORS && j + g * LANES < n; g++) {
            const int64_t at = j + g * LANES;
            const ivector inside = real_lanes(n - at);
            vector slope;
            const vector value = element_loss(loss, activation, load(z + at), load(y + at), &slope);
            sum.part[g] += choose(inside, value, zero);
            if (with_gradient) store(z + at, choose(inside, slope * splat(scale), zero));
        }
    return line_sum(sum);
}

/* The same of LANES rows side by side: their values. */
INLINE vector element_lanes(const int64_t loss, int64_t activation, real *z, const real *y, int64_t n, int with_gradient, vector scale) {
    lane_line sum;
    if (n > 1) clear_lane_line(&sum, n);
    vector value = splat(0), slope;
    for (int64_t j = 0; j < n; j++) {
        value = element_loss(loss, activation, load(z + j * LANES), load(y + j * LANES), &slope);
        if (n > 1) sum.part[j % LINE_LANES] += value;
        if (with_gradient) store(z + j * LANES, slope * scale);
    }
    return n > 1 ? lane_line_sum(&sum, n) : value;
}

INLINE double weight_of(const fastmlp_examples *e, int64_t row) { return e->sample_weight ? e->sample_weight[row] : 1.0; }

/* Rows of one output, a vector of them at a time: the bits of element_row. */
INLINE void element_column(const int64_t loss, int64_t activation, const fastmlp_examples *e, int64_t first, range mine, real *z, int64_t leading, int with_gradient, double factor, double *losses) {
    const vector zero = splat(0);
    const ivector inside = real_lanes(1);
    for (int64_t i = mine.from; i < mine.to; i += LANES) {
        const int64_t rows = smaller(LANES, mine.to - i);
        double weight[LANES];
        real value[LANES] __attribute__((aligned(64))), derivative[LANES] __attribute__((aligned(64)));
        /* Put together in registers: to load a vector that single numbers were stored to waits until they are in the cache, 4 to
         * 10 % of a step of 2-2-1. */
        vector logit = zero, target = zero;
        UNROLL
        for (int j = 0; j < LANES; j++) {
            if (j >= rows) break;
            const int64_t row = example_row(e, first + i + j);
            weight[j] = weight_of(e, row);
            logit[j] = z[(i + j) * leading];
            target[j] = convert_number(e->y + row * e->y_row, e->y_type);
        }
        vector slope;
        store(value, element_loss(loss, activation, logit, target, &slope) + zero);
        store(derivative, slope);
        for (int64_t j = 0; j < rows; j++) {
            losses[i + j] = weight[j] * (double)value[j];
            if (with_gradient) store(z + (i + j) * leading, choose(inside, splat(derivative[j] * (real)(weight[j] * factor)), zero));
        }
    }
}

/* Cross-entropy of one row is log(sum) * weight - gap: the logarithms are taken together afterwards. */
typedef struct {
    real sum, weight, gap;
} cross_entropy_parts;

static cross_entropy_parts cross_entropy_of_class(real *z, int64_t class, int64_t n, int with_gradient, real scale) {
    const real logit = z[class];
    real largest;
    const real sum = exponentials_of_row(z, n, &largest);
    if (with_gradient) {
        const vector total = splat(sum), factor = splat(scale);
        const real chosen = (z[class] / sum - 1) * scale;
        for (int64_t j = 0; j < n; j += LANES) store(z + j, load(z + j) / total * factor);
        z[class] = chosen;
    }
    return (cross_entropy_parts){sum, 1, logit - largest};
}

static cross_entropy_parts cross_entropy_of_probabilities(real *z, const real *y, int64_t n, int with_gradient, real scale, real *shifted) {
    const vector zero = splat(0);
    const int64_t lines = whole_lines(n);
    __builtin_memcpy(shifted, z, (size_t)(lines * LINE_LANES) * sizeof(real));
    real largest;
    const real sum = exponentials_of_row(z, n, &largest);
    line weight = line_of(0), gap = line_of(0);
    for (int64_t j = 0; j < lines * LINE_LANES; j += LINE_LANES)
        for (int g = 0; g < LINE_VECTORS; g++) {
            const vector target = load(y + j + g * LANES), d = load(shifted + j + g * LANES) - splat(largest);
            weight.part[g] += target;
            gap.part[g] = choose(target == zero, gap.part[g], multiply_add(target, d, gap.part[g]));
        }
    const real total = line_sum(weight);
    if (with_gradient)
        for (int64_t j = 0; j < n; j += LANES)
            store(z + j, (load(z + j) / splat(sum) * splat(total) - load(y + j)) * splat(scale));
    return (cross_entropy_parts){sum, total, line_sum(gap)};
}

/* One row of targets as reals, padding zero. */
static void target_row(const fastmlp_examples *e, int64_t row, int64_t n, real *target) {
    convert_row(target, e->y + row * e->y_row, e->y_column, e->y_type, n);
    for (int64_t j = n; j < whole_lines(n) * LINE_LANES; j++) target[j] = 0;
}

INLINE int64_t class_of(const fastmlp_examples *e, int64_t row) { return *(const int64_t *)(e->y + row * e->y_row); }

INLINE double reported(const fastmlp_examples *e, double cross_entropy) {
    return e->largest_loss > 0 && cross_entropy > e->largest_loss ? e->largest_loss : cross_entropy;
}

/* The weights of LANES examples, and the scale of their gradients. */
INLINE vector weights_of(const fastmlp_examples *e, int64_t first, double factor, double *weights) {
    real scales[LANES] __attribute__((aligned(64)));
    for (int64_t i = 0; i < LANES; i++) weights[i] = 1;
    if (!e->sample_weight) return splat((real)factor);
    for (int64_t i = 0; i < LANES; i++) {
        weights[i] = e->sample_weight[example_row(e, first + i)];
        scales[i] = (real)(weights[i] * factor);
    }
    return load(scales);
}

/* The targets of LANES examples. Reals come from where they are: a copy that is read at once by vectors takes long. */
static void targets_to_columns(const fastmlp_examples *e, int64_t first, int64_t n, columns *c) {
    if (!is_own_type(e->y_type, e->y_column)) {
        real target[LANES][MOST_COLUMNS] __attribute__((aligned(64)));
        for (int64_t i = 0; i < LANES; i++) convert_row(target[i], e->y + example_row(e, first + i) * e->y_row, e->y_column, e->y_type, n);
        rows_to_columns(target[0], MOST_COLUMNS, n, c);
        return;
    }
    for (int64_t j = 0; j < n; j += LANES) {
        vector rows[LANES];
        UNROLL
        for (int i = 0; i < LANES; i++)
            rows[i] = load_part((const real *)(e->y + example_row(e, first + i) * e->y_row) + j, smaller(n - j, LANES));
        store_some_columns(rows, n - j, c->column[j]);
    }
}

/* The element-wise losses of LANES rows from example `first` on. */
static void element_losses(int64_t loss, int64_t activation, const fastmlp_examples *e, int64_t first, real *z, int64_t leading, int64_t n, int with_gradient, double factor, double *losses) {
    columns c, targets;
    real value[LANES] __attribute__((aligned(64)));
    const vector scale = weights_of(e, first, factor, losses);
    rows_to_columns(z, leading, n, &c);
    targets_to_columns(e, first, n, &targets);
    real *from = c.column[0];
    const real *y = targets.column[0];
    switch (loss) {
    case BCE: store(value, element_lanes(BCE, SIGMOID, from, y, n, with_gradient, scale)); break;
    case POISSON: store(value, element_lanes(POISSON, EXP, from, y, n, with_gradient, scale)); break;
    case MSE: store(value, element_lanes(MSE, activation, from, y, n, with_gradient, scale)); break;
    case MAE: store(value, element_lanes(MAE, activation, from, y, n, with_gradient, scale)); break;
    case HUBER: store(value, element_lanes(HUBER, activation, from, y, n, with_gradient, scale)); break;
    }
    for (int64_t i = 0; i < LANES; i++) losses[i] *= (double)value[i] / (double)n;
    if (with_gradient) columns_to_rows(&c, n, z, leading);
}

/* Cross-entropy of LANES rows from example `first` on, their targets being classes. */
static void class_losses(const fastmlp_examples *e, int64_t first, real *z, int64_t leading, int64_t n, int with_gradient, double factor, double *losses) {
    columns c;
    real value[LANES] __attribute__((aligned(64)));
    integer label[LANES] __attribute__((aligned(64)));
    const vector scale = weights_of(e, first, factor, losses);
    for (int64_t i = 0; i < LANES; i++) label[i] = (integer)class_of(e, example_row(e, first + i));
    rows_to_columns(z, leading, n, &c);
    store(value, cross_entropy_of_classes(c.column[0], *(const ivector *)label, n, with_gradient, scale));
    for (int64_t i = 0; i < LANES; i++) losses[i] *= reported(e, (double)value[i]);
    if (with_gradient) columns_to_rows(&c, n, z, leading);
}

/* losses[i] = weight * loss for the rows of `mine` in the block that begins with example `first`, from its logits z. With
 * a gradient, z becomes dL/dz of the batch's mean, data terms divided by `divisor`. target: two rows; parts: 3 * block_rows. */
static void loss_rows(const fastmlp_plan *plan, const fastmlp_examples *e, int64_t first, range mine, real *z, int with_gradient, double divisor, real *target, real *parts, double *losses) {
    const fastmlp_layer *layer = plan->layers + plan->n_layers - 1;
    const int64_t n = layer->n_out, loss = plan->loss;
    const double factor = (loss == CROSS_ENTROPY ? 1.0 : loss == MSE ? 2.0 / (double)n : 1.0 / (double)n) / divisor;
    if (n == 1) {
        switch (loss) {
#define CASE(LOSS, ACTIVATION) \
    case LOSS: element_column(LOSS, ACTIVATION, e, first, mine, z, layer->leading, with_gradient, factor, losses); return;
            CASE(BCE, SIGMOID) CASE(POISSON, EXP) CASE(MSE, layer->activation) CASE(MAE, layer->activation) CASE(HUBER, layer->activation)
#undef CASE
        }
    }
    real *sum = parts, *weight = parts + plan->block_rows, *gap = weight + plan->block_rows;
    int64_t begin = mine.from;
    for (; fit_columns(mine.to - begin, n) && (loss != CROSS_ENTROPY || e->y_column == 0); begin += LANES) {
        real *logits = z + begin * layer->leading;
        if (loss == CROSS_ENTROPY) class_losses(e, first + begin, logits, layer->leading, n, with_gradient, factor, losses + begin);
        else element_losses(loss, layer->activation, e, first + begin, logits, layer->leading, n, with_gradient, factor, losses + begin);
    }
    for (int64_t i = begin; i < mine.to; i++) {
        const int64_t row = example_row(e, first + i);
        const double example_weight = weight_of(e, row);
        const real scale = (real)(example_weight * factor);
        real *logits = z + i * layer->leading;
        if (loss == CROSS_ENTROPY) {
            cross_entropy_parts p;
            if (e->y_column == 0) p = cross_entropy_of_class(logits, class_of(e, row), n, with_gradient, scale);
            else {
                target_row(e, row, n, target);
                p = cross_entropy_of_probabilities(logits, target, n, with_gradient, scale, target + layer->leading);
            }
            sum[i] = p.sum, weight[i] = p.weight, gap[i] = p.gap;
            losses[i] = example_weight;
            continue;
        }
        target_row(e, row, n, target);
        real value = 0;
        switch (loss) {
        case BCE: value = element_row(BCE, SIGMOID, logits, target, n, with_gradient, scale); break;
        case POISSON: value = element_row(POISSON, EXP, logits, target, n, with_gradient, scale); break;
        case MSE: value = element_row(MSE, layer->activation, logits, target, n, with_gradient, scale); break;
        case MAE: value = element_row(MAE, layer->activation, logits, target, n, with_gradient, scale); break;
        case HUBER: value = element_row(HUBER, layer->activation, logits, target, n, with_gradient, scale); break;
        }
        losses[i] = example_weight * ((double)value / (double)n);
    }
    if (loss != CROSS_ENTROPY) return;
    for (int64_t i = begin; i < mine.to; i += LANES) {
        real value[LANES] __attribute__((aligned(64)));
        store(value, multiply_add(logarithm(load_loose(sum + i)), load_loose(weight + i), -load_loose(gap + i)));
        for (int64_t j = 0; j < LANES && i + j < mine.to; j++) losses[i + j] *= reported(e, (double)value[j]);
    }
}

/* dL/dz from the logits z and dL/dy_hat, in place: what `backward` starts from. */
static void chain_output_rows(const fastmlp_layer *layer, int64_t rows, const real *dy, real *z, real *target) {
    const int64_t n = layer->n_out;
    for (int64_t i = 0; i < rows; i++) {
        real *logits = z + i * layer->leading;
        __builtin_memcpy(target, dy + i * n, (size_t)n * sizeof(real));
        for (int64_t j = n; j < whole_lines(n) * LINE_LANES; j++) target[j] = 0;
        vector mean = splat(0);
        if (layer->activation == SOFTMAX) {
            softmax_row(logits, n);
            line sum = line_of(0);
            for (int64_t j = 0; j < n; j += LINE_LANES)
                for (int g = 0; g < LINE_VECTORS; g++)
                    sum.part[g] = multiply_add(load(logits + j + g * LANES), load(target + j + g * LANES), sum.part[g]);
            mean = splat(line_sum(sum));
        }
        for (int64_t j = 0; j < n; j += LANES) {
            const vector x = load(logits + j), d = load(target + j);
            const vector slope = layer->activation == SOFTMAX ? x * (d - mean) : d * derivative(layer->activation, x, activate(layer->activation, x));
            store(logits + j, choose(real_lanes(n - j), slope, splat(0)));
        }
    }
}
