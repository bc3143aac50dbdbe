/* One example through the whole net: the sums of `forward`, with little beside them. For a small net, to gather a batch
 * of one and to set up its products takes as long as the arithmetic. */

/* z = bias + x W^T over some vectors of outputs; `weights` leads to the first of them. */
INLINE void row_tile(const int vectors, int64_t n_in, const real *x, const real *weights, int64_t leading, real *z) {
    vector sum[MAX_TILE_VECTORS];
    UNROLL
    for (int j = 0; j < vectors; j++) sum[j] = load(weights + n_in * leading + j * LANES);
    for (int64_t k = 0; k < n_in; k++, weights += leading) {
        const vector x_k = splat(x[k]);
        UNROLL
        for (int j = 0; j < vectors; j++) accumulate_from(&sum[j], x_k, weights + j * LANES);
    }
    UNROLL
    for (int j = 0; j < vectors; j++) store(z + j * LANES, sum[j]);
}

static void dense_forward_one(const fastmlp_layer *layer, const real *x, const real *parameters, real *z) {
    const int64_t n_in = layer->n_in, leading = layer->leading, vectors = whole_vectors(layer->n_out);
    if (layer->n_out >= STREAMED_COLUMNS) {
        dense_forward_row(layer, layer->n_out, x, parameters, z);
        return;
    }
    for (int64_t j = 0, step; j < vectors; j += step) {
        step = next_tile_vectors(1, (vectors - j) * LANES);
        switch (step) {
#define CASE(VECTORS) \
    case VECTORS: row_tile(VECTORS, n_in, x, parameters + j * LANES, leading, z + j * LANES); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
        }
    }
}

static void forward_one(const fastmlp_plan *plan, void *workspace, const fastmlp_examples *e, void *out, int64_t logits) {
    if (plan->n_threads > 1 && threads_for_rows(plan, 1, 1) > 1) {
        forward(plan, workspace, e, 1, out, logits);
        return;
    }
    const float_mode mode = flush_subnormals();
    const real *x = (const real *)e->x, *parameters = plan->parameters;
    const fastmlp_layer *layer = plan->layers, *last = layer + plan->n_layers - 1;
    for (;; layer++) {
        real *z = (real *)workspace + layer->output;
        dense_forward_one(layer, x, parameters + layer->parameters, z);
        x = z;
        if (layer == last) break;
        activate_rows(layer->activation, 1, whole_vectors(layer->n_out), z, layer->leading);
    }
    real *z = (real *)workspace + last->output;
    if (!logits) output_rows(last->activation, 1, last->n_out, z, last->leading);
    __builtin_memcpy(out, z, (size_t)last->n_out * sizeof(real));
    restore_mode(mode);
}
