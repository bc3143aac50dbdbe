/* One fully connected layer: forward, and backward panel by panel.
 *
 * A panel is the PANEL input units whose weights, gradients and input gradients are worked on together while they
 * are in the cache. Panels are independent of each other. */

enum {
    PANEL = 48,
    /* a product is cut so that its a (rows x depth) and one column of its b stay in the caches: 240 KB and 20 KB */
    BLOCK_ROWS = 768 / sizeof(real),
    BLOCK_DEPTH = 320,
    PACKED_OUTPUTS = VECTOR_BYTES == 64 ? INT32_MAX : 1024, /* a block of x is packed where so many outputs read it: 4 x 2048 +3 % */
    PACKED_ROW = BLOCK_DEPTH + LINE_LANES, /* an odd number of lines */
    /* of a layer's outputs, or of what the gradient of its weights goes to: more than half the second cache is fetched beforehand */
    FETCHED_BYTES = 1 << 19,
    /* a panel of inputs nobody writes over too early is packed where layers have more. 784-128-10 gains 0.7 %, in float64 3 % */
    PACKED_COLUMNS = VECTOR_BYTES == 64 ? 256 : 112,
    STREAMED_COLUMNS = 256, /* one example goes through layers from here on row by row */
};

/* In how many parts n things go, each of at most so many. */
INLINE int64_t parts_of(int64_t n, int64_t most) { return n > most ? (n + most - 1) / most : 1; }

/* z = x W^T + b for one example: eight rows of the weights at a time, each read from end to end. Columns of tiles would
 * take a few lines out of every row, and the memory of a wide layer is slow at that. */
static void dense_forward_row(const fastmlp_layer *layer, int64_t outputs, const real *x, const real *parameters, real *z) {
    enum { ROWS = 8 };
    const int64_t leading = layer->leading, vectors = whole_vectors(outputs);
    const real *start = parameters + layer->n_in * leading;
    /* of x, other threads may have computed parts: one example of 784-800-800-10 to 4 x 2048 on two threads +2 % */
    for (int64_t k = 0; k < layer->n_in; k += LINE_LANES) __builtin_prefetch(x + k);
    for (int64_t k = 0; k < layer->n_in; k += ROWS, start = z) {
        const int64_t rows = smaller(ROWS, layer->n_in - k);
        const real *weights = parameters + k * leading;
        vector scalars[ROWS];
        UNROLL
        for (int i = 0; i < ROWS; i++) scalars[i] = splat(i < rows ? x[k + i] : 0);
        for (int64_t j = 0; j < vectors; j++, weights += LANES) {
            vector sum = load(start + j * LANES);
            if (rows == ROWS) {
                UNROLL
                for (int i = 0; i < ROWS; i++) sum = multiply_add(scalars[i], load(weights + i * leading), sum);
            } else
                for (int64_t i = 0; i < rows; i++) sum = multiply_add(splat(x[k + i]), load(weights + i * leading), sum);
            store(z + j * LANES, sum);
        }
    }
}

/* z = f(x W^T + b) over some rows and so many outputs, `parameters` and z leading to the first of them. With `factor`
 * (leading as z) f'(z) is kept there. `packed`: a place for a block of x. */
static void dense_forward(int64_t all_rows, const fastmlp_layer *layer, int64_t outputs, int64_t activation, const real *x, int64_t x_leading, const real *parameters, real *packed, real *z, real *factor) {
    const int64_t leading = layer->leading, vectors = whole_vectors(outputs);
    if (all_rows == 1 && outputs >= STREAMED_COLUMNS) {
        dense_forward_row(layer, outputs, x, parameters, z);
        if (factor) activate_rows_keeping_factor(activation, 1, vectors, z, factor, leading);
        else activate_rows(activation, 1, vectors, z, leading);
        return;
    }
    const int64_t row_blocks = parts_of(all_rows, BLOCK_ROWS), depth_blocks = parts_of(layer->n_in, BLOCK_DEPTH);
    for (int64_t r = 0; r < row_blocks; r++) {
        const range row = part_of(all_rows, row_blocks, r, MAX_TILE_ROWS);
        const int64_t rows = row.to - row.from;
        const int is_fetched = rows * leading * (int64_t)sizeof(real) >= FETCHED_BYTES;
        for (int64_t d = 0; d < depth_blocks; d++) {
            const range k = part_of(layer->n_in, depth_blocks, d, UNROLLED);
            const real *a = x + row.from * x_leading + k.from;
            int64_t a_leading = x_leading;
            if (outputs >= PACKED_OUTPUTS) {
                for (int64_t i = 0; i < rows; i++) __builtin_memcpy(packed + i * PACKED_ROW, a + i * x_leading, (size_t)(k.to - k.from) * sizeof(real));
                a = packed;
                a_leading = PACKED_ROW;
            }
            for (int64_t j = 0, step; j < vectors; j += step) {
                const int64_t tile = next_tile_vectors(rows, outputs - j * LANES);
                step = touched(tile);
                const real *b = parameters + k.from * leading + j * LANES;
                real *c = z + row.from * leading + j * LANES;
                const column_rows ahead[2] = {{c + step * LANES, leading, rows}, {NULL, 0, 0}};
                multiply(ROWS_OF_A, rows, tile, &(product){
                    .a = a, .a_stride = a_leading,
                    .b = b, .b_row = leading, .next = b + step * LANES, .next_row = leading, .next_rows = k.to - k.from,
                    .then = is_fetched ? ahead : NULL,
                    .start = d == 0 ? parameters + layer->n_in * leading + j * LANES : c, .start_row = d == 0 ? 0 : leading,
                    .c = c, .c_row = leading, .depth = k.to - k.from,
                });
                if (d + 1 < depth_blocks) continue;
                if (factor) activate_rows_keeping_factor(activation, rows, step, c, factor + row.from * leading + j * LANES, leading);
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

/* Plain steps of SGD: w + (-rate) dL/dw. */
INLINE int is_plain_sgd(const gradient_sink *sink) { return sink->use == UPDATE_PARAMETERS && sink->update->code == SGD && extras_of(sink->update) == PLAIN; }

/* What one thread needs beside: a line of ones and then zeros, and places for a panel of inputs, for a block of W^T, and
 * for what tiles compute. */
typedef struct {
    const real *constants;
    real *panel, *transposed, *tile;
    fetched_rows *fetched; /* or NULL */
    int is_dropped;        /* whether units were, on the way forward */
} backward_scratch;

/* What dropout has multiplied a layer's outputs by. */
INLINE real dropout_scale(const fastmlp_layer *layer, const backward_scratch *scratch) {
    return scratch->is_dropped && layer->dropout_from > 0 ? (real)layer->dropout_scale : 1;
}

/* Units of a panel that are packed together, a number that the rows of the common tiles divide. They are copied CHUNK at a
 * time. 12 in float64 under AVX2 would be 96 bytes, of which a tile reads half: 4 x 1024 -6 %. */
enum { GROUP = VECTOR_BYTES == 64 ? TILE_REGISTERS : 48 / sizeof(real), CHUNK = 4 };

/* Some units of every example as columns of GROUP units. A panel is read again for every column of the product, and
 * its lines lie pages apart. */
static void pack_panel(int64_t rows, int64_t units, const real *a, int64_t a_leading, real *panel) {
    const int64_t whole = units / GROUP * GROUP;
    for (int64_t i = 0; i < rows; i++, a += a_leading, panel += GROUP) {
        for (int64_t u = 0; u < whole; u += GROUP) __builtin_memcpy(panel + u * rows, a + u, GROUP * sizeof(real));
        real *rest = panel + whole * rows - whole;
        int64_t u = whole;
        for (; u + CHUNK <= units; u += CHUNK) __builtin_memcpy(rest + u, a + u, CHUNK * sizeof(real));
        for (; u < units; u++) rest[u] = a[u];
    }
}

/* dW of a panel of units, or db: a^T dz over the rows, stored, added, or used for the update at once. Numbers of a lie
 * a_stride apart from row to row, and a_unit from unit to unit whose number GROUP divides. */
static void dense_weight_gradient(int64_t rows, const fastmlp_layer *layer, range panel, const real *a, int64_t a_stride, int64_t a_unit, const real *dz, const backward_scratch *scratch, const gradient_sink *sink) {
    const int64_t leading = layer->leading, vectors = whole_vectors(layer->n_out), units = panel.to - panel.from;
    /* the product adds rate * gradient by itself, but for a rate of 0, which tells it to overwrite */
    const int is_added = is_plain_sgd(sink) && sink->update->rate != 0, is_direct = sink->use != UPDATE_PARAMETERS || is_added;
    const real scale = is_added ? -sink->update->rate : sink->use == ADD_GRADIENT;
    real *arena = is_added ? sink->parameters : sink->gradients;
    const int has_first = !is_direct && uses_first(sink->update->code), has_second = !is_direct && uses_second(sink->update->code);
    const int is_fetched = (1 + has_first + has_second) * layer->n_in * leading * (int64_t)sizeof(real) >= FETCHED_BYTES;
    for (int64_t j = 0, step; j < vectors; j += step) {
        const int64_t tile = next_tile_vectors(smaller(GROUP, units), layer->n_out - j * LANES);
        step = touched(tile);
        const int64_t at = layer->parameters + panel.from * leading + j * LANES;
        product p = {
            .a_stride = a_stride,
            .b = dz + j * LANES, .b_row = leading, .next = dz + (j + step) * LANES, .next_row = leading, .next_rows = rows,
            .c = is_direct ? arena + at : scratch->tile, .c_row = is_direct ? leading : step * LANES,
            .depth = rows, .scale = scale, .fetched = scratch->fetched,
        };
        column_rows ahead[5];
        if (is_fetched) { /* and last the rows of dz for the next column */
            int64_t n = 0;
            ahead[n++] = (column_rows){(is_direct ? arena : sink->parameters) + at, leading, units};
            if (has_first) ahead[n++] = (column_rows){sink->update->first + at, leading, units};
            if (has_second) ahead[n++] = (column_rows){sink->update->second + at, leading, units};
            ahead[n++] = (column_rows){p.next, leading, rows};
            ahead[n].rows = 0;
            p.then = ahead;
            fetch_then(&p);
        }
        for (int64_t u = 0; u < units; u += GROUP) {
            p.a = a + u * a_unit;
            multiply(COLUMNS_OF_A, smaller(GROUP, units - u), tile, &p);
        }
        if (!is_direct) update_rows(sink->update, panel.from < layer->n_in, units, step, scratch->tile, step * LANES, at, leading);
    }
}

/* packed[k][u] = parameters of unit u and output k of some units and outputs: a block of W^T, zero beyond the units. */
static void pack_transposed(int64_t units, int64_t outputs, int64_t vectors, const real *parameters, int64_t leading, real *packed) {
    const int64_t row = vectors * LANES;
    for (int64_t u = 0; u < row; u += LANES)
        for (int64_t k = 0; k < outputs; k += LANES)
            transpose_block(parameters + u * leading + k, leading, units - u, packed + k * row + u, row);
}

/* dL/da of a panel of the layer's input units; and through the activation below in place over its outputs a, or (without
 * `below`) into dx, rows of n_in. */
static void dense_input_gradient(int64_t all_rows, const fastmlp_layer *layer, const fastmlp_layer *below, range panel, const real *dz, const real *parameters, const backward_scratch *scratch, real *a, const real *factor, real *dx) {
    const int64_t units = panel.to - panel.from, vectors = whole_vectors(units), leading = layer->leading;
    const int64_t row_blocks = parts_of(all_rows, BLOCK_ROWS), depth_blocks = parts_of(layer->n_out, BLOCK_DEPTH);
    for (int64_t d = 0; d < depth_blocks; d++) {
        const range k = part_of(layer->n_out, depth_blocks, d, LANES);
        pack_transposed(units, k.to - k.from, vectors, parameters + panel.from * leading + k.from, leading, scratch->transposed);
        for (int64_t r = 0; r < row_blocks; r++) {
            const range row = part_of(all_rows, row_blocks, r, MAX_TILE_ROWS);
            const int64_t rows = row.to - row.from;
            real *gradients = scratch->tile + row.from * PANEL;
            for (int64_t j = 0, step; j < vectors; j += step) {
                const int64_t tile = next_tile_vectors(rows, units - j * LANES);
                step = touched(tile);
                real *c = gradients + j * LANES;
                multiply(ROWS_OF_A, rows, tile, &(product){
                    .a = dz + row.from * leading + k.from, .a_stride = leading,
                    .b = scratch->transposed + j * LANES, .b_row = vectors * LANES,
                    .start = d == 0 ? scratch->constants + LINE_LANES : c, .start_row = d == 0 ? 0 : PANEL,
                    .c = c, .c_row = PANEL, .depth = k.to - k.from, .next = dz, .fetched = scratch->fetched,
                });
            }
            if (d + 1 < depth_blocks) continue;
            if (below) {
                const int64_t at = row.from * below->leading + panel.from;
                if (factor) chain_rows_by_factor(rows, vectors, gradients, PANEL, factor + at, a + at, below->leading);
                else chain_rows(below->activation, dropout_scale(below, scratch), rows, vectors, gradients, PANEL, a + at, below->leading);
            } else
                for (int64_t i = 0; i < rows; i++)
                    __builtin_memcpy(dx + (row.from + i) * layer->n_in + panel.from, gradients + i * PANEL, (size_t)units * sizeof(real));
        }
    }
}

/* What a layer does backward for some of its input units: from dz over its outputs, the weights' gradients into the sink
 * and the input's gradient over the layer below (or into dx, or nowhere for the first layer of a training step). */
static void dense_backward(int64_t rows, const fastmlp_layer *layer, const fastmlp_layer *below, range mine, real *a, int64_t a_leading, const real *factor, const real *dz, real *dx, const backward_scratch *scratch, const gradient_sink *sink) {
    const int reaches_below = below || dx;
    /* both gradients come from what the other overwrites: the inputs, and with an update the weights */
    const int packs = layer->n_out > PACKED_COLUMNS || (reaches_below && sink->use == UPDATE_PARAMETERS);
    for (int64_t first = mine.from; first < mine.to; first += PANEL) {
        const range panel = {first, smaller(first + PANEL, mine.to)};
        if (packs) pack_panel(rows, panel.to - first, a + first, a_leading, scratch->panel);
        else dense_weight_gradient(rows, layer, panel, a + first, a_leading, 1, dz, scratch, sink);
        if (reaches_below) dense_input_gradient(rows, layer, below, panel, dz, sink->parameters + layer->parameters, scratch, a, factor, dx);
        if (packs) dense_weight_gradient(rows, layer, panel, scratch->panel, GROUP, rows, dz, scratch, sink);
    }
}

/* The bias is the weight of an input that is always 1. */
static void dense_bias_gradient(int64_t rows, const fastmlp_layer *layer, const real *dz, const backward_scratch *scratch, const gradient_sink *sink) {
    dense_weight_gradient(rows, layer, (range){layer->n_in, layer->n_in + 1}, scratch->constants, 0, 0, dz, scratch, sink);
}
