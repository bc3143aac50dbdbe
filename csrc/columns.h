/* Rows side by side, one in every lane: column j has element j of all of them. So go the members of an ensemble, and the rows
 * of nets with few outputs: sums and maxima along a row, which across the lanes of a vector take most of a softmax's time, are
 * sums and maxima of vectors here. The bits are those of a row by itself. */

/* Sums over the outputs of a row: a line, then a tree. */

typedef struct {
    vector part[LINE_LANES];
} lane_line;

/* How many parts of a line matter to n elements of a row: all that the tree reads. */
INLINE int64_t lane_line_parts(int64_t n) {
    int64_t parts = LINE_LANES;
    while (parts / 2 >= n) parts /= 2;
    return parts;
}

/* One by one: of all parts at once gcc makes a `rep stos`, which took half of the time of 4 outputs' squared errors. */
INLINE void clear_lane_line(lane_line *l, int64_t n) {
    const int64_t parts = lane_line_parts(n);
    for (int64_t i = 0; i < parts; i = opaque(i + 1)) l->part[i] = splat(0);
}

/* The sum of what n elements of a row left in a line; parts that none of them reached are zero. */
INLINE vector lane_line_sum(lane_line *l, int64_t n) {
    for (int64_t parts = lane_line_parts(n) / 2; parts > 0; parts /= 2)
        for (int64_t i = 0; i < parts; i++) l->part[i] += l->part[i + parts];
    return l->part[0];
}

/* exp(z - max z) in place; their sum, and the maximum. */
static vector lane_exponentials(real *z, int64_t n, vector *largest) {
    vector most = load(z);
    for (int64_t j = 1; j < n; j++) {
        const vector x = load(z + j * LANES);
        most = choose(x > most, x, most);
    }
    lane_line sum;
    clear_lane_line(&sum, n);
    for (int64_t j = 0; j < n; j++) {
        const vector e = exponential(load(z + j * LANES) - most);
        store(z + j * LANES, e);
        sum.part[j % LINE_LANES] += e;
    }
    *largest = most;
    return lane_line_sum(&sum, n);
}

static vector cross_entropy_of_classes(real *z, ivector label, int64_t n, int with_gradient, vector scale) {
    vector logit = splat(0), largest;
    for (int64_t j = 0; j < n; j++) logit = choose(label == (integer)j - (ivector){0}, load(z + j * LANES), logit);
    const vector sum = lane_exponentials(z, n, &largest), one = splat(1);
    for (int64_t j = 0; with_gradient && j < n; j++) {
        const vector p = load(z + j * LANES) / sum;
        store(z + j * LANES, choose(label == (integer)j - (ivector){0}, p - one, p) * scale);
    }
    return multiply_add(logarithm(sum), one, -(logit - largest));
}

static vector cross_entropy_of_rows(real *z, const real *y, int64_t n, int with_gradient, vector scale, real *shifted) {
    vector largest;
    __builtin_memcpy(shifted, z, (size_t)(n * LANES) * sizeof(real));
    const vector sum = lane_exponentials(z, n, &largest), zero = splat(0);
    lane_line weight, gap;
    clear_lane_line(&weight, n);
    clear_lane_line(&gap, n);
    for (int64_t j = 0; j < n; j++) {
        const vector target = load(y + j * LANES), d = load(shifted + j * LANES) - largest;
        vector *g = gap.part + j % LINE_LANES;
        weight.part[j % LINE_LANES] += target;
        *g = choose(target == zero, *g, multiply_add(target, d, *g));
    }
    const vector total = lane_line_sum(&weight, n);
    for (int64_t j = 0; with_gradient && j < n; j++)
        store(z + j * LANES, (load(z + j * LANES) / sum * total - load(y + j * LANES)) * scale);
    return multiply_add(logarithm(sum), total, -lane_line_sum(&gap, n));
}

/* Rows of few outputs are brought into columns: with 4 a row by itself takes 75 cycles, and so 25. Fewer rows than there are
 * lanes stay as they are. */
enum { MOST_COLUMNS = 32 };
INLINE int fit_columns(int64_t rows, int64_t n) { return rows >= LANES && n <= MOST_COLUMNS; }

typedef struct {
    real column[MOST_COLUMNS][LANES] __attribute__((aligned(64)));
} columns;

/* The first columns of LANES rows. */
INLINE void store_columns(vector rows[LANES], const int columns, real *to) {
    transpose_lanes(rows);
    UNROLL
    for (int j = 0; j < columns; j++) store(to + j * LANES, rows[j]);
}

/* At least n of them: few need few zips, 20 for 4 of 16 rows where all need 64. */
INLINE void store_some_columns(vector rows[LANES], int64_t n, real *to) {
    if (n <= LANES / 4) store_columns(rows, LANES / 4, to);
    else if (n <= LANES / 2) store_columns(rows, LANES / 2, to);
    else store_columns(rows, LANES, to);
}

static void rows_to_columns(const real *z, int64_t leading, int64_t n, columns *c) {
    for (int64_t j = 0; j < n; j += LANES) {
        vector rows[LANES];
        UNROLL
        for (int i = 0; i < LANES; i++) rows[i] = load(z + i * leading + j);
        store_some_columns(rows, n - j, c->column[j]);
    }
}

static void columns_to_rows(const columns *c, int64_t n, real *z, int64_t leading) {
    for (int64_t j = 0; j < n; j += LANES) transpose_block(c->column[j], LANES, n - j, z + j, leading);
}
