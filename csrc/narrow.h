/* A small batch through a layer that has no more inputs or outputs than a vector has lanes. Choosing and calling tiles
 * would take longer than the sums themselves: a step of 2-2-1 on 4 examples took 0.41 us with them, and takes 0.22.
 * Sums and their order are those of dense.h. */

enum { NARROW_ROWS = 16 };

INLINE int is_narrow(int64_t rows, const fastmlp_layer *layer) { return rows <= NARROW_ROWS && layer->n_in <= LANES && layer->n_out <= LANES; }

/* As dense_forward. */
static void narrow_forward(int64_t rows, const fastmlp_layer *layer, int64_t activation, const real *x, int64_t x_leading, const real *parameters, real *z, real *factor) {
    const int64_t leading = layer->leading, n_in = layer->n_in;
    const vector bias = load(parameters + n_in * leading);
    for (int64_t i = 0; i < rows; i++) {
        vector sum = bias;
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
        for (int64_t k = 0; k < n_in; k++) transposed[j * LANES + k] = parameters[k * layer->leading + j];
    }
}

/* What becomes of the gradients of some rows of a layer's matrix. */
static void narrow_sink(const gradient_sink *sink, int is_weight, int64_t rows, const real *gradients, int64_t at, int64_t leading) {
    if (sink->use == UPDATE_PARAMETERS) {
        update_rows(sink->update, is_weight, rows, 1, gradients, LANES, at, leading);
        return;
    }
    for (int64_t k = 0; k < rows; k++) {
        real *to = sink->gradients + at + k * leading;
        const vector gradient = load(gradients + k * LANES);
        store(to, sink->use == ADD_GRADIENT ? gradient + load(to) : gradient);
    }
}

/* As dense_backward for all units of the layer, and dense_bias_gradient. */
static void narrow_backward(int64_t rows, const fastmlp_layer *layer, const fastmlp_layer *below, real *a, int64_t a_leading, const real *factor, const real *dz, real *dx, const backward_scratch *scratch, const gradient_sink *sink) {
    const int64_t leading = layer->leading, n_in = layer->n_in, n_out = layer->n_out, at = layer->parameters;
    const int reaches_below = below || dx;
    const real *transposed = scratch->column;
    if (reaches_below) narrow_transposed(layer, sink->parameters + at, scratch->column);
    vector bias = splat(0);
    for (int64_t i = 0; i < rows; i++) bias += load(dz + i * leading);
    for (int64_t k = 0; k < n_in; k++) {
        vector sum = splat(0);
        for (int64_t i = 0; i < rows; i++) sum = multiply_add(splat(a[i * a_leading + k]), load(dz + i * leading), sum);
        store(scratch->tile + k * LANES, sum);
    }
    narrow_sink(sink, 1, n_in, scratch->tile, at, leading);
    store(scratch->tile, bias);
    narrow_sink(sink, 0, 1, scratch->tile, at + n_in * leading, leading);
    if (!reaches_below) return;
    for (int64_t i = 0; i < rows; i++) {
        vector sum = splat(0);
        for (int64_t j = 0; j < n_out; j++) sum = multiply_add(splat(dz[i * leading + j]), load(transposed + j * LANES), sum);
        store(scratch->tile + i * LANES, sum);
    }
    if (!below)
        for (int64_t i = 0; i < rows; i++) __builtin_memcpy(dx + i * n_in, scratch->tile + i * LANES, (size_t)n_in * sizeof(real));
    else if (factor) chain_rows_by_factor(rows, 1, scratch->tile, LANES, factor, a, below->leading);
    else chain_rows(below->activation, rows, 1, scratch->tile, LANES, a, below->leading);
}
