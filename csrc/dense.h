/* One fully connected layer: forward, and backward panel by panel.
 *
 * A panel is the PANEL input units whose weights, gradients and input gradients are worked on together while they
 * are in the cache. Panels are independent of each other. */

enum {
    PANEL = 3 * LINE_LANES,
    CHUNK_ROWS = 48,
    /* a product is cut so that its a (rows x depth) and one column of its b stay in the caches: 192 KB and 32 KB */
    BLOCK_ROWS = 96,
    BLOCK_DEPTH = 2048 / sizeof(real),
    PACKED_COLUMNS = 256, /* layers from here on copy what they read again and again from lines that lie pages apart */
};

INLINE int64_t whole_vectors(int64_t n) { return (n + LANES - 1) / LANES; }

/* One column of b side by side. */
static const real *pack_column(int64_t depth, int64_t vectors, const real *b, int64_t b_row, real *packed) {
    for (int64_t k = 0; k < depth; k++)
        for (int64_t j = 0; j < vectors; j++) store(packed + (k * vectors + j) * LANES, load(b + k * b_row + j * LANES));
    return packed;
}

/* z = x W^T + b for one example: eight rows of the weights at a time, each read from end to end. Columns of tiles would
 * take a few lines out of every row, and the memory of a wide layer is slow at that. */
static void dense_forward_row(const fastmlp_layer *layer, const real *x, const real *parameters, real *z) {
    enum { ROWS = 8 };
    const int64_t leading = layer->leading, vectors = whole_vectors(layer->n_out);
    const real *start = parameters + layer->n_in * leading;
    for (int64_t k = 0; k < layer->n_in; k += ROWS, start = z) {
        const int64_t rows = smaller(ROWS, layer->n_in - k);
        const real *weights = parameters + k * leading;
        for (int64_t j = 0; j < vectors; j++, weights += LANES) {
            vector sum = load(start + j * LANES);
            if (rows == ROWS) {
#pragma GCC unroll 8
                for (int i = 0; i < ROWS; i++) sum = multiply_add(splat(x[k + i]), load(weights + i * leading), sum);
            } else
                for (int64_t i = 0; i < rows; i++) sum = multiply_add(splat(x[k + i]), load(weights + i * leading), sum);
            store(z + j * LANES, sum);
        }
    }
}

/* z = f(x W^T + b) over some rows. With `factor` (leading as z) f'(z) is kept there. */
static void dense_forward(int64_t all_rows, const fastmlp_layer *layer, int64_t activation, const real *x, int64_t x_leading, const real *parameters, real *z, real *factor, real *packed) {
    const int64_t leading = layer->leading, vectors = whole_vectors(layer->n_out);
    if (all_rows == 1 && layer->n_out >= PACKED_COLUMNS) {
        dense_forward_row(layer, x, parameters, z);
        if (factor) activate_rows_keeping_factor(activation, 1, vectors, z, factor, leading);
        else activate_rows(activation, 1, vectors, z, leading);
        return;
    }
    for (int64_t row = 0; row < all_rows; row += BLOCK_ROWS, x += BLOCK_ROWS * x_leading, z += BLOCK_ROWS * leading) {
        const int64_t rows = smaller(BLOCK_ROWS, all_rows - row);
        const int is_packed = layer->n_out >= PACKED_COLUMNS && rows >= BLOCK_ROWS / 2;
        for (int64_t k = 0; k < layer->n_in; k += BLOCK_DEPTH) {
            const int64_t depth = smaller(BLOCK_DEPTH, layer->n_in - k);
            const int is_first = k == 0, is_last = k + depth == layer->n_in;
            for (int64_t j = 0, step; j < vectors; j += step) {
                step = next_tile_vectors(rows, vectors - j);
                const real *b = parameters + k * leading + j * LANES;
                real *c = z + j * LANES;
                const tile_operands t = {
                    .a = x + k, .a_row = x_leading, .a_step = 1,
                    .b = is_packed ? pack_column(depth, step, b, leading, packed) : b, .b_row = is_packed ? step * LANES : leading,
                    .next_b = b + step * LANES, .next_row = leading,
                    .start = is_first ? parameters + layer->n_in * leading + j * LANES : c, .start_row = is_first ? 0 : leading,
                    .c = c, .c_row = leading, .depth = depth,
                };
                multiply_rows(rows, step, t);
                if (!is_last) continue;
                if (factor) activate_rows_keeping_factor(activation, rows, step, c, factor + row * leading + j * LANES, leading);
                else activate_rows(activation, rows, step, c, leading);
            }
        }
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
            .b = dz + j * LANES, .b_row = leading, .next_b = dz + (j + step) * LANES, .next_row = leading,
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
    const real *from = parameters + first * layer->leading;
    for (int64_t u = 0; u < units; u += LANES)
        for (int64_t k = 0; k < layer->n_out; k += LANES) {
            vector rows[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) rows[i] = u + i < units ? load(from + (u + i) * layer->leading + k) : splat(0);
            transpose_lanes(rows);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) store(panel + (k + i) * PANEL + u, rows[i]);
        }
}

/* dL/da of a panel of the layer's input units, chunk by chunk into `tile`; and through the activation below in place
 * over its outputs a, or (without `below`) into dx, rows of n_in. */
static void dense_input_gradient(int64_t rows, const fastmlp_layer *layer, const fastmlp_layer *below, int64_t first, int64_t units, const real *dz, const real *panel, const real *zeros, real *tile, real *a, const real *factor, real *dx) {
    const int64_t vectors = whole_vectors(units);
    for (int64_t row = 0; row < rows; row += CHUNK_ROWS) {
        const int64_t chunk = smaller(CHUNK_ROWS, rows - row);
        for (int64_t k = 0; k < layer->n_out; k += BLOCK_DEPTH)
            for (int64_t j = 0, step; j < vectors; j += step) {
                step = next_tile_vectors(chunk, vectors - j);
                const real *b = panel + k * PANEL + j * LANES;
                const tile_operands t = {
                    .a = dz + row * layer->leading + k, .a_row = layer->leading, .a_step = 1,
                    .b = b, .b_row = PANEL, .next_b = b + step * LANES, .next_row = PANEL,
                    .start = k ? tile + j * LANES : zeros, .start_row = k ? PANEL : 0,
                    .c = tile + j * LANES, .c_row = PANEL, .depth = smaller(BLOCK_DEPTH, layer->n_out - k),
                };
                multiply_rows(chunk, step, t);
            }
        if (below) {
            const int64_t at = row * below->leading + first;
            if (factor) chain_rows_by_factor(chunk, vectors, tile, PANEL, factor + at, a + at, below->leading);
            else chain_rows(below->activation, chunk, vectors, tile, PANEL, a + at, below->leading);
        } else
            for (int64_t i = 0; i < chunk; i++)
                __builtin_memcpy(dx + (row + i) * layer->n_in + first, tile + i * PANEL, (size_t)units * sizeof(real));
    }
}

/* What one thread needs beside: a line of ones and then zeros, W^T of a panel, and places for tiles and for
 * a panel of inputs. */
typedef struct {
    const real *constants;
    real *panel, *tile, *packed;
} backward_scratch;

/* A panel of a side by side. The panel is read again for every column of the product, and its lines lie pages apart. */
static const real *pack_panel(int64_t rows, int64_t units, const real *a, int64_t a_leading, real *packed) {
    for (int64_t i = 0; i < rows; i++) __builtin_memcpy(packed + i * PANEL, a + i * a_leading, (size_t)units * sizeof(real));
    return packed;
}

/* What a layer does backward for some of its input units: from dz over its outputs, the weights' gradients into the sink
 * and the input's gradient over the layer below (or into dx, or nowhere for the first layer of a training step).
 * A panel's weights are copied before they are updated. */
static void dense_backward(int64_t rows, const fastmlp_layer *layer, const fastmlp_layer *below, range mine, real *a, int64_t a_leading, const real *factor, const real *dz, real *dx, const backward_scratch *scratch, const gradient_sink *sink) {
    const real *zeros = scratch->constants + LINE_LANES;
    for (int64_t first = mine.from; first < mine.to; first += PANEL) {
        const int64_t units = smaller(PANEL, mine.to - first);
        if (below || dx) transpose_panel(layer, sink->parameters + layer->parameters, first, units, scratch->panel);
        const int is_packed = layer->n_out >= PACKED_COLUMNS;
        const real *inputs = is_packed ? pack_panel(rows, units, a + first, a_leading, scratch->packed) : a + first;
        dense_weight_gradient(rows, layer, first, units, inputs, is_packed ? PANEL : a_leading, dz, zeros, scratch->tile, sink);
        if (below || dx) dense_input_gradient(rows, layer, below, first, units, dz, scratch->panel, zeros, scratch->tile, a, factor, dx);
    }
}

/* The bias is the weight of an input that is always 1. */
static void dense_bias_gradient(int64_t rows, const fastmlp_layer *layer, const real *dz, const backward_scratch *scratch, const gradient_sink *sink) {
    dense_weight_gradient(rows, layer, layer->n_in, 1, scratch->constants, 0, dz, scratch->constants + LINE_LANES, scratch->tile, sink);
}
