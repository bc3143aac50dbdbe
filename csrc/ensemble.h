/* Nets of one architecture side by side, a member of the ensemble in every lane of a vector.
 *
 * A tiny net leaves most of a vector of units empty and most of a tile unused: a step of 8-16-1 takes 4 us where its
 * arithmetic takes 0.2. Here every vector is full, whatever the net. Each lane does the same operations in the same order
 * as a net of its own does, so the bits are the same. */

/* --- forward --- */

/* Each member's own units are dropped, as drop_rows does. */
static void drop_lanes(const lanes *t, int64_t number, int64_t taken, int64_t rows, real *z, real *factor) {
    const int64_t n = t->plan->layers[number - 1].n_out;
    for (int64_t lane = 0; lane < t->count; lane++) {
        const fastmlp_trainee *m = t->member[lane];
        const fastmlp_layer *layer = m->plan->layers + number - 1;
        if (layer->dropout_from <= 0) continue;
        for (int64_t i = 0; i < rows; i += DRAWN_ROWS)
            for (int64_t first = 0; first < n; first += DRAWN) {
                vector scales[DRAWN_ROWS][DRAWN / LANES];
                draw_scales(m->plan->seed, m->schedule->dropout_step + taken, number, layer, counters_from(first), wide((uint32_t)i), 1, scales);
                real scale[DRAWN_ROWS][DRAWN];
                __builtin_memcpy(scale, scales, sizeof scale);
                for (int64_t r = 0; r < DRAWN_ROWS && i + r < rows; r++)
                    for (int64_t j = 0; j < DRAWN && first + j < n; j++) {
                        const int64_t at = ((i + r) * n + first + j) * LANES + lane;
                        z[at] *= scale[r][j];
                        factor[at] *= scale[r][j];
                    }
            }
    }
}

/* All layers, to the logits, which it returns. Training: step `taken` of the run; inference: INFERENCE. */
static real *lanes_forward(const lanes *t, int64_t rows, int64_t taken) {
    const real *a = t->x, *parameters = t->parameters;
    real *z = t->outputs, *factor = t->factors;
    for (int64_t l = 0;; l++) {
        const fastmlp_layer *layer = t->plan->layers + l;
        const int64_t n_in = layer->n_in, n_out = layer->n_out, size = rows * n_out;
        lane_multiply(rows, n_out, &(lane_product){
            .a = a, .a_row = n_in * LANES, .a_step = LANES,
            .b = parameters, .b_step = n_out * LANES, .b_column = LANES,
            .start = parameters + n_in * n_out * LANES, .start_column = LANES,
            .c = z, .c_row = n_out * LANES, .depth = n_in,
        });
        if (l == t->plan->n_layers - 1) return z;
        if (taken != INFERENCE && layer->factor >= 0) {
            activate_rows_keeping_factor(layer->activation, 1, size, z, factor, 0);
            drop_lanes(t, l + 1, taken, rows, z, factor);
        } else activate_rows(layer->activation, 1, size, z, 0);
        a = z;
        parameters += (n_in + 1) * n_out * LANES;
        z += size * LANES;
        factor += size * LANES;
    }
}

/* --- losses: as loss.h, whose sums over the outputs of a row go through a line and a tree --- */

/* Targets of one row of every member, as reals. */
INLINE void lane_targets(const lanes *t, const int64_t *row, int64_t n) {
    const fastmlp_examples *e = t->member[0]->examples;
    for (int64_t j = 0; j < n; j++)
        for (int lane = 0; lane < LANES; lane++)
            t->targets[j * LANES + lane] = convert_number(e->y + row[lane] * e->y_row + j * e->y_column, e->y_type);
}

/* Adds weight * loss of the rows of a block to every lane's `total`, from the logits z, which become dL/dz where a gradient
 * is wanted. */
static void lanes_loss(const lanes *t, int64_t first, int64_t rows, real *z, int with_gradient, const double *divisor, double *total) {
    const fastmlp_layer *layer = t->plan->layers + t->plan->n_layers - 1;
    const int64_t n = layer->n_out, loss = t->plan->loss;
    const double numerator = loss == CROSS_ENTROPY ? 1.0 : loss == MSE ? 2.0 / (double)n : 1.0 / (double)n;
    const double outputs = loss == CROSS_ENTROPY ? 1.0 : (double)n;
    const fastmlp_examples *e = t->member[0]->examples;
    const int has_classes = loss == CROSS_ENTROPY && e->y_column == 0;
    int64_t row[LANES];
    double weight[LANES], factor[LANES];
    real scales[LANES] __attribute__((aligned(64))), values[LANES] __attribute__((aligned(64)));
    integer labels[LANES] __attribute__((aligned(64)));
    for (int lane = 0; lane < LANES; lane++) {
        weight[lane] = 1.0;
        factor[lane] = numerator / divisor[lane];
        scales[lane] = (real)factor[lane];
    }
    for (int64_t i = 0; i < rows; i++, z += n * LANES) {
        for (int lane = 0; lane < LANES; lane++) row[lane] = lane_row(t, lane, first + i);
        for (int lane = 0; t->is_weighted && lane < LANES; lane++)
            if (t->sample_weight[lane]) {
                weight[lane] = t->sample_weight[lane][row[lane]];
                scales[lane] = (real)(weight[lane] * factor[lane]);
            }
        if (has_classes)
            for (int lane = 0; lane < LANES; lane++) labels[lane] = (integer)*(const int64_t *)(e->y + row[lane] * e->y_row);
        else lane_targets(t, row, n);
        const vector scale = load(scales);
        vector value = splat(0);
        switch (loss) {
        case BCE: value = element_lanes(BCE, SIGMOID, z, t->targets, n, with_gradient, scale); break;
        case POISSON: value = element_lanes(POISSON, EXP, z, t->targets, n, with_gradient, scale); break;
        case MSE: value = element_lanes(MSE, layer->activation, z, t->targets, n, with_gradient, scale); break;
        case MAE: value = element_lanes(MAE, layer->activation, z, t->targets, n, with_gradient, scale); break;
        case HUBER: value = element_lanes(HUBER, layer->activation, z, t->targets, n, with_gradient, scale); break;
        default:
            if (has_classes) value = cross_entropy_of_classes(z, *(const ivector *)labels, n, with_gradient, scale);
            else value = cross_entropy_of_rows(z, t->targets, n, with_gradient, scale, t->deltas);
        }
        store(values, value);
        if (outputs == 1) /* and divisions take longer than all the rest of this loop */
            for (int lane = 0; lane < LANES; lane++) total[lane] += weight[lane] * (double)values[lane];
        else
            for (int lane = 0; lane < LANES; lane++) total[lane] += weight[lane] * ((double)values[lane] / outputs);
    }
}

/* Every member's penalty; as penalty_of. */
static void lanes_penalty(const lanes *t, double *penalty) {
    double absolutes[LANES] = {0}, squares[LANES] = {0};
    const real *parameters = t->parameters;
    for (int64_t l = 0; l < t->plan->n_layers; l++) {
        const fastmlp_layer *layer = t->plan->layers + l;
        for (int64_t i = 0; i < layer->n_in; i++) {
            lane_line absolute_sum, square_sum;
            clear_lane_line(&absolute_sum, layer->n_out);
            clear_lane_line(&square_sum, layer->n_out);
            for (int64_t j = 0; j < layer->n_out; j++, parameters += LANES) {
                const vector w = load(parameters);
                vector *square = square_sum.part + j % LINE_LANES;
                absolute_sum.part[j % LINE_LANES] += absolute(w);
                *square = multiply_add(w, w, *square);
            }
            real sums[2][LANES] __attribute__((aligned(64)));
            store(sums[0], lane_line_sum(&absolute_sum, layer->n_out));
            store(sums[1], lane_line_sum(&square_sum, layer->n_out));
            for (int lane = 0; lane < LANES; lane++) {
                absolutes[lane] += (double)sums[0][lane];
                squares[lane] += (double)sums[1][lane];
            }
        }
        parameters += layer->n_out * LANES;
    }
    for (int lane = 0; lane < LANES; lane++) {
        const fastmlp_plan *plan = t->member[lane]->plan;
        penalty[lane] = 0;
        if (plan->l1 != 0) penalty[lane] += plan->l1 * absolutes[lane];
        if (plan->l2 != 0) penalty[lane] += plan->l2 / 2 * squares[lane];
    }
}

INLINE int has_penalty(const lanes *t) {
    for (int64_t lane = 0; lane < t->count; lane++)
        if (t->member[lane]->plan->l1 != 0 || t->member[lane]->plan->l2 != 0) return 1;
    return 0;
}

/* --- updates: as update.h, with every member's own constants --- */

typedef struct {
    int64_t code;
    vector rate, eps, beta1, beta2, one_minus1, one_minus2, shrink, l1, l2;
    ivector is_penalized, is_shrunk;
    int has_penalty, has_shrink;
} lane_update;

/* From each lane's row of the schedule's table. */
static lane_update begin_lane_update(const lanes *t, const double *const *row) {
    enum { RATE, EPSILON, BETA_1, BETA_2, ONE_MINUS_1, ONE_MINUS_2, SHRINK, L1, L2, CONSTANTS };
    real c[CONSTANTS][LANES] __attribute__((aligned(64)));
    for (int lane = 0; lane < LANES; lane++) {
        const fastmlp_trainee *m = t->member[lane];
        const update_step s = begin_update(m->update, row[lane][0], row[lane][1], NULL);
        c[RATE][lane] = s.rate, c[EPSILON][lane] = s.eps, c[BETA_1][lane] = s.beta1, c[BETA_2][lane] = s.beta2;
        c[ONE_MINUS_1][lane] = s.one_minus1, c[ONE_MINUS_2][lane] = s.one_minus2, c[SHRINK][lane] = s.shrink;
        c[L1][lane] = (real)(m->plan->l1 * row[lane][3]), c[L2][lane] = (real)(m->plan->l2 * row[lane][3]);
    }
    const vector zero = splat(0);
    lane_update s = {
        .code = t->member[0]->update->code, .rate = -load(c[RATE]), .eps = load(c[EPSILON]),
        .beta1 = load(c[BETA_1]), .beta2 = load(c[BETA_2]), .one_minus1 = load(c[ONE_MINUS_1]),
        .one_minus2 = load(c[ONE_MINUS_2]), .shrink = load(c[SHRINK]), .l1 = load(c[L1]), .l2 = load(c[L2]),
    };
    s.is_penalized = (s.l1 != zero) | (s.l2 != zero);
    s.is_shrunk = s.shrink != splat(1);
    for (int lane = 0; lane < LANES; lane++) {
        s.has_penalty |= c[L1][lane] != 0 || c[L2][lane] != 0;
        s.has_shrink |= c[SHRINK][lane] != 1;
    }
    return s;
}

INLINE void lane_update_loop(const int64_t code, const lane_update *constants, int is_weight, int64_t n, const real *gradient, real *p, real *first, real *second) {
    const lane_update s = *constants;
    const vector zero = splat(0);
    for (int64_t at = 0; at < n * LANES; at += LANES) {
        vector g = load(gradient + at), x = load(p + at);
        if (is_weight && s.has_penalty) {
            const vector charged = multiply_add(s.l2, x, g), slope = choose(x > zero, s.l1, choose(x < zero, -s.l1, zero));
            g = choose(s.is_penalized, choose(s.l1 != zero, charged + slope, charged), g);
        }
        if (is_weight && s.has_shrink) x = choose(s.is_shrunk, x * s.shrink, x);
        switch (code) {
        case SGD: x = multiply_add(s.rate, g, x); break;
        case MOMENTUM:
        case NESTEROV: {
            const vector velocity = multiply_add(s.beta1, load(first + at), g);
            store(first + at, velocity);
            x = multiply_add(s.rate, code == MOMENTUM ? velocity : multiply_add(s.beta1, velocity, g), x);
            break;
        }
        case ADAM: {
            const vector m = multiply_add(s.one_minus1, g - load(first + at), load(first + at));
            const vector v = multiply_add(s.beta2, load(second + at), s.one_minus2 * g * g);
            store(first + at, m);
            store(second + at, v);
            x = multiply_add(s.rate, m / (square_root(v) + s.eps), x);
            break;
        }
        case RMSPROP: {
            const vector v = multiply_add(s.beta2, load(second + at), s.one_minus2 * g * g);
            store(second + at, v);
            x = multiply_add(s.rate, g / (square_root(v) + s.eps), x);
            break;
        }
        }
        store(p + at, x);
    }
}

/* Updates n parameters that begin at `at` of the packed arenas. */
static void lanes_update(const lanes *t, const lane_update *s, int is_weight, int64_t n, const real *g, int64_t at) {
    real *p = t->parameters + at, *first = t->first + at, *second = t->second + at;
    switch (s->code) {
#define CASE(CODE) \
    case CODE: lane_update_loop(CODE, s, is_weight, n, g, p, first, second); return;
        CASE(SGD) CASE(MOMENTUM) CASE(NESTEROV) CASE(ADAM) CASE(RMSPROP)
#undef CASE
    }
}

/* --- backward --- */

static const real lane_zeros[LANES] __attribute__((aligned(64)));

/* Sums of dz over the rows, from +0 in their order, of some columns. */
INLINE void lane_column_tile(const int columns, int64_t rows, int64_t row_size, const real *dz, real *sums) {
    vector sum[8];
    UNROLL
    for (int c = 0; c < columns; c++) sum[c] = splat(0);
    for (int64_t i = 0; i < rows; i++, dz += row_size) {
        UNROLL
        for (int c = 0; c < columns; c++) sum[c] += load(dz + c * LANES);
    }
    UNROLL
    for (int c = 0; c < columns; c++) store(sums + c * LANES, sum[c]);
}

/* The gradient of the biases. */
static void lane_column_sums(int64_t rows, int64_t columns, const real *dz, real *sums) {
    int64_t j = 0;
    for (; j + 8 <= columns; j += 8) lane_column_tile(8, rows, columns * LANES, dz + j * LANES, sums + j * LANES);
    for (; j < columns; j++) lane_column_tile(1, rows, columns * LANES, dz + j * LANES, sums + j * LANES);
}

/* From dL/dz of the last layer, `dz`: every layer's gradient, and its update. */
static void lanes_backward(const lanes *t, int64_t rows, real *dz, const lane_update *s) {
    int64_t at = 0, output = 0;
    for (int64_t l = 0; l < t->plan->n_layers; l++) {
        at += (t->plan->layers[l].n_in + 1) * t->plan->layers[l].n_out * LANES;
        output += rows * t->plan->layers[l].n_out * LANES;
    }
    for (int64_t l = t->plan->n_layers - 1; l >= 0; l--) {
        const fastmlp_layer *layer = t->plan->layers + l;
        const int64_t n_in = layer->n_in, n_out = layer->n_out, weights = n_in * n_out;
        at -= (weights + n_out) * LANES;
        output -= rows * (l > 0 ? n_in + n_out : n_out) * LANES; /* of the layer below */
        real *a = l > 0 ? t->outputs + output : t->x;
        if (l > 0)
            lane_multiply(rows, n_in, &(lane_product){
                .a = dz, .a_row = n_out * LANES, .a_step = LANES,
                .b = t->parameters + at, .b_step = LANES, .b_column = n_out * LANES,
                .start = lane_zeros, .c = t->deltas, .c_row = n_in * LANES, .depth = n_out,
            });
        lane_multiply(n_in, n_out, &(lane_product){
            .a = a, .a_row = LANES, .a_step = n_in * LANES,
            .b = dz, .b_step = n_out * LANES, .b_column = LANES,
            .start = lane_zeros, .c = t->gradient, .c_row = n_out * LANES, .depth = rows,
        });
        lane_column_sums(rows, n_out, dz, t->gradient + weights * LANES);
        lanes_update(t, s, 1, weights, t->gradient, at);
        lanes_update(t, s, 0, n_out, t->gradient + weights * LANES, at + weights * LANES);
        if (l == 0) return;
        const fastmlp_layer *below = layer - 1;
        if (below->factor >= 0) chain_rows_by_factor(1, rows * n_in, t->deltas, 0, t->factors + output, a, 0);
        else chain_rows(below->activation, 1, 1, rows * n_in, t->deltas, 0, a, 0);
        dz = a;
        output += rows * n_in * LANES;
    }
}

/* --- the entry points --- */

/* One step of every lane that runs. A member whose loss is not finite ends here: it is written back as it was. */
static void lanes_step(lanes *t, int64_t taken, int64_t first, int64_t n) {
    const double *row[LANES];
    double divisor[LANES], charge[LANES] = {0}, total[LANES] = {0};
    for (int lane = 0; lane < LANES; lane++) {
        const fastmlp_schedule *s = t->member[lane]->schedule;
        row[lane] = s->table + taken * s->table_row;
        divisor[lane] = row[lane][2] != 0 ? row[lane][2] : (double)n;
    }
    if (has_penalty(t)) lanes_penalty(t, charge);
    gather_lanes(t, first, n);
    real *z = lanes_forward(t, n, taken);
    lanes_loss(t, first, n, z, 1, divisor, total);
    for (int64_t lane = 0; lane < t->count; lane++) {
        if (!t->is_running[lane]) continue;
        fastmlp_trainee *m = t->member[lane];
        const double value = total[lane] / divisor[lane] + row[lane][3] * charge[lane];
        m->losses[taken] = value;
        if (__builtin_isfinite(value)) continue;
        t->is_running[lane] = 0;
        m->taken = taken;
        copy_member(t, lane, 1);
    }
    const lane_update s = begin_lane_update(t, row);
    lanes_backward(t, n, z, &s);
    for (int64_t lane = 0; lane < t->count; lane++)
        if (t->is_running[lane]) end_update(t->member[lane]->update);
}

INLINE int is_any_running(const lanes *t) {
    for (int64_t lane = 0; lane < t->count; lane++)
        if (t->is_running[lane]) return 1;
    return 0;
}

static void train_lanes(fastmlp_trainee *members, int64_t count, real *workspace) {
    const fastmlp_schedule *s = members[0].schedule;
    const int64_t steps_per_epoch = (s->n_examples + s->batch_size - 1) / s->batch_size;
    lanes t = lanes_of(members, count, smaller(s->batch_size, s->n_examples), workspace);
    for (int lane = 0; lane < LANES; lane++) copy_member(&t, lane, 0);
    int64_t taken = 0;
    for (; taken < s->n_steps && is_any_running(&t); taken++) {
        const int64_t step = s->first_step + taken, first = step % steps_per_epoch * s->batch_size;
        const int64_t n = smaller(s->batch_size, s->n_examples - first);
        lanes_step(&t, taken, members[0].examples->order ? step / steps_per_epoch * s->n_examples + first : first, n);
    }
    for (int64_t lane = 0; lane < count; lane++) {
        if (!t.is_running[lane]) continue;
        members[lane].taken = taken;
        copy_member(&t, lane, 1);
    }
}

static void train_members(fastmlp_trainee *members, int64_t count, void *workspace) {
    const float_mode mode = flush_subnormals();
    for (int64_t i = 0; i < count; i += LANES) train_lanes(members + i, lane_members(count - i), workspace);
    restore_mode(mode);
}

/* The loss of all n examples, penalty included, of some members: losses[0] of each. */
static void loss_lanes(fastmlp_trainee *members, int64_t count, int64_t n, real *workspace) {
    const int64_t block_rows = smaller(n, members[0].plan->block_rows);
    lanes t = lanes_of(members, count, block_rows, workspace);
    double divisor[LANES], total[LANES] = {0}, penalty[LANES] = {0};
    for (int lane = 0; lane < LANES; lane++) {
        copy_member(&t, lane, 0);
        divisor[lane] = (double)n;
    }
    for (int64_t first = 0; first < n; first += block_rows) {
        const int64_t rows = smaller(block_rows, n - first);
        double sum[LANES] = {0};
        gather_lanes(&t, first, rows);
        lanes_loss(&t, first, rows, lanes_forward(&t, rows, INFERENCE), 0, divisor, sum);
        for (int lane = 0; lane < LANES; lane++) total[lane] += sum[lane];
    }
    if (has_penalty(&t)) lanes_penalty(&t, penalty);
    for (int64_t lane = 0; lane < count; lane++) members[lane].losses[0] = total[lane] / divisor[lane] + penalty[lane];
}

static void member_losses(fastmlp_trainee *members, int64_t count, int64_t n, void *workspace) {
    const float_mode mode = flush_subnormals();
    for (int64_t i = 0; i < count; i += LANES) loss_lanes(members + i, lane_members(count - i), n, workspace);
    restore_mode(mode);
}
