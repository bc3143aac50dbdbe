/* A small batch through a layer that has no more inputs or outputs than a vector has lanes. Choosing and calling tiles
 * would take longer than the sums themselves: a step of 2-2-1 on 4 examples took 0.41 us with them, and takes 0.22.
 * Sums and their order are those of dense.h. */

enum { NARROW_ROWS = 16 };

INLINE int is_narrow(int64_t rows, const fastmlp_layer *layer) { return rows <= NARROW_ROWS && layer->n_in <= LANES && layer->n_out <= LANES; }

/* As dense_forward. */
static void narrow_forward(int64_t rows, const fastmlp_layer *layer, int64_t activation, const real *x, int64_t x_leading, const real *parameters, real *z, real *factor) {
    const int64_t leading = layer->leading, n_in = layer->n_in;
    const vector bias = load(parameters + n_in * leading);
    ROLLED
    for (int64_t i = 0; i < rows; i++) {
        vector sum = bias;
        ROLLED
        for (int64_t k = 0; k < n_in; k++) sum = multiply_add(splat(x[i * x_leading + k]), load(parameters + k * leading), sum);
        store(z + i * leading, sum);
    }
    if (factor) activate_rows_keeping_factor(activation, rows, 1, z, factor, leading);
    else activate_rows(activation, rows, 1, z, leading);
}

/* transposed[j][k] = the weight of input k and output j, zero beyond the inputs. Few weights go one by one, since registers
 * are transposed whole: a tenth of a step of 2-2-1. */
enum { FEW_WEIGHTS = 32 };
static void narrow_transposed(const fastmlp_layer *layer, const real *parameters, real *transposed) {
    const int64_t n_in = layer->n_in, n_out = layer->n_out;
    if (n_in * n_out > FEW_WEIGHTS) {
        pack_transposed(n_in, n_out, 1, parameters, layer->leading, transposed);
        return;
    }
    for (int64_t j = 0; j < n_out; j++) {
        store(transposed + j * LANES, splat(0));
        ROLLED
        for (int64_t k = 0; k < n_in; k++) transposed[j * LANES + k] = parameters[k * layer->leading + j];
    }
}

/* What becomes of the gradients of a layer, its bias the last row. Plain SGD is not worth a call: 5 % of a step of 2-2-1. */
static void narrow_sink(const gradient_sink *sink, const fastmlp_layer *layer, const real *gradients) {
    const int64_t n_in = layer->n_in, leading = layer->leading, at = layer->parameters;
    if (sink->use == UPDATE_PARAMETERS && !is_plain_sgd(sink)) {
        update_rows(sink->update, 1, n_in, 1, gradients, LANES, at, leading);
        update_rows(sink->update, 0, 1, 1, gradients + n_in * LANES, LANES, at + n_in * leading, leading);
        return;
    }
    real *to = (sink->use == UPDATE_PARAMETERS ? sink->parameters : sink->gradients) + at;
    const vector rate = splat(sink->use == UPDATE_PARAMETERS ? -sink->update->rate : 1);
    ROLLED
    for (int64_t k = 0; k <= n_in; k++, to += leading, gradients += LANES)
        store(to, sink->use == STORE_GRADIENT ? load(gradients) : multiply_add(rate, load(gradients), load(to)));
}

/* As dense_backward for all units of the layer, and dense_bias_gradient. */
static void narrow_backward(int64_t rows, const fastmlp_layer *layer, const fastmlp_layer *below, real *a, int64_t a_leading, const real *factor, const real *dz, real *dx, const backward_scratch *scratch, const gradient_sink *sink) {
    const int64_t leading = layer->leading, n_in = layer->n_in, n_out = layer->n_out;
    const int reaches_below = below || dx;
    const real *transposed = scratch->transposed;
    if (reaches_below) narrow_transposed(layer, sink->parameters + layer->parameters, scratch->transposed);
    ROLLED
    for (int64_t k = 0; k < n_in; k++) {
        vector sum = splat(0);
        ROLLED
        for (int64_t i = 0; i < rows; i++) sum = multiply_add(splat(a[i * a_leading + k]), load(dz + i * leading), sum);
        store(scratch->tile + k * LANES, sum);
    }
    vector bias = splat(0);
    ROLLED
    for (int64_t i = 0; i < rows; i++) bias += load(dz + i * leading);
    store(scratch->tile + n_in * LANES, bias);
    narrow_sink(sink, layer, scratch->tile);
    if (!reaches_below) return;
    ROLLED
    for (int64_t i = 0; i < rows; i++) {
        vector sum = splat(0);
        for (int64_t j = 0; j < n_out; j++) sum = multiply_add(splat(dz[i * leading + j]), load(transposed + j * LANES), sum);
        store(scratch->tile + i * LANES, sum);
    }
    if (!below)
        ROLLED
        for (int64_t i = 0; i < rows; i++) __builtin_memcpy(dx + i * n_in, scratch->tile + i * LANES, (size_t)n_in * sizeof(real));
    else if (factor) chain_rows_by_factor(rows, 1, scratch->tile, LANES, factor, a, below->leading);
    else chain_rows(below->activation, dropout_scale(below, scratch), rows, 1, scratch->tile, LANES, a, below->leading);
}
