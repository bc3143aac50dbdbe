/* Derivatives beyond the gradient: Jacobians, directional derivatives, and gradients of each example. A tangent is the
 * derivative of something along a direction of the inputs, or of the parameters. */

/* z = x B over some rows, or z += x B where z is continued; B has a row, as long as z's, for each element of x's. */
static void multiply_rows(const network *net, int64_t all_rows, int64_t n_in, int64_t n_out, const real *x, int64_t x_leading, const real *b, int64_t leading, real *z, int is_continued) {
    const int64_t vectors = whole_vectors(n_out), row_blocks = parts_of(all_rows, BLOCK_ROWS), depth_blocks = parts_of(n_in, BLOCK_DEPTH);
    const real *zeros = net->workspace + net->plan->constants + LINE_LANES;
    for (int64_t r = 0; r < row_blocks; r++) {
        const range row = part_of(all_rows, row_blocks, r, MAX_TILE_ROWS);
        for (int64_t d = 0; d < depth_blocks; d++) {
            const range k = part_of(n_in, depth_blocks, d, UNROLLED);
            const int from_zero = d == 0 && !is_continued;
            for (int64_t j = 0, step; j < vectors; j += step) {
                const int64_t tile = next_tile_vectors(row.to - row.from, n_out - j * LANES);
                step = touched(tile);
                const real *column = b + k.from * leading + j * LANES;
                real *c = z + row.from * leading + j * LANES;
                multiply(ROWS_OF_A, row.to - row.from, tile, &(product){
                    .a = x + row.from * x_leading + k.from, .a_stride = x_leading,
                    .b = column, .b_row = leading, .next = column + step * LANES, .next_row = leading, .next_rows = k.to - k.from,
                    .start = from_zero ? zeros : c, .start_row = from_zero ? 0 : leading,
                    .c = c, .c_row = leading, .depth = k.to - k.from,
                });
            }
        }
    }
}

/* The leading dimension of what goes into layer l. */
INLINE int64_t leading_below(const fastmlp_plan *plan, int64_t l) { return l > 0 ? plan->layers[l - 1].leading : plan->input_leading; }

/* A layer's weights in an arena, a row for each output: what a way back multiplies by. */
static void transpose_weights(const network *net, int64_t l, const real *arena, real *to) {
    const fastmlp_layer *layer = net->plan->layers + l;
    pack_transposed(layer->n_in, layer->n_out, leading_below(net->plan, l) / LANES, arena + layer->parameters, layer->leading, to);
}

/* The weights, and those of a direction where there is one, from layer `first_layer` on. Members take layers in turn. */
static void prepare_way_back(const network *net, const fastmlp_derivatives *d, int64_t first_layer, const real *direction) {
    for (int64_t l = first_layer + net->member.index; l < net->plan->n_layers; l += net->member.count) {
        transpose_weights(net, l, net->parameters, net->workspace + d->layers[l].weights);
        if (direction) transpose_weights(net, l, direction, net->workspace + d->layers[l].direction);
    }
    fastmlp_meet(net->member);
}

/* Rows of some directions for each example, times a row of factors for each example. */
static void scale_rows(int64_t examples, int64_t directions, int64_t vectors, const real *factor, real *rows, int64_t leading) {
    for (int64_t e = 0; e < examples; e++, factor += leading)
        for (int64_t i = 0; i < directions; i++, rows += leading)
            for (int64_t j = 0; j < vectors; j++) store(rows + j * LANES, load(rows + j * LANES) * load(factor + j * LANES));
}

/* The logits of some rows become outputs. Returns what tells the outputs' derivatives: the slopes, or a softmax's outputs. */
static const real *activate_outputs(const fastmlp_layer *layer, int64_t rows, real *z, real *slope) {
    if (layer->activation == SOFTMAX) output_rows(SOFTMAX, rows, layer->n_out, z, layer->leading);
    else activate_rows_keeping_factor(layer->activation, rows, whole_vectors(layer->n_out), z, slope, layer->leading);
    return layer->activation == SOFTMAX ? z : slope;
}

/* sum_k p_k t_k, where padding is zero. */
static real inner_product(int64_t n, const real *p, const real *t) {
    line sum = line_of(0);
    for (int64_t j = 0; j < n; j += LINE_LANES)
        for (int g = 0; g < LINE_VECTORS; g++)
            sum.part[g] = multiply_add(load(p + j + g * LANES), load(t + j + g * LANES), sum.part[g]);
    return line_sum(sum);
}

/* Tangents of the logits, some directions for each example, become tangents of the outputs. */
static void chain_output_tangents(const fastmlp_layer *layer, int64_t examples, int64_t directions, const real *slope, real *rows) {
    const int64_t leading = layer->leading, vectors = whole_vectors(layer->n_out);
    if (layer->activation == SOFTMAX)
        for (int64_t e = 0; e < examples; e++)
            for (int64_t i = 0; i < directions; i++) {
                real *row = rows + (e * directions + i) * leading;
                const vector mean = splat(inner_product(layer->n_out, slope + e * leading, row));
                for (int64_t j = 0; j < vectors; j++) store(row + j * LANES, load(row + j * LANES) - mean);
            }
    scale_rows(examples, directions, vectors, slope, rows, leading);
}

/* --- Jacobians --- */

/* Each output's derivative by the inputs of the last layer: its slope times its row of the weights, from which a softmax
 * takes the mean row first. */
static void seed_rows(const network *net, const fastmlp_derivatives *d, int64_t examples, const real *slope, real *rows, real *mean) {
    const int64_t l = net->plan->n_layers - 1, leading = leading_below(net->plan, l);
    const fastmlp_layer *layer = net->plan->layers + l;
    const real *weights = net->workspace + d->layers[l].weights;
    const int is_softmax = layer->activation == SOFTMAX;
    if (is_softmax) multiply_rows(net, examples, layer->n_out, layer->n_in, slope, layer->leading, weights, leading, mean, 0);
    for (int64_t e = 0; e < examples; e++, slope += layer->leading, mean += leading)
        for (int64_t k = 0; k < layer->n_out; k++, rows += leading)
            for (int64_t j = 0; j < layer->n_in; j += LANES) {
                const vector w = load(weights + k * leading + j);
                store(rows + j, (is_softmax ? w - load(mean + j) : w) * splat(slope[k]));
            }
}

/* From the outputs' slopes to the inputs, for examples `from` and following of the block. */
static void jacobian_backward(const network *net, const fastmlp_derivatives *d, int64_t from, int64_t examples, const real *slope, real *out) {
    const fastmlp_plan *plan = net->plan;
    const int64_t n_features = plan->layers[0].n_in, all_rows = examples * d->directions;
    real *rows = net->workspace + d->first_rows + net->member.index * d->rows_stride, *other = rows + (d->second_rows - d->first_rows);
    seed_rows(net, d, examples, slope, rows, other);
    for (int64_t l = plan->n_layers - 2; l >= 0; l--) {
        const fastmlp_layer *layer = plan->layers + l;
        scale_rows(examples, d->directions, whole_vectors(layer->n_out), net->workspace + layer->factor + from * layer->leading, rows, layer->leading);
        multiply_rows(net, all_rows, layer->n_out, layer->n_in, rows, layer->leading, net->workspace + d->layers[l].weights, leading_below(plan, l), other, 0);
        real *const product = other;
        other = rows;
        rows = product;
    }
    for (int64_t i = 0; i < all_rows; i++)
        __builtin_memcpy(out + i * n_features, rows + i * plan->input_leading, (size_t)n_features * sizeof(real));
}

/* From the inputs to the outputs; there are two layers at least. */
static void jacobian_forward(const network *net, const fastmlp_derivatives *d, int64_t from, int64_t examples, const real *slope, real *out) {
    const fastmlp_plan *plan = net->plan;
    const fastmlp_layer *first = plan->layers, *last = last_layer(net);
    const int64_t n_features = first->n_in, n_outputs = last->n_out, all_rows = examples * n_features;
    real *rows = net->workspace + d->first_rows + net->member.index * d->rows_stride, *other = rows + (d->second_rows - d->first_rows);
    for (int64_t e = 0; e < examples; e++)
        __builtin_memcpy(rows + e * n_features * first->leading, net->parameters + first->parameters, (size_t)(n_features * first->leading) * sizeof(real));
    for (const fastmlp_layer *layer = first + 1; layer <= last; layer++) {
        const fastmlp_layer *below = layer - 1;
        scale_rows(examples, n_features, whole_vectors(below->n_out), net->workspace + below->factor + from * below->leading, rows, below->leading);
        multiply_rows(net, all_rows, layer->n_in, layer->n_out, rows, below->leading, net->parameters + layer->parameters, layer->leading, other, 0);
        real *const product = other;
        other = rows;
        rows = product;
    }
    chain_output_tangents(last, examples, n_features, slope, rows);
    for (int64_t e = 0; e < examples; e++, out += n_outputs * n_features, rows += n_features * last->leading)
        for (int64_t k = 0; k < n_outputs; k++)
            for (int64_t j = 0; j < n_features; j++) out[k * n_features + j] = rows[j * last->leading + k];
}

static void jacobians(network *net, const fastmlp_derivatives *d, int64_t n, real *out) {
    const fastmlp_layer *last = last_layer(net);
    const int64_t size = last->n_out * net->plan->layers[0].n_in;
    if (d->is_reverse) prepare_way_back(net, d, 0, NULL);
    for (int64_t first = 0; first < n; first += d->jacobian_rows) {
        const int64_t block_rows = smaller(d->jacobian_rows, n - first);
        const range mine = share_of(net->member, block_rows, SHARED_ROWS);
        network_forward(net, first, block_rows, 0, NO_DROPOUT);
        for (int64_t from = mine.from; from < mine.to; from += d->part_rows) {
            const int64_t examples = smaller(d->part_rows, mine.to - from);
            const real *slope = activate_outputs(last, examples, output_of(net, last) + from * last->leading,
                                                 net->workspace + d->layers[net->plan->n_layers - 1].bend + from * last->leading);
            if (d->is_reverse) jacobian_backward(net, d, from, examples, slope, out + (first + from) * size);
            else jacobian_forward(net, d, from, examples, slope, out + (first + from) * size);
        }
        fastmlp_meet(net->member); /* shares of a shorter block lie elsewhere */
    }
}

/* --- along one direction of the inputs --- */

static void input_tangents(network *net, const fastmlp_derivatives *d, int64_t n, const real *t, real *y, real *dy) {
    const fastmlp_plan *plan = net->plan;
    const fastmlp_layer *last = last_layer(net);
    for (int64_t first = 0; first < n; first += plan->block_rows) {
        const int64_t block_rows = smaller(plan->block_rows, n - first);
        const range mine = share_of(net->member, block_rows, SHARED_ROWS);
        const int64_t rows = mine.to - mine.from, at = first + mine.from;
        network_forward(net, first, block_rows, 0, NO_DROPOUT);
        const real *x = t + at * plan->layers[0].n_in;
        int64_t x_leading = plan->layers[0].n_in;
        for (int64_t l = 0; l < plan->n_layers; l++) {
            const fastmlp_layer *layer = plan->layers + l;
            const int64_t skipped = mine.from * layer->leading;
            real *tangent = net->workspace + d->layers[l].tangent + skipped;
            multiply_rows(net, rows, layer->n_in, layer->n_out, x, x_leading, net->parameters + layer->parameters, layer->leading, tangent, 0);
            if (layer != last) scale_rows(rows, 1, whole_vectors(layer->n_out), net->workspace + layer->factor + skipped, tangent, layer->leading);
            x = tangent;
            x_leading = layer->leading;
        }
        const int64_t skipped = mine.from * last->leading;
        real *z = output_of(net, last) + skipped, *tangent = net->workspace + d->layers[plan->n_layers - 1].tangent + skipped;
        const real *slope = activate_outputs(last, rows, z, net->workspace + d->layers[plan->n_layers - 1].bend + skipped);
        chain_output_tangents(last, rows, 1, slope, tangent);
        copy_rows(rows, last->n_out, z, last->leading, y + at * last->n_out);
        copy_rows(rows, last->n_out, tangent, last->leading, dy + at * last->n_out);
        fastmlp_meet(net->member);
    }
}

/* --- the gradient of each example's loss --- */

/* A row of a gradient for each example: dz_u a_k for every unit u and input k, then dz. */
static void outer_rows(int64_t rows, const fastmlp_layer *layer, const real *dz, const real *a, int64_t a_leading, real *out, int64_t n_parameters) {
    for (int64_t i = 0; i < rows; i++, dz += layer->leading, a += a_leading, out += n_parameters) {
        real *to = out;
        for (int64_t u = 0; u < layer->n_out; u++, to += layer->n_in) {
            int64_t k = 0;
            for (; k + LANES <= layer->n_in; k += LANES) store_loose(to + k, splat(dz[u]) * load_loose(a + k));
            for (; k < layer->n_in; k++) to[k] = dz[u] * a[k];
        }
        __builtin_memcpy(to, dz, (size_t)layer->n_out * sizeof(real));
    }
}

/* Where dL/dz of a layer comes to lie: over the logits, or the derivatives that were kept. */
INLINE real *gradient_at(const network *net, int64_t l) {
    const fastmlp_layer *layer = net->plan->layers + l;
    return net->workspace + (layer == last_layer(net) ? layer->output : layer->factor);
}

/* dL/dz of the layer below some rows, which replaces the derivative that was kept there. */
static void chain_below(const network *net, const fastmlp_derivatives *d, int64_t l, range mine, const real *dz) {
    const fastmlp_layer *layer = net->plan->layers + l, *below = layer - 1;
    real *gradient = net->workspace + d->gradient + mine.from * d->widest, *factor = net->workspace + below->factor + mine.from * below->leading;
    multiply_rows(net, mine.to - mine.from, layer->n_out, layer->n_in, dz, layer->leading, net->workspace + d->layers[l].weights, below->leading, gradient, 0);
    chain_rows_by_factor(mine.to - mine.from, whole_vectors(below->n_out), gradient, below->leading, factor, factor, below->leading);
}

static void example_gradients(network *net, const fastmlp_derivatives *d, int64_t n, real *out) {
    const fastmlp_plan *plan = net->plan;
    int64_t n_parameters = 0;
    for (int64_t l = 0; l < plan->n_layers; l++) n_parameters += plan->layers[l].n_out * (plan->layers[l].n_in + 1);
    prepare_way_back(net, d, 1, NULL);
    for (int64_t first = 0; first < n; first += plan->block_rows) {
        const int64_t block_rows = smaller(plan->block_rows, n - first);
        const range mine = share_of(net->member, block_rows, SHARED_ROWS);
        network_forward(net, first, block_rows, 0, NO_DROPOUT);
        loss_rows(plan, net->examples, first, mine, output_of(net, last_layer(net)), 1, 1, scratch_at(net, plan->target),
                  net->workspace + plan->parts, (double *)(net->workspace + plan->losses));
        real *to = out + (first + mine.from) * n_parameters + n_parameters;
        for (int64_t l = plan->n_layers - 1; l >= 0; l--) {
            const fastmlp_layer *layer = plan->layers + l;
            const real *dz = gradient_at(net, l) + mine.from * layer->leading;
            const real *a = l > 0 ? output_of(net, layer - 1) : net->x;
            const int64_t a_leading = l > 0 ? layer[-1].leading : net->x_leading;
            to -= layer->n_out * (layer->n_in + 1);
            outer_rows(mine.to - mine.from, layer, dz, a + mine.from * a_leading, a_leading, to, n_parameters);
            if (l > 0) chain_below(net, d, l, mine, dz);
        }
        fastmlp_meet(net->member);
    }
}
