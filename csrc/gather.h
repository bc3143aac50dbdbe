/* Examples as the kernels want them: rows of reals, gathered and converted block by block where they are not. */

INLINE int64_t example_row(const fastmlp_examples *e, int64_t i) { return e->order ? e->order[i] : i; }

/* Whether numbers are reals side by side. */
INLINE int is_own_type(int64_t type, int64_t column_stride) { return type == (REAL_BITS == 32 ? FLOAT32 : FLOAT64) && column_stride == sizeof(real); }

#define CONVERT(TYPE)                                                                       \
    for (int64_t j = 0; j < n; j++) to[j] = (real)*(const TYPE *)(from + j * column_stride); \
    return;

static void convert_long_row(real *restrict to, const char *from, int64_t column_stride, int64_t type, int64_t n) {
    if (is_own_type(type, column_stride)) {
        __builtin_memcpy(to, from, (size_t)n * sizeof(real));
        return;
    }
    switch (type) {
    case FLOAT32:
        if (column_stride == 4) { for (int64_t j = 0; j < n; j++) to[j] = (real)((const float *)from)[j]; return; }
        CONVERT(float)
    case FLOAT64:
        if (column_stride == 8) { for (int64_t j = 0; j < n; j++) to[j] = (real)((const double *)from)[j]; return; }
        CONVERT(double)
    default: CONVERT(int64_t)
    }
}
#undef CONVERT

/* Few numbers are copied sooner than a function is called or vectors are prepared: fits of 4-10-3 and 4-32-16-4 +1 to 3 %. */
enum { FEW_NUMBERS = 8 };
INLINE void convert_row(real *restrict to, const char *from, int64_t column_stride, int64_t type, int64_t n) {
    if (n >= FEW_NUMBERS || !is_own_type(type, column_stride)) convert_long_row(to, from, column_stride, type, n);
    else
        for (int64_t j = 0; j < n; j = opaque(j + 1)) to[j] = ((const real *)from)[j];
}

INLINE real convert_number(const char *from, int64_t type) {
    return type == FLOAT32 ? (real)*(const float *)from : type == FLOAT64 ? (real)*(const double *)from : (real)*(const int64_t *)from;
}

enum {
    CROWDED_STRIDE = 2048, /* rows so far apart share a few sets of the cache */
    EXAMPLES_AHEAD = 8,    /* shuffled rows come from anywhere: their first lines are fetched so early */
    PAGES_AHEAD = 4,       /* long rows that are fetched for a step to come: each has pages of its own, which take 0.1 us to find */
    LONG_ROW = 512,        /* bytes */
};

/* Fetches where an example begins, and its target. */
INLINE void fetch_example(const fastmlp_examples *e, int64_t row) {
    __builtin_prefetch(e->x + row * e->x_row);
    __builtin_prefetch(e->x + row * e->x_row + 64);
    __builtin_prefetch(e->y + row * e->y_row);
}

/* The examples of a step to come, fetched into the second cache a few lines at a time while the tiles of this one are computed:
 * a step of 131-67-53-3 on rows out of 14 MB took 84 us, on rows in the cache 73; so it takes 76. */
typedef struct {
    const fastmlp_examples *examples;
    int64_t next, to;         /* examples */
    int64_t place, row_bytes; /* in the row of the next one */
} fetched_rows;

enum { LEAST_FETCHED = 2048, MOST_FETCHED = 1 << 18 }; /* bytes of a step: less is there at once, more would push out the weights */

INLINE void fetch_lines(fetched_rows *f, int64_t lines) {
    const fastmlp_examples *e = f->examples;
    while (lines > 0 && f->next < f->to) {
        const int64_t row = example_row(e, f->next);
        if (f->place == 0) {
            __builtin_prefetch(e->y + row * e->y_row, 0, 2);
            if (e->order && f->row_bytes >= LONG_ROW && f->next + PAGES_AHEAD < f->to) {
                const char *x = e->x + e->order[f->next + PAGES_AHEAD] * e->x_row;
                __builtin_prefetch(x, 0, 2);
                __builtin_prefetch(x + f->row_bytes - 1, 0, 2);
            }
        }
        for (; lines > 0 && f->place < f->row_bytes; f->place += 64, lines--) __builtin_prefetch(e->x + row * e->x_row + f->place, 0, 2);
        if (f->place < f->row_bytes) return;
        f->next++;
        f->place = 0;
    }
}

/* The inputs of a block that begins with example `first`: where they are, if the tile can read them there and reads them
 * well, else in `buffer`, to which the rows of `mine` are brought. */
static const real *input_rows(const fastmlp_examples *e, int64_t first, int64_t block_rows, range mine, int64_t n_features, real *buffer, int64_t *leading) {
    if (!e->order && is_own_type(e->x_type, e->x_column) && e->x_row >= 0 &&
        (e->x_row % CROWDED_STRIDE != 0 || block_rows < 8)) {
        *leading = e->x_row / (int64_t)sizeof(real);
        return (const real *)(e->x + first * e->x_row);
    }
    for (int64_t i = mine.from; i < mine.to; i++) {
        if (e->order && i + EXAMPLES_AHEAD < mine.to) fetch_example(e, e->order[first + i + EXAMPLES_AHEAD]);
        convert_row(buffer + i * *leading, e->x + example_row(e, first + i) * e->x_row, e->x_column, e->x_type, n_features);
    }
    return buffer;
}
