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

/* One thread's view of a call: the net, and the block of rows that is in the workspace. */
typedef struct {
    const fastmlp_plan *plan;
    real *workspace, *parameters;
    const fastmlp_examples *examples;
    fastmlp_member member;
    const real *x; /* the block's inputs */
    int64_t x_leading;
    fetched_rows *fetched; /* while going backward; or NULL */
    int is_dropped;        /* whether units of the block were */
} network;

INLINE network network_of(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, fastmlp_member member) {
    return (network){plan, workspace, plan->parameters, e, member, NULL, 0, NULL, 0};
}

INLINE const fastmlp_layer *last_layer(const network *net) { return net->plan->layers + net->plan->n_layers - 1; }
INLINE real *output_of(const network *net, const fastmlp_layer *layer) { return net->workspace + layer->output; }

/* A member's own of what is there for each thread. */
INLINE real *scratch_at(const network *net, int64_t offset) { return net->workspace + offset + net->member.index * net->plan->member_stride; }

/* A member's share of n things. */
INLINE range share_of(fastmlp_member member, int64_t n, int64_t unit) { return part_of(n, member.count, member.index, unit); }

/* Rows are shared by whole tiles. */
enum { SHARED_ROWS = 12 };

/* Whether members take all rows of a block through some of each layer's outputs, and meet after it, or some of the rows
 * through all layers: whichever leaves less to the busiest. Meetings count for a sixteenth. */
static int are_outputs_shared(const network *net, int64_t rows) {
    const int64_t count = net->member.count;
    int64_t of_all_outputs = 0, of_most_outputs = 0;
    for (int64_t l = 0; l < net->plan->n_layers; l++) {
        const fastmlp_layer *layer = net->plan->layers + l;
        const int64_t lines = whole_lines(layer->n_out);
        of_all_outputs += layer->n_in * lines;
        of_most_outputs += layer->n_in * parts_of(lines, count);
    }
    const int64_t most_rows = smaller(rows, parts_of(parts_of(rows, SHARED_ROWS), count) * SHARED_ROWS);
    return 17 * rows * of_most_outputs < 16 * most_rows * of_all_outputs;
}

enum { INFERENCE = -2, NO_DROPOUT = -1 };

/* Where a layer's derivatives are kept, from some place on; or NULL. */
INLINE real *factor_at(const network *net, const fastmlp_layer *layer, int64_t place, int64_t dropout_step) {
    return dropout_step != INFERENCE && layer->factor >= 0 ? net->workspace + layer->factor + place : NULL;
}

/* Some outputs of a layer over some rows, x being the first row of its inputs. */
INLINE void layer_forward(const network *net, int64_t l, range row, range output, int64_t dropout_step, const real *x, int64_t x_leading) {
    const fastmlp_plan *plan = net->plan;
    const fastmlp_layer *layer = plan->layers + l;
    const int64_t rows = row.to - row.from, place = row.from * layer->leading + output.from;
    const int64_t activation = l == plan->n_layers - 1 ? IDENTITY : layer->activation;
    const real *parameters = net->parameters + layer->parameters + output.from;
    real *z = output_of(net, layer) + place, *factor = factor_at(net, layer, place, dropout_step);
    if (is_narrow(rows, layer)) narrow_forward(rows, layer, activation, x, x_leading, parameters, z, factor);
    else dense_forward(rows, layer, output.to - output.from, activation, x, x_leading, parameters, scratch_at(net, plan->packed), z, factor);
}

/* Drops units of a layer's outputs over some rows, if it has dropout. */
INLINE void layer_dropout(const network *net, int64_t l, range row, int64_t batch_row, int64_t dropout_step) {
    const fastmlp_layer *layer = net->plan->layers + l;
    if (!net->is_dropped || layer->dropout_from == 0) return;
    const int64_t place = row.from * layer->leading;
    drop_rows(net->plan->seed, dropout_step, l + 1, layer, batch_row + row.from, row.to - row.from, output_of(net, layer) + place, factor_at(net, layer, place, dropout_step));
}

/* All rows of a block whose inputs are there, through a member's share of each layer's outputs. Its rows are those in which
 * it drops units. */
static void forward_by_outputs(const network *net, int64_t block_rows, range mine, int64_t batch_row, int64_t dropout_step) {
    const real *x = net->x;
    int64_t x_leading = net->x_leading;
    fastmlp_meet(net->member); /* the others have brought rows of the inputs */
    for (int64_t l = 0; l < net->plan->n_layers; l++) {
        const fastmlp_layer *layer = net->plan->layers + l;
        const range output = share_of(net->member, layer->n_out, LINE_LANES);
        if (output.to > output.from) layer_forward(net, l, (range){0, block_rows}, output, dropout_step, x, x_leading);
        fastmlp_meet(net->member);
        if (net->is_dropped) {
            layer_dropout(net, l, mine, batch_row, dropout_step);
            fastmlp_meet(net->member);
        }
        x = output_of(net, layer);
        x_leading = layer->leading;
    }
}

/* A member's part of the block that begins with example `first`, through every layer to the logits. For training
 * (`dropout_step` from -1) derivatives are kept where the plan says so, and units dropped from step 0 on; `batch_row` is
 * the block's place in its batch. */
static void network_forward(network *net, int64_t first, int64_t block_rows, int64_t batch_row, int64_t dropout_step) {
    const fastmlp_plan *plan = net->plan;
    const range mine = share_of(net->member, block_rows, SHARED_ROWS);
    net->is_dropped = dropout_step >= 0;
    net->x_leading = plan->input_leading;
    net->x = input_rows(net->examples, first, block_rows, mine, plan->layers[0].n_in, net->workspace + plan->input, &net->x_leading);
    if (net->member.count > 1 && are_outputs_shared(net, block_rows)) {
        forward_by_outputs(net, block_rows, mine, batch_row, dropout_step);
        return;
    }
    const real *x = net->x + mine.from * net->x_leading;
    int64_t x_leading = net->x_leading;
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        layer_forward(net, l, mine, (range){0, layer->n_out}, dropout_step, x, x_leading);
        layer_dropout(net, l, mine, batch_row, dropout_step);
        x = output_of(net, layer) + mine.from * layer->leading;
        x_leading = layer->leading;
    }
}

/* From dL/dz over the last layer's outputs: gradients of every layer into the sink; dx: rows of n_in, or NULL. Each
 * member takes a share of every layer's input units. */
static void network_backward(const network *net, int64_t rows, real *dx, const gradient_sink *sink) {
    const fastmlp_plan *plan = net->plan;
    const backward_scratch scratch = {
        .constants = net->workspace + plan->constants,
        .panel = scratch_at(net, plan->panel),
        .transposed = scratch_at(net, plan->transposed),
        .tile = scratch_at(net, plan->tile),
        .fetched = net->fetched,
        .is_dropped = net->is_dropped,
    };
    for (int64_t l = plan->n_layers - 1; l >= 0; l--) {
        const fastmlp_layer *layer = plan->layers + l, *below = l > 0 ? layer - 1 : NULL;
        /* the inputs of the first layer are never written */
        real *a = below ? output_of(net, below) : (real *)net->x;
        const real *factor = below && below->factor >= 0 ? net->workspace + below->factor : NULL;
        const real *dz = output_of(net, layer);
        const int64_t a_leading = below ? below->leading : net->x_leading;
        real *inputs_gradient = below ? NULL : dx;
        if (net->member.count == 1 && is_narrow(rows, layer)) {
            narrow_backward(rows, layer, below, a, a_leading, factor, dz, inputs_gradient, &scratch, sink);
            continue;
        }
        const range units = share_of(net->member, layer->n_in, LINE_LANES);
        dense_backward(rows, layer, below, units, a, a_leading, factor, dz, inputs_gradient, &scratch, sink);
        if (net->member.index == net->member.count - 1) dense_bias_gradient(rows, layer, dz, &scratch, sink);
        fastmlp_meet(net->member);
    }
}

/* The sum of weight * loss over the block that begins with example `first`, from its logits, which become dL/dz where a
 * gradient is wanted. Every member returns the same sum. */
static double block_loss(const network *net, int64_t first, int64_t block_rows, int with_gradient, double divisor) {
    const fastmlp_plan *plan = net->plan;
    const range mine = share_of(net->member, block_rows, SHARED_ROWS);
    double *losses = (double *)(net->workspace + plan->losses);
    loss_rows(plan, net->examples, first, mine, output_of(net, last_layer(net)), with_gradient, divisor,
              scratch_at(net, plan->target), net->workspace + plan->parts, losses);
    fastmlp_meet(net->member);
    double total = 0;
    for (int64_t i = 0; i < block_rows; i++) total += losses[i];
    return total;
}

/* The logits of a block become dL/dz, from its rows of dL/dy_hat. */
static void chain_outputs(const network *net, const real *dy, int64_t block_rows) {
    const fastmlp_layer *last = last_layer(net);
    const range mine = share_of(net->member, block_rows, SHARED_ROWS);
    chain_output_rows(last, mine.to - mine.from, dy + mine.from * last->n_out, output_of(net, last) + mine.from * last->leading, scratch_at(net, net->plan->target));
    fastmlp_meet(net->member);
}

/* The sum of x^2, or of |x|, over the weights in an arena and, if wanted, the biases. */
INLINE double sum_over(const fastmlp_plan *plan, const real *arena, const int is_squared, const int has_biases) {
    double total = 0;
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        const real *row = arena + layer->parameters;
        for (int64_t i = 0; i < layer->n_in + has_biases; i++, row += layer->leading) {
            line sum = line_of(0);
            for (int64_t j = 0; j < layer->n_out; j += LINE_LANES)
                for (int g = 0; g < LINE_VECTORS; g++) {
                    const vector x = load(row + j + g * LANES);
                    sum.part[g] = is_squared ? multiply_add(x, x, sum.part[g]) : sum.part[g] + absolute(x);
                }
            total += (double)line_sum(sum);
        }
    }
    return total;
}

static double penalty_of(const fastmlp_plan *plan) {
    double penalty = 0;
    if (plan->l1 != 0) penalty += plan->l1 * sum_over(plan, plan->parameters, 0, 0);
    if (plan->l2 != 0) penalty += plan->l2 / 2 * sum_over(plan, plan->parameters, 1, 0);
    return penalty;
}

/* The Euclidean norm of a whole gradient. */
static double norm_of(const fastmlp_plan *plan, const real *gradients) { return __builtin_sqrt(sum_over(plan, gradients, 1, 1)); }

static void add_penalty_gradient(const network *net, real *gradients, double scale) {
    const fastmlp_plan *plan = net->plan;
    const real l1 = (real)(plan->l1 * scale), l2 = (real)(plan->l2 * scale);
    if (l1 == 0 && l2 == 0) return;
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        const range mine = share_of(net->member, layer->n_in, 1);
        for (int64_t i = mine.from; i < mine.to; i++)
            for (int64_t j = 0; j < layer->n_out; j += LANES) {
                const int64_t at = layer->parameters + i * layer->leading + j;
                store(gradients + at, penalty_gradient(load(gradients + at), load((const real *)plan->parameters + at), l1, l2));
            }
    }
}

/* One update of everything from a finished gradient, its norm clipped. */
static void apply_gradients(const network *net, update_step *s, double clip_norm, const real *gradients) {
    const fastmlp_plan *plan = net->plan;
    if (clip_norm > 0) {
        const double ratio = clip_norm / (norm_of(plan, gradients) + 1e-6);
        s->clip = (real)(ratio < 1 ? ratio : 1);
    }
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        const range mine = share_of(net->member, layer->n_in + 1, 1);
        const int64_t vectors = whole_vectors(layer->n_out), weights = smaller(mine.to, layer->n_in) - mine.from;
        const int64_t at = layer->parameters + mine.from * layer->leading, bias = layer->parameters + layer->n_in * layer->leading;
        update_rows(s, 1, weights, vectors, gradients + at, layer->leading, at, layer->leading);
        if (mine.to > layer->n_in) update_rows(s, 0, 1, vectors, gradients + bias, layer->leading, bias, layer->leading);
    }
    fastmlp_meet(net->member);
}

/* --- batches of several blocks --- */

/* A member's way through them: shared blocks, one after the other, or every so many a whole one of its own. So it is
 * with small nets where there are enough blocks: few units are badly shared, and members meet once a round, not once a layer. */
typedef struct {
    network net;                   /* as the member sees its blocks: of those it takes alone, it is the only member */
    int64_t first_row, round_rows; /* where its block begins in a round, and of how many rows all members' are */
} block_walk;

static block_walk walk_blocks(const network *net, int64_t n) {
    const fastmlp_member member = net->member;
    const int64_t rows = net->plan->block_rows;
    block_walk walk = {*net, 0, rows};
    if (!net->plan->own_blocks || member.count == 1 || n <= (member.count - 1) * rows) return walk;
    walk.net.workspace += member.index * net->plan->member_stride;
    /* not when the workspace is made: memory that no thread comes to need stays untouched */
    for (int64_t j = 0; j < LINE_LANES; j += LANES) store(walk.net.workspace + net->plan->constants + j, splat(1));
    walk.net.member = (fastmlp_member){0, 1, NULL};
    walk.first_row = member.index * rows;
    walk.round_rows = member.count * rows;
    return walk;
}

/* After a round whose blocks members took alone: their gradients, which are partial sums, are added to those of all rounds
 * before (unless `is_first`), and `value`, a member's own, to the total, which is returned; both block by block. */
static double gather_blocks(const network *net, int64_t blocks, double total, double value, int is_first, real *gradients) {
    const fastmlp_plan *plan = net->plan;
    double *values = (double *)(net->workspace + plan->losses);
    const int64_t stride = plan->member_stride, value_stride = stride * (int64_t)sizeof(real) / (int64_t)sizeof(double);
    values[net->member.index * value_stride] = value;
    fastmlp_meet(net->member);
    for (int64_t b = 0; b < blocks; b++) total += values[b * value_stride];
    const real *partial = net->workspace + plan->partial;
    const range mine = gradients ? share_of(net->member, plan->arena_size, LINE_LANES) : (range){0, 0};
    for (int64_t i = mine.from; i < mine.to; i += LANES) {
        vector sum = load(partial + i);
        if (!is_first) sum = load(gradients + i) + sum;
        for (int64_t b = 1; b < blocks; b++) sum += load(partial + b * stride + i);
        store(gradients + i, sum);
    }
    fastmlp_meet(net->member);
    return total;
}

/* The gradient, without the penalty, over n examples from number `first`, and dL/dx in dx where wanted. Returns the loss; 0
 * where dy is set, which is dL/dy_hat of a loss that the caller knows. */
static double data_gradients(network *net, int64_t first, int64_t n, double divisor, int64_t dropout_step, const real *dy, real *dx, real *gradients) {
    const fastmlp_plan *plan = net->plan;
    block_walk walk = walk_blocks(net, n);
    const int is_shared = walk.round_rows == plan->block_rows;
    double total = 0;
    for (int64_t round = 0; round < n; round += walk.round_rows) {
        const int64_t row = round + walk.first_row, rows = smaller(plan->block_rows, n - row);
        double value = 0;
        if (rows > 0) {
            const gradient_sink sink = {
                is_shared && round ? ADD_GRADIENT : STORE_GRADIENT,
                is_shared ? gradients : walk.net.workspace + plan->partial,
                net->parameters,
                NULL,
            };
            network_forward(&walk.net, first + row, rows, row, dropout_step);
            if (dy) chain_outputs(&walk.net, dy + row * last_layer(net)->n_out, rows);
            else value = block_loss(&walk.net, first + row, rows, 1, divisor);
            network_backward(&walk.net, rows, dx ? dx + row * plan->layers[0].n_in : NULL, &sink);
        }
        total = is_shared ? total + value : gather_blocks(net, parts_of(smaller(walk.round_rows, n - round), plan->block_rows), total, value, !round, gradients);
    }
    return total / divisor;
}

/* The loss of all n examples, without the penalty. */
static double data_loss(network *net, int64_t n) {
    const fastmlp_plan *plan = net->plan;
    block_walk walk = walk_blocks(net, n);
    double total = 0;
    for (int64_t round = 0; round < n; round += walk.round_rows) {
        const int64_t first = round + walk.first_row, rows = smaller(plan->block_rows, n - first);
        double value = 0;
        if (rows > 0) {
            network_forward(&walk.net, first, rows, 0, INFERENCE);
            value = block_loss(&walk.net, first, rows, 0, (double)n);
            fastmlp_meet(walk.net.member);
        }
        total = walk.round_rows == plan->block_rows ? total + value : gather_blocks(net, parts_of(smaller(walk.round_rows, n - round), plan->block_rows), total, value, 0, NULL);
    }
    return total / (double)n;
}

/* n numbers of each row, one row behind the other. While there is room, whole vectors, which reach into the place of the next
 * row: 1,000 rows through 10-5-1 +7 %, 128 through 4-32-16-4 +4 %. */
static void copy_rows(int64_t rows, int64_t n, const real *from, int64_t leading, real *to) {
    const int64_t vectors = whole_vectors(n);
    for (; rows * n >= vectors * LANES; rows--, from += leading, to += n)
        for (int64_t j = 0; j < vectors * LANES; j += LANES) store_loose(to + j, load(from + j));
    for (; rows > 0; rows--, from += leading, to += n) __builtin_memcpy(to, from, (size_t)n * sizeof(real));
}

/* y_hat, or the logits, of a member's rows of every block; layers from `first_layer` on are copied to outs. */
static void copy_outputs(network *net, int64_t n, int64_t logits, int64_t first_layer, void *const *outs) {
    const fastmlp_plan *plan = net->plan;
    const fastmlp_layer *last = last_layer(net);
    block_walk walk = walk_blocks(net, n);
    for (int64_t first = walk.first_row; first < n; first += walk.round_rows) {
        const int64_t rows = smaller(plan->block_rows, n - first);
        const range mine = share_of(walk.net.member, rows, SHARED_ROWS);
        network_forward(&walk.net, first, rows, 0, INFERENCE);
        if (!logits) output_rows(last->activation, mine.to - mine.from, last->n_out, output_of(&walk.net, last) + mine.from * last->leading, last->leading);
        for (int64_t l = first_layer; l < plan->n_layers; l++) {
            const fastmlp_layer *layer = plan->layers + l;
            real *out = (real *)outs[l - first_layer] + (first + mine.from) * layer->n_out;
            copy_rows(mine.to - mine.from, layer->n_out, output_of(&walk.net, layer) + mine.from * layer->leading, layer->leading, out);
        }
        fastmlp_meet(walk.net.member); /* shares of a shorter block lie elsewhere */
    }
}

/* One step over examples first .. first + n - 1. Returns the loss before the update; where that is not finite, nothing
 * is updated. A batch of one block updates each weight as soon as its gradient is known; a larger one, or a clipped
 * gradient, goes through the arena `gradients`. */
static double train_step(network *net, int64_t first, int64_t n, const double *row, const fastmlp_update *u, int64_t dropout_step, real *gradients) {
    const fastmlp_plan *plan = net->plan;
    const double rate = row[0], eps = row[1], divisor = row[2] != 0 ? row[2] : (double)n, scale = row[3];
    const double clip_norm = u->scalars[CLIP_NORM];
    const double charge = scale * penalty_of(plan);
    double value;
    if (n > plan->block_rows || clip_norm > 0) {
        value = data_gradients(net, first, n, divisor, dropout_step, NULL, NULL, gradients) + charge;
        if (!__builtin_isfinite(value)) return value;
        add_penalty_gradient(net, gradients, scale);
        fastmlp_meet(net->member);
        update_step s = begin_update(u, rate, eps, net->parameters);
        apply_gradients(net, &s, clip_norm, gradients);
    } else {
        network_forward(net, first, n, 0, dropout_step);
        value = block_loss(net, first, n, 1, divisor) / divisor + charge;
        if (!__builtin_isfinite(value)) return value;
        update_step s = begin_update(u, rate, eps, net->parameters);
        s.l1 = (real)(plan->l1 * scale);
        s.l2 = (real)(plan->l2 * scale);
        const gradient_sink sink = {UPDATE_PARAMETERS, NULL, net->parameters, &s};
        network_backward(net, n, NULL, &sink);
    }
    /* the others read it again after the next step's loss, where all meet */
    if (net->member.index == 0) end_update(u);
    return value;
}

/* --- the entry points: one call's arguments, and what each member does with them --- */

typedef struct {
    const fastmlp_plan *plan;
    void *workspace;
    const fastmlp_examples *examples;
    int64_t n;
    void *out;
    int64_t option; /* logits, or the step of dropout */
    const void *dy;
    void *dx;
    void *const *outs;
    const fastmlp_schedule *schedule;
    const fastmlp_update *update;
    void *gradients;
    double *losses;
    double value;
    int64_t taken;
} arguments;

static void forward_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    const arguments *c = context;
    network net = network_of(c->plan, c->workspace, c->examples, member);
    void *const outs[1] = {c->out};
    copy_outputs(&net, c->n, c->option, c->plan->n_layers - 1, outs);
    restore_mode(mode);
}

static void layer_outputs_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    const arguments *c = context;
    network net = network_of(c->plan, c->workspace, c->examples, member);
    copy_outputs(&net, c->n, 0, 0, c->outs);
    restore_mode(mode);
}

static void loss_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    arguments *c = context;
    network net = network_of(c->plan, c->workspace, c->examples, member);
    const double value = data_loss(&net, c->n) + penalty_of(c->plan);
    if (member.index == 0) c->value = value;
    restore_mode(mode);
}

static void gradients_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    arguments *c = context;
    network net = network_of(c->plan, c->workspace, c->examples, member);
    const double value = data_gradients(&net, 0, c->n, (double)c->n, c->option, NULL, NULL, c->gradients) + penalty_of(c->plan);
    add_penalty_gradient(&net, c->gradients, 1);
    if (member.index == 0) c->value = value;
    restore_mode(mode);
}

static void backward_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    const arguments *c = context;
    network net = network_of(c->plan, c->workspace, c->examples, member);
    data_gradients(&net, 0, c->n, 1, NO_DROPOUT, c->dy, c->dx, c->gradients);
    restore_mode(mode);
}

static void apply_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    const arguments *c = context;
    const network net = network_of(c->plan, NULL, NULL, member);
    update_step s = begin_update(c->update, c->update->scalars[LR], c->update->scalars[EPS], c->plan->parameters);
    apply_gradients(&net, &s, c->update->scalars[CLIP_NORM], c->gradients);
    if (member.index == 0) end_update(c->update);
    restore_mode(mode);
}

static void train_member(void *context, fastmlp_member member) {
    const float_mode mode = flush_subnormals();
    arguments *c = context;
    const fastmlp_schedule *s = c->schedule;
    network net = network_of(c->plan, c->workspace, c->examples, member);
    const int64_t row_bytes = c->plan->layers[0].n_in * c->examples->x_column;
    const int is_fetched = row_bytes * s->batch_size >= LEAST_FETCHED && row_bytes * s->batch_size <= MOST_FETCHED;
    const int64_t steps_per_epoch = (s->n_examples + s->batch_size - 1) / s->batch_size, epoch_rows = c->examples->order ? s->n_examples : 0;
    int64_t taken = 0, epoch = s->first_step / steps_per_epoch * epoch_rows, first = s->first_step % steps_per_epoch * s->batch_size;
    while (taken < s->n_steps) {
        const int64_t n = smaller(s->batch_size, s->n_examples - first), is_last = first + n == s->n_examples;
        const int64_t next_epoch = is_last ? epoch + epoch_rows : epoch, next_first = is_last ? 0 : first + n;
        fetched_rows fetched;
        net.fetched = NULL;
        if (is_fetched && taken + 1 < s->n_steps) {
            const range mine = share_of(member, smaller(s->batch_size, s->n_examples - next_first), SHARED_ROWS);
            const int64_t next = next_epoch + next_first;
            fetched = (fetched_rows){c->examples, next + mine.from, next + mine.to, 0, row_bytes};
            net.fetched = &fetched;
        }
        const double value = train_step(&net, epoch + first, n, s->table + taken * s->table_row, c->update, s->dropout_step + taken, c->gradients);
        if (member.index == 0) c->losses[taken] = value;
        if (!__builtin_isfinite(value)) break;
        taken++;
        epoch = next_epoch, first = next_first;
    }
    if (member.index == 0) c->taken = taken;
    restore_mode(mode);
}

/* How many threads a call of so many rows is worth: one for every so many multiplications. */
static double worth_of(const fastmlp_plan *plan, int64_t rows, int64_t passes) {
    double products = 0;
    for (int64_t l = 0; l < plan->n_layers; l++) products += (double)plan->layers[l].n_in * (double)plan->layers[l].n_out;
    return products * (double)rows * (double)passes / (double)plan->thread_products;
}

static int64_t threads_for(const fastmlp_plan *plan, int64_t rows, int64_t passes) {
    const double worth = worth_of(plan, rows, passes);
    return worth < 2 ? 1 : worth < (double)plan->n_threads ? (int64_t)worth : plan->n_threads;
}

/* To read the weights of a large net takes as long as to multiply three (1.3 million) to seven rows (13 million). */
enum { LEAST_ROWS = 4 };
INLINE int64_t counted_rows(int64_t n) { return n > 0 && n < LEAST_ROWS ? LEAST_ROWS : n; }

/* The same of a call over n rows, whose blocks are shared or taken whole: walk_blocks. */
static int64_t threads_for_rows(const fastmlp_plan *plan, int64_t n, int64_t passes) {
    if (plan->n_threads == 1) return 1;
    const int64_t rows = counted_rows(n), sharing = threads_for(plan, smaller(rows, plan->block_rows), passes);
    const int64_t taking = plan->own_blocks ? smaller(threads_for(plan, rows, passes), parts_of(rows, plan->block_rows)) : 1;
    return sharing > taking ? sharing : taking;
}

/* A call worth so many threads, 0.2 ms, is long enough for threads to be woken: fastmlp_run. */
enum { LONG = 8 };

static void run(const fastmlp_plan *plan, int64_t threads, int64_t n, int64_t passes, void (*job)(void *, fastmlp_member), void *context) {
    fastmlp_run(threads, threads > 1 && worth_of(plan, counted_rows(n), passes) >= LONG, job, context);
}

static void run_rows(const fastmlp_plan *plan, int64_t n, int64_t passes, void (*job)(void *, fastmlp_member), void *context) {
    run(plan, threads_for_rows(plan, n, passes), n, passes, job, context);
}

static void forward(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, int64_t n, void *out, int64_t logits) {
    arguments c = {.plan = plan, .workspace = workspace, .examples = e, .n = n, .out = out, .option = logits};
    run_rows(plan, n, 1, forward_member, &c);
}

static void layer_outputs(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, int64_t n, void *const *outs) {
    arguments c = {.plan = plan, .workspace = workspace, .examples = e, .n = n, .outs = outs};
    run_rows(plan, n, 1, layer_outputs_member, &c);
}

static double penalty(const fastmlp_plan *plan) {
    const float_mode mode = flush_subnormals();
    const double value = penalty_of(plan);
    restore_mode(mode);
    return value;
}

static double loss(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, int64_t n) {
    arguments c = {.plan = plan, .workspace = workspace, .examples = e, .n = n};
    run_rows(plan, n, 1, loss_member, &c);
    return c.value;
}

static double gradients(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, int64_t n, void *out, int64_t dropout_step) {
    arguments c = {.plan = plan, .workspace = workspace, .examples = e, .n = n, .gradients = out, .option = dropout_step};
    run_rows(plan, n, 3, gradients_member, &c);
    return c.value;
}

static void backward(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, int64_t n, const void *dy, void *out, void *dx) {
    arguments c = {.plan = plan, .workspace = workspace, .examples = e, .n = n, .dy = dy, .gradients = out, .dx = dx};
    run_rows(plan, n, 3, backward_member, &c);
}

static void apply(const fastmlp_plan *plan, const fastmlp_update *u, const void *gradients) {
    arguments c = {.plan = plan, .update = u, .gradients = (void *)gradients};
    run(plan, threads_for(plan, LEAST_ROWS, 1), LEAST_ROWS, 1, apply_member, &c);
}

static int64_t train(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, const fastmlp_schedule *s, const fastmlp_update *u, void *gradients, double *losses) {
    arguments c = {.plan = plan, .workspace = workspace, .examples = e, .schedule = s, .update = u, .gradients = gradients, .losses = losses};
    const int64_t batch_size = smaller(s->batch_size, s->n_examples);
    run(plan, threads_for_rows(plan, batch_size, 3), batch_size * s->n_steps, 3, train_member, &c);
    return c.taken;
}
