/* One fully connected layer: forward, and backward panel by panel.
 *
 * A panel is the PANEL input units whose weights, gradients and input gradients are worked on together while they
 * are in the cache. Panels are independent of each other. */

enum { PANEL = 3 * LINE_LANES, CHUNK_ROWS = 48 };

INLINE int64_t whole_vectors(int64_t n) { return (n + LANES - 1) / LANES; }

/* z = f(x W^T + b) over some rows. With `factor` (leading as z) f'(z) is kept there. */
static void dense_forward(int64_t rows, const fastmlp_layer *layer, int64_t activation, const real *x, int64_t x_leading, const real *parameters, real *z, real *factor) {
    const int64_t leading = layer->leading, vectors = whole_vectors(layer->n_out);
    for (int64_t j = 0, step; j < vectors; j += step) {
        step = next_tile_vectors(rows, vectors - j);
        const tile_operands t = {
            .a = x, .a_row = x_leading, .a_step = 1,
            .b = parameters + j * LANES, .b_row = leading,
            .start = parameters + layer->n_in * leading + j * LANES, .start_row = 0,
            .c = z + j * LANES, .c_row = leading, .depth = layer->n_in,
        };
        multiply_rows(rows, step, t);
        if (factor) activate_rows_keeping_factor(activation, rows, step, z + j * LANES, factor + j * LANES, leading);
        else activate_rows(activation, rows, step, z + j * LANES, leading);
    }
}

/* What becomes of a gradient tile. */
typedef enum { STORE_GRADIENT, ADD_GRADIENT, UPDATE_PARAMETERS } gradient_use;

typedef struct {
    gradient_use use;
    real *gradients;           /* arena, for STORE and ADD */
    real *parameters;          /* arena */
    const update_step *update; /* for UPDATE */
} gradient_sink;

/* dW (or db) of some units: a^T dz over the rows, stored, added, or used for the update at once.
 * `a` has a_step elements from one example to the next, and units one beside the other. */
static void dense_weight_gradient(int64_t rows, const fastmlp_layer *layer, int64_t first_unit, int64_t units, const real *a, int64_t a_step, const real *dz, const real *zeros, real *tile, const gradient_sink *sink) {
    const int64_t leading = layer->leading, vectors = whole_vectors(layer->n_out);
    const int64_t offset = layer->parameters + first_unit * leading;
    for (int64_t j = 0, step; j < vectors; j += step) {
        step = next_tile_vectors(units, vectors - j);
        const int64_t at = offset + j * LANES;
        const int direct = sink->use == STORE_GRADIENT;
        const tile_operands t = {
            .a = a, .a_row = 1, .a_step = a_step,
            .b = dz + j * LANES, .b_row = leading,
            .start = zeros, .start_row = 0,
            .c = direct ? sink->gradients + at : tile, .c_row = direct ? leading : step * LANES, .depth = rows,
        };
        multiply_rows(units, step, t);
        if (sink->use == ADD_GRADIENT) add_rows(units, step, tile, step * LANES, sink->gradients + at, leading);
        if (sink->use == UPDATE_PARAMETERS)
            update_rows(sink->update, first_unit < layer->n_in, units, step, tile, step * LANES, at, leading);
    }
}

/* panel[k][u] = parameters of unit first + u and output k: W^T of a panel, zero beyond its units. */
static void transpose_panel(const fastmlp_layer *layer, const real *parameters, int64_t first, int64_t units, real *panel) {
    const int64_t leading = layer->leading, width = whole_vectors(units) * LANES;
    const real *from = parameters + first * leading;
    for (int64_t k0 = 0; k0 < layer->n_out; k0 += LINE_LANES) {
        const int64_t k1 = smaller(k0 + LINE_LANES, layer->n_out);
        for (int64_t u = 0; u < width; u++)
            for (int64_t k = k0; k < k1; k++) panel[k * PANEL + u] = u < units ? from[u * leading + k] : 0;
    }
}

/* dL/da of a panel of the layer's input units, chunk by chunk into `tile`; and through the activation below in place
 * over its outputs a, or (without `below`) into dx, rows of n_in. */
static void dense_input_gradient(int64_t rows, const fastmlp_layer *layer, const fastmlp_layer *below, int64_t first, int64_t units, const real *dz, const real *panel, const real *zeros, real *tile, real *a, const real *factor, real *dx) {
    const int64_t vectors = whole_vectors(units);
    for (int64_t row = 0; row < rows; row += CHUNK_ROWS) {
        const int64_t chunk = smaller(CHUNK_ROWS, rows - row);
        for (int64_t j = 0, step; j < vectors; j += step) {
            step = next_tile_vectors(chunk, vectors - j);
            const tile_operands t = {
                .a = dz + row * layer->leading, .a_row = layer->leading, .a_step = 1,
                .b = panel + j * LANES, .b_row = PANEL,
                .start = zeros, .start_row = 0,
                .c = tile, .c_row = step * LANES, .depth = layer->n_out,
            };
            multiply_rows(chunk, step, t);
            if (below) {
                const int64_t at = row * below->leading + first + j * LANES;
                if (factor) chain_rows_by_factor(chunk, step, tile, t.c_row, factor + at, a + at, below->leading);
                else chain_rows(below->activation, chunk, step, tile, t.c_row, a + at, below->leading);
            } else {
                const int64_t width = smaller(step * LANES, units - j * LANES);
                for (int64_t i = 0; i < chunk; i++)
                    __builtin_memcpy(dx + (row + i) * layer->n_in + first + j * LANES, tile + i * t.c_row, (size_t)width * sizeof(real));
            }
        }
    }
}

/* What one thread needs beside: a line of ones and then zeros, W^T of a panel, and a place for tiles. */
typedef struct {
    const real *constants;
    real *panel, *tile;
} backward_scratch;

/* What a layer does backward for some of its input units: from dz over its outputs, the weights' gradients into the sink
 * and the input's gradient over the layer below (or into dx, or nowhere for the first layer of a training step).
 * A panel's weights are copied before they are updated. */
static void dense_backward(int64_t rows, const fastmlp_layer *layer, const fastmlp_layer *below, range mine, real *a, int64_t a_leading, const real *factor, const real *dz, real *dx, const backward_scratch *scratch, const gradient_sink *sink) {
    const real *zeros = scratch->constants + LINE_LANES;
    for (int64_t first = mine.from; first < mine.to; first += PANEL) {
        const int64_t units = smaller(PANEL, mine.to - first);
        if (below || dx) transpose_panel(layer, sink->parameters + layer->parameters, first, units, scratch->panel);
        dense_weight_gradient(rows, layer, first, units, a + first, a_leading, dz, zeros, scratch->tile, sink);
        if (below || dx) dense_input_gradient(rows, layer, below, first, units, dz, scratch->panel, zeros, scratch->tile, a, factor, dx);
    }
}

/* The bias is the weight of an input that is always 1. */
static void dense_bias_gradient(int64_t rows, const fastmlp_layer *layer, const real *dz, const backward_scratch *scratch, const gradient_sink *sink) {
    dense_weight_gradient(rows, layer, layer->n_in, 1, scratch->constants, 0, dz, scratch->constants + LINE_LANES, scratch->tile, sink);
}
