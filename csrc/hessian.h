/* Hessian-vector products: tangents of the gradient along a direction of the parameters (B. A. Pearlmutter, "Fast exact
 * multiplication by the Hessian", 1994, calls them R{...}). They go forward with the activations, and back with dL/dz. */

/* A member's rows of a block forward to the logits, with tangents; each hidden layer's slope is kept, and its tangent. */
static void forward_with_tangents(network *net, const fastmlp_derivatives *d, int64_t first, int64_t block_rows, range mine, const real *direction) {
    const fastmlp_plan *plan = net->plan;
    const int64_t rows = mine.to - mine.from;
    net->x_leading = plan->input_leading;
    net->x = input_rows(net->examples, first, block_rows, mine, plan->layers[0].n_in, net->workspace + plan->input, &net->x_leading);
    const real *x = net->x + mine.from * net->x_leading, *x_tangent = NULL;
    int64_t x_leading = net->x_leading;
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        const int64_t leading = layer->leading, skipped = mine.from * leading;
        const real *weights = net->parameters + layer->parameters;
        real *z = output_of(net, layer) + skipped, *tangent = net->workspace + d->layers[l].tangent + skipped;
        real *packed = scratch_at(net, plan->packed);
        dense_forward(rows, layer, layer->n_out, IDENTITY, x, x_leading, weights, packed, z, NULL);
        dense_forward(rows, layer, layer->n_out, IDENTITY, x, x_leading, direction + layer->parameters, packed, tangent, NULL);
        if (x_tangent) multiply_rows(net, rows, layer->n_in, layer->n_out, x_tangent, x_leading, weights, leading, tangent, 1);
        if (l < plan->n_layers - 1)
            bend_rows(layer->activation, rows, whole_vectors(layer->n_out), z, net->workspace + layer->factor + skipped, tangent, net->workspace + d->layers[l].bend + skipped, leading);
        x = z;
        x_tangent = tangent;
        x_leading = leading;
    }
}

/* dL/dz of one row over its probabilities p, and its tangent over t, the logits'. */
static void bend_cross_entropy(const fastmlp_examples *e, int64_t row, int64_t n, real *p, real *t, real scale, real *target) {
    const int is_class = e->y_column == 0;
    real weight = 1;
    if (!is_class) {
        target_row(e, row, n, target);
        line sum = line_of(0);
        for (int64_t j = 0; j < whole_lines(n) * LINE_LANES; j += LINE_LANES)
            for (int g = 0; g < LINE_VECTORS; g++) sum.part[g] += load(target + j + g * LANES);
        weight = line_sum(sum);
    }
    const vector mean = splat(inner_product(n, p, t)), factor = splat(scale), total = splat(weight);
    const real of_class = is_class ? p[*(const int64_t *)(e->y + row * e->y_row)] : 0;
    for (int64_t j = 0; j < n; j += LANES) {
        const vector each = load(p + j) * total;
        store(t + j, choose(real_lanes(n - j), each * (load(t + j) - mean) * factor, splat(0)));
        store(p + j, (is_class ? each : each - load(target + j)) * factor);
    }
    if (is_class) p[*(const int64_t *)(e->y + row * e->y_row)] = (of_class - 1) * scale;
}

/* The same of an element-wise loss, over outputs a and their tangents t; slope and bend are f'(z) and its tangent. */
static void bend_element_row(int64_t loss, int64_t n, real *a, const real *slope, real *t, const real *bend, const real *y, real scale) {
    const vector zero = splat(0), one = splat(1);
    for (int64_t j = 0; j < n; j += LANES) {
        const ivector inside = real_lanes(n - j);
        const vector d = load(a + j) - load(y + j);
        vector first = d, second = load(t + j); /* derivatives of the loss by z */
        if (loss == MSE || loss == MAE || loss == HUBER) {
            vector by_output = d, curvature = one;
            if (loss == MAE) {
                by_output = choose(d > zero, one, choose(d < zero, -one, d));
                curvature = zero;
            } else if (loss == HUBER) {
                by_output = choose(absolute(d) > one, with_sign_of(one, d), d);
                curvature = choose(absolute(d) < one, one, zero);
            }
            first = by_output * load(slope + j);
            second = multiply_add(curvature * load(slope + j), second, by_output * load(bend + j));
        }
        store(a + j, choose(inside, first * splat(scale), zero));
        store(t + j, choose(inside, second * splat(scale), zero));
    }
}

/* The logits of a member's rows become dL/dz, and their tangents its tangents; see loss_rows. */
static void bend_losses(const network *net, const fastmlp_derivatives *d, int64_t first, range mine, double divisor) {
    const fastmlp_plan *plan = net->plan;
    const fastmlp_layer *layer = last_layer(net);
    const int64_t n = layer->n_out, loss = plan->loss, skipped = mine.from * layer->leading, rows = mine.to - mine.from;
    const double factor = (loss == CROSS_ENTROPY ? 1.0 : loss == MSE ? 2.0 / (double)n : 1.0 / (double)n) / divisor;
    real *z = output_of(net, layer) + skipped, *target = scratch_at(net, plan->target);
    real *t = net->workspace + d->layers[plan->n_layers - 1].tangent + skipped, *bend = net->workspace + d->layers[plan->n_layers - 1].bend + skipped;
    real *slope = net->workspace + d->gradient + mine.from * d->widest;
    if (loss == CROSS_ENTROPY) output_rows(SOFTMAX, rows, n, z, layer->leading);
    else bend_rows(layer->activation, rows, whole_vectors(n), z, slope, t, bend, layer->leading);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t row = example_row(net->examples, first + mine.from + i), at = i * layer->leading;
        const real scale = (real)((net->examples->sample_weight ? net->examples->sample_weight[row] : 1.0) * factor);
        if (loss == CROSS_ENTROPY) bend_cross_entropy(net->examples, row, n, z + at, t + at, scale, target);
        else {
            target_row(net->examples, row, n, target);
            bend_element_row(loss, n, z + at, slope + at, t + at, bend + at, target, scale);
        }
    }
}

/* Where the tangent of dL/dz of a layer comes to lie; see gradient_at. */
INLINE real *gradient_tangent_at(const network *net, const fastmlp_derivatives *d, int64_t l) {
    return net->workspace + (l == net->plan->n_layers - 1 ? d->layers[l].tangent : d->layers[l].bend);
}

/* dL/dz below layer l, over the slopes, and its tangent, over the slopes' tangents, for a member's rows. */
static void chain_tangents_below(const network *net, const fastmlp_derivatives *d, int64_t l, range mine) {
    const fastmlp_layer *layer = net->plan->layers + l, *below = layer - 1;
    const int64_t rows = mine.to - mine.from, leading = below->leading, skipped = mine.from * layer->leading;
    const real *weights = net->workspace + d->layers[l].weights, *direction = net->workspace + d->layers[l].direction;
    const real *dz = gradient_at(net, l) + skipped, *dz_tangent = gradient_tangent_at(net, d, l) + skipped;
    real *da = net->workspace + d->gradient + mine.from * d->widest, *da_tangent = net->workspace + d->gradient_tangent + mine.from * d->widest;
    real *slope = gradient_at(net, l - 1) + mine.from * leading, *bend = gradient_tangent_at(net, d, l - 1) + mine.from * leading;
    multiply_rows(net, rows, layer->n_out, layer->n_in, dz, layer->leading, weights, leading, da, 0);
    multiply_rows(net, rows, layer->n_out, layer->n_in, dz_tangent, layer->leading, weights, leading, da_tangent, 0);
    multiply_rows(net, rows, layer->n_out, layer->n_in, dz, layer->leading, direction, leading, da_tangent, 1);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < layer->n_in; j += LANES) {
            const int64_t at = i * leading + j;
            const vector d_a = load(da + at), factor = load(slope + at);
            store(bend + at, multiply_add(load(da_tangent + at), factor, d_a * load(bend + at)));
            store(slope + at, d_a * factor);
        }
}

/* The tangents of the weights' gradients over a block, whose members share every layer's input units. */
static void add_gradient_tangents(const network *net, const fastmlp_derivatives *d, int64_t block_rows, gradient_sink sink) {
    const fastmlp_plan *plan = net->plan;
    const backward_scratch scratch = {
        .constants = net->workspace + plan->constants,
        .panel = scratch_at(net, plan->panel),
        .transposed = scratch_at(net, plan->transposed),
        .tile = scratch_at(net, plan->tile),
    };
    const gradient_sink further = {ADD_GRADIENT, sink.gradients, sink.parameters, NULL};
    for (int64_t l = 0; l < plan->n_layers; l++) {
        const fastmlp_layer *layer = plan->layers + l;
        const range units = share_of(net->member, layer->n_in, LINE_LANES);
        const real *dz_tangent = gradient_tangent_at(net, d, l);
        real *a = l > 0 ? output_of(net, layer - 1) : (real *)net->x;
        const int64_t a_leading = l > 0 ? layer[-1].leading : net->x_leading;
        dense_backward(block_rows, layer, NULL, units, a, a_leading, NULL, dz_tangent, NULL, &scratch, &sink);
        if (l > 0) dense_backward(block_rows, layer, NULL, units, net->workspace + d->layers[l - 1].tangent, a_leading, NULL, gradient_at(net, l), NULL, &scratch, &further);
        if (net->member.index == net->member.count - 1) dense_bias_gradient(block_rows, layer, dz_tangent, &scratch, &sink);
    }
}

/* Of the penalty, whose second derivative is l2 for weights: |w| has none. */
static void add_penalty_tangent(const network *net, const real *direction, real *out) {
    const vector l2 = splat((real)net->plan->l2);
    if (net->plan->l2 == 0) return;
    for (int64_t l = 0; l < net->plan->n_layers; l++) {
        const fastmlp_layer *layer = net->plan->layers + l;
        const range mine = share_of(net->member, layer->n_in, 1);
        for (int64_t i = mine.from; i < mine.to; i++)
            for (int64_t j = 0; j < layer->n_out; j += LANES) {
                const int64_t at = layer->parameters + i * layer->leading + j;
                store(out + at, multiply_add(l2, load(direction + at), load(out + at)));
            }
    }
}

static void gradient_tangents(network *net, const fastmlp_derivatives *d, int64_t n, const real *direction, real *out) {
    const fastmlp_plan *plan = net->plan;
    prepare_way_back(net, d, 1, direction);
    for (int64_t first = 0; first < n; first += plan->block_rows) {
        const int64_t block_rows = smaller(plan->block_rows, n - first);
        const range mine = share_of(net->member, block_rows, SHARED_ROWS);
        const gradient_sink sink = {first ? ADD_GRADIENT : STORE_GRADIENT, out, net->parameters, NULL};
        forward_with_tangents(net, d, first, block_rows, mine, direction);
        bend_losses(net, d, first, mine, (double)n);
        for (int64_t l = plan->n_layers - 1; l > 0; l--) chain_tangents_below(net, d, l, mine);
        fastmlp_meet(net->member);
        add_gradient_tangents(net, d, block_rows, sink);
        fastmlp_meet(net->member);
    }
    add_penalty_tangent(net, direction, out);
}
