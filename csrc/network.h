/* The whole net: blocks of rows forward and backward, and the entry points that Python calls. */

/* Subnormal numbers count as zero inside the kernels: some processors take 100 times longer over them. */
typedef uint64_t float_mode;
#if defined(__x86_64__)
INLINE float_mode flush_subnormals(void) {
    const float_mode before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr((unsigned)before | 0x8040u);
    return before;
}
INLINE void restore_mode(float_mode before) { __builtin_ia32_ldmxcsr((unsigned)before); }
#elif defined(__aarch64__)
INLINE float_mode flush_subnormals(void) {
    float_mode before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | 1u << 24));
    return before;
}
INLINE void restore_mode(float_mode before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#else
INLINE float_mode flush_subnormals(void) { return 0; }
INLINE void restore_mode(float_mode before) { (void)before; }
#endif

/* One call's view of a net and of the block of rows that is in the workspace. */
typedef struct {
    const fastmlp_plan *plan;
    real *workspace, *parameters;
    const fastmlp_examples *examples;
    const real *x; /* the block's inputs */
    int64_t x_leading;
} network;

INLINE network network_of(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e) {
    return (network){plan, workspace, plan->parameters, e, NULL, 0};
}

INLINE const fastmlp_layer *last_layer(const network *net) { return net->plan->layers + net->plan->n_layers - 1; }
INLINE real *output_of(const network *net, const fastmlp_layer *layer) { return net->workspace + layer->output; }

/* Rows first .. first + rows - 1 of the examples through every layer, to the logits. For training (`dropout_step` from -1)
 * derivatives are kept where the plan says so, and units dropped from step 0 on. */
enum { INFERENCE = -2, NO_DROPOUT = -1 };
static void network_forward(network *net, int64_t first, int64_t rows, int64_t batch_row, int64_t dropout_step) {
    const fastmlp_plan *plan = net->plan;
    net->x_leading = plan->input_leading;
    net->x = input_rows(net->examples, first, rows, plan->layers[0].n_in, net->workspace + plan->input, &net->x_leading);
    const real *x = net->x;
    int64_t x_leading = net->x_leading;
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        const int is_last = l == plan->n_layers - 1;
        real *z = output_of(net, layer);
        real *factor = dropout_step != INFERENCE && layer->factor >= 0 ? net->workspace + layer->factor : NULL;
        dense_forward(rows, layer, is_last ? IDENTITY : layer->activation, x, x_leading, net->parameters + layer->parameters, z, factor);
        if (dropout_step >= 0 && layer->dropout_from > 0)
            drop_rows(plan->seed, dropout_step, l + 1, layer, batch_row, rows, z, factor);
        x = z;
        x_leading = layer->leading;
    }
}

/* From dL/dz over the last layer's outputs: gradients of every layer into the sink; dx: rows of n_in, or NULL. */
static void network_backward(const network *net, int64_t rows, real *dx, const gradient_sink *sink) {
    const fastmlp_plan *plan = net->plan;
    for (int64_t l = plan->n_layers - 1; l >= 0; l--) {
        const fastmlp_layer *layer = plan->layers + l, *below = l > 0 ? layer - 1 : NULL;
        /* the inputs of the first layer are never written */
        real *a = below ? output_of(net, below) : (real *)net->x;
        const real *factor = below && below->factor >= 0 ? net->workspace + below->factor : NULL;
        dense_backward(rows, layer, below, a, below ? below->leading : net->x_leading, factor, output_of(net, layer), below ? NULL : dx,
                       net->workspace + plan->constants, net->workspace + plan->panel, net->workspace + plan->tile, sink);
    }
}

static double block_loss(const network *net, int64_t first, int64_t rows, int with_gradient, double divisor) {
    return loss_rows(net->plan, net->examples, first, rows, output_of(net, last_layer(net)), with_gradient, divisor,
                     net->workspace + net->plan->target, net->workspace + net->plan->parts);
}

static double penalty_of(const fastmlp_plan *plan) {
    if (plan->l1 == 0 && plan->l2 == 0) return 0;
    double absolutes = 0, squares = 0;
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        const real *row = (const real *)plan->parameters + layer->parameters;
        for (int64_t i = 0; i < layer->n_in; i++, row += layer->leading) {
            line absolute_sum = line_of(0), square_sum = line_of(0);
            for (int64_t j = 0; j < layer->n_out; j += LINE_LANES)
                for (int g = 0; g < LINE_VECTORS; g++) {
                    const vector w = load(row + j + g * LANES);
                    absolute_sum.part[g] += absolute(w);
                    square_sum.part[g] = multiply_add(w, w, square_sum.part[g]);
                }
            absolutes += (double)line_sum(&absolute_sum);
            squares += (double)line_sum(&square_sum);
        }
    }
    return plan->l1 * absolutes + plan->l2 / 2 * squares;
}

/* The Euclidean norm of a whole gradient. */
static double norm_of(const fastmlp_plan *plan, const real *gradients) {
    double squares = 0;
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        const real *row = gradients + layer->parameters;
        for (int64_t i = 0; i <= layer->n_in; i++, row += layer->leading) {
            line sum = line_of(0);
            for (int64_t j = 0; j < layer->n_out; j += LINE_LANES)
                for (int g = 0; g < LINE_VECTORS; g++) {
                    const vector d = load(row + j + g * LANES);
                    sum.part[g] = multiply_add(d, d, sum.part[g]);
                }
            squares += (double)line_sum(&sum);
        }
    }
    return __builtin_sqrt(squares);
}

static void add_penalty_gradient(const fastmlp_plan *plan, real *gradients, double scale) {
    const real l1 = (real)(plan->l1 * scale), l2 = (real)(plan->l2 * scale);
    if (l1 == 0 && l2 == 0) return;
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        for (int64_t i = 0; i < layer->n_in; i++)
            for (int64_t j = 0; j < layer->n_out; j += LANES) {
                const int64_t at = layer->parameters + i * layer->leading + j;
                store(gradients + at, penalty_gradient(load(gradients + at), load((const real *)plan->parameters + at), l1, l2));
            }
    }
}

/* One update of everything from a finished gradient, its norm clipped. */
static void apply_gradients(const fastmlp_plan *plan, update_step *s, double clip_norm, const real *gradients) {
    if (clip_norm > 0) {
        const double ratio = clip_norm / (norm_of(plan, gradients) + 1e-6);
        s->clip = (real)(ratio < 1 ? ratio : 1);
    }
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        const int64_t vectors = whole_vectors(layer->n_out), bias = layer->parameters + layer->n_in * layer->leading;
        update_rows(s, 1, layer->n_in, vectors, gradients + layer->parameters, layer->leading, layer->parameters, layer->leading);
        update_rows(s, 0, 1, vectors, gradients + bias, layer->leading, bias, layer->leading);
    }
}

/* The loss of n examples from number `first`, and the gradient of it without the penalty, block by block. */
static double data_gradients(network *net, int64_t first, int64_t n, double divisor, int64_t dropout_step, real *gradients) {
    double total = 0;
    for (int64_t row = 0; row < n; row += net->plan->block_rows) {
        const int64_t rows = smaller(net->plan->block_rows, n - row);
        const gradient_sink sink = {row ? ADD_GRADIENT : STORE_GRADIENT, gradients, net->parameters, NULL};
        network_forward(net, first + row, rows, row, dropout_step);
        total += block_loss(net, first + row, rows, 1, divisor);
        network_backward(net, rows, NULL, &sink);
    }
    return total / divisor;
}

static void forward(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, int64_t n, void *out, int64_t logits) {
    const float_mode mode = flush_subnormals();
    network net = network_of(plan, workspace, e);
    const fastmlp_layer *last = last_layer(&net);
    for (int64_t first = 0; first < n; first += plan->block_rows) {
        const int64_t rows = smaller(plan->block_rows, n - first);
        network_forward(&net, first, rows, 0, INFERENCE);
        real *z = output_of(&net, last);
        if (!logits) output_rows(last->activation, rows, last->n_out, z, last->leading);
        for (int64_t i = 0; i < rows; i++)
            __builtin_memcpy((real *)out + (first + i) * last->n_out, z + i * last->leading, (size_t)last->n_out * sizeof(real));
    }
    restore_mode(mode);
}

static void layer_outputs(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, int64_t n, void *const *outs) {
    const float_mode mode = flush_subnormals();
    network net = network_of(plan, workspace, e);
    for (int64_t first = 0; first < n; first += plan->block_rows) {
        const int64_t rows = smaller(plan->block_rows, n - first);
        network_forward(&net, first, rows, 0, INFERENCE);
        const fastmlp_layer *last = last_layer(&net);
        output_rows(last->activation, rows, last->n_out, output_of(&net, last), last->leading);
        for (int64_t l = 0; l < plan->n_layers; l++) {
            const fastmlp_layer *layer = plan->layers + l;
            for (int64_t i = 0; i < rows; i++)
                __builtin_memcpy((real *)outs[l] + (first + i) * layer->n_out, output_of(&net, layer) + i * layer->leading, (size_t)layer->n_out * sizeof(real));
        }
    }
    restore_mode(mode);
}

static double penalty(const fastmlp_plan *plan) {
    const float_mode mode = flush_subnormals();
    const double value = penalty_of(plan);
    restore_mode(mode);
    return value;
}

static double loss(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, int64_t n) {
    const float_mode mode = flush_subnormals();
    network net = network_of(plan, workspace, e);
    double total = 0;
    for (int64_t first = 0; first < n; first += plan->block_rows) {
        const int64_t rows = smaller(plan->block_rows, n - first);
        network_forward(&net, first, rows, 0, INFERENCE);
        total += block_loss(&net, first, rows, 0, (double)n);
    }
    total = total / (double)n + penalty_of(plan);
    restore_mode(mode);
    return total;
}

static double gradients(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, int64_t n, void *out, int64_t dropout_step) {
    const float_mode mode = flush_subnormals();
    network net = network_of(plan, workspace, e);
    const double value = data_gradients(&net, 0, n, (double)n, dropout_step, out) + penalty_of(plan);
    add_penalty_gradient(plan, out, 1);
    restore_mode(mode);
    return value;
}

static void backward(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, int64_t n, const void *dy, void *out, void *dx) {
    const float_mode mode = flush_subnormals();
    network net = network_of(plan, workspace, e);
    const fastmlp_layer *last = last_layer(&net);
    for (int64_t first = 0; first < n; first += plan->block_rows) {
        const int64_t rows = smaller(plan->block_rows, n - first);
        const gradient_sink sink = {first ? ADD_GRADIENT : STORE_GRADIENT, out, net.parameters, NULL};
        network_forward(&net, first, rows, 0, NO_DROPOUT);
        chain_output_rows(last, rows, (const real *)dy + first * last->n_out, output_of(&net, last), net.workspace + plan->target);
        network_backward(&net, rows, dx ? (real *)dx + first * plan->layers[0].n_in : NULL, &sink);
    }
    restore_mode(mode);
}

static void apply(const fastmlp_plan *plan, const fastmlp_update *u, const void *gradients) {
    const float_mode mode = flush_subnormals();
    update_step s = begin_update(u, u->scalars[LR], u->scalars[EPS], plan->parameters);
    apply_gradients(plan, &s, u->scalars[CLIP_NORM], gradients);
    restore_mode(mode);
}

/* One step over examples first .. first + n - 1. Returns the loss before the update; where that is not finite, nothing
 * is updated. A batch of one block updates each weight as soon as its gradient is known; a larger one, or a clipped
 * gradient, goes through the arena `gradients`. */
static double train_step(network *net, int64_t first, int64_t n, const double *row, const fastmlp_update *u, int64_t dropout_step, real *gradients) {
    const fastmlp_plan *plan = net->plan;
    const double rate = row[0], eps = row[1], divisor = row[2] != 0 ? row[2] : (double)n, scale = row[3];
    const double clip_norm = u->scalars[CLIP_NORM];
    const double charge = scale * penalty_of(plan);
    if (n > plan->block_rows || clip_norm > 0) {
        const double value = data_gradients(net, first, n, divisor, dropout_step, gradients) + charge;
        if (!__builtin_isfinite(value)) return value;
        add_penalty_gradient(plan, gradients, scale);
        update_step s = begin_update(u, rate, eps, net->parameters);
        apply_gradients(plan, &s, clip_norm, gradients);
        return value;
    }
    network_forward(net, first, n, 0, dropout_step);
    const double value = block_loss(net, first, n, 1, divisor) / divisor + charge;
    if (!__builtin_isfinite(value)) return value;
    update_step s = begin_update(u, rate, eps, net->parameters);
    s.l1 = (real)(plan->l1 * scale);
    s.l2 = (real)(plan->l2 * scale);
    const gradient_sink sink = {UPDATE_PARAMETERS, NULL, net->parameters, &s};
    network_backward(net, n, NULL, &sink);
    return value;
}

static int64_t train(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, const fastmlp_schedule *s, const fastmlp_update *u, void *gradients, double *losses) {
    const float_mode mode = flush_subnormals();
    network net = network_of(plan, workspace, e);
    const int64_t steps_per_epoch = (s->n_examples + s->batch_size - 1) / s->batch_size;
    int64_t taken = 0;
    while (taken < s->n_steps) {
        const int64_t step = s->first_step + taken, batch = step % steps_per_epoch;
        const int64_t first = batch * s->batch_size, n = smaller(s->batch_size, s->n_examples - first);
        const int64_t start = e->order ? step / steps_per_epoch * s->n_examples + first : first;
        losses[taken] = train_step(&net, start, n, s->table + taken * s->table_row, u, s->dropout_step + taken, gradients);
        if (!__builtin_isfinite(losses[taken])) break;
        taken++;
    }
    restore_mode(mode);
    return taken;
}

const fastmlp_kernels KERNELS = {forward, layer_outputs, penalty, loss, gradients, backward, apply, train};
