/* The one matrix product of the package: a tile of a few rows by a few vectors, summed in registers.
 *
 *     sum[i][j] = start[i][j] + sum_k a[i][k] * b[k][j],  and then  c = sum  or  c += scale * sum
 *
 * Every output adds k = 0, 1, 2, ... with one multiply_add each, whatever the tile: results do not depend on how the work
 * is cut. `b` and `c` have rows of whole aligned vectors. Of `a` one stride is 1: from k to k + 1 where rows of it are
 * multiplied (forward, and the input's gradient), from row to row where columns are (the weights' gradient). */

/* Rows of a column of tiles; a list of them ends with one that has none. */
typedef struct {
    const real *start;
    int64_t row, rows;
} column_rows;

typedef struct {
    const real *a;
    int64_t a_stride; /* elements from row to row; of columns from k to k + 1 */
    const real *b;
    int64_t b_row;
    const real *start; /* for rows of a; columns start from +0. One row for all (start_row 0) or a row each */
    int64_t start_row;
    real *c;
    int64_t c_row;
    int64_t depth;
    real scale; /* 0: c is overwritten */
    const real *next; /* what will be read soon: fetched while this is computed, a row with every four k */
    int64_t next_row, next_rows;
    const column_rows *then; /* and what after that; or NULL */
    fetched_rows *fetched; /* a line of them with every four k, too; or NULL */
} product;

/* 12 accumulators, 2-3 vectors of b and one of a fill 16 registers; AVX-512 has 32. */
#if VECTOR_BYTES == 64
enum { TILE_VECTORS = 3, TILE_REGISTERS = 24, LAST = 2 };
#else
enum { TILE_VECTORS = 2, TILE_REGISTERS = 12, LAST = 1 };
#endif
/* HALF of a vector: half the time for a column of so few outputs, where vectors of 64 bytes take two cycles. */
enum { HALF = 0, MAX_TILE_VECTORS = 8, MAX_TILE_ROWS = 12, UNROLLED = 4, POINTER_ROWS = 3, MAX_POINTERS = MAX_TILE_ROWS / POINTER_ROWS };

typedef enum { ROWS_OF_A, COLUMNS_OF_A } tile_kind;

/* Vectors that are loaded and stored for it. */
INLINE int64_t touched(int64_t vectors) { return vectors == HALF ? 1 : vectors; }

/* Where the tile is in a and b: pointers to some k, and one and three strides in bytes. */
typedef struct {
    const real *a[MAX_POINTERS], *b;
    int64_t a_bytes, a_thrice, b_bytes, b_thrice;
} tile_places;

INLINE place strides_on(const real *from, int64_t bytes, int64_t thrice, const int strides, const int on) {
    return strides == 3 ? (place){from, thrice, 1, on} : (place){from, bytes, strides, on};
}

/* Row i's number of a, at `k` further: of columns there is one pointer, of rows one for the first of every three. */
INLINE place tile_a(const tile_kind kind, const int i, const int k, const tile_places *at) {
    if (kind == COLUMNS_OF_A) return strides_on(at->a[0], at->a_bytes, at->a_thrice, k, i);
    return (place){at->a[i / POINTER_ROWS], at->a_bytes, i % POINTER_ROWS, k};
}

/* Vector j of b, at `k` further. */
INLINE place tile_b(const int j, const int k, const tile_places *at) {
    return strides_on(at->b, at->b_bytes, at->b_thrice, k, j * LANES);
}

INLINE void tile_load(const int vectors, const int k, const tile_places *at, vector row[]) {
    UNROLL
    for (int j = 0; j < touched(vectors); j++) row[j] = vectors == HALF ? load_half_at(tile_b(j, k, at)) : load_at(tile_b(j, k, at));
}

/* One row's sums at one k. */
INLINE void tile_row(const int vectors, const place x, const vector row[], vector sum[]) {
    if (vectors <= 1) {
        if (vectors == HALF) accumulate_spread_in_half(&sum[0], x, row[0]);
        else accumulate_spread(&sum[0], x, row[0]);
        return;
    }
    const vector spread = splat_at(x);
    UNROLL
    for (int j = 0; j < vectors; j++) accumulate(&sum[j], spread, row[j]);
}

/* The same with b left in memory. */
INLINE void tile_row_from(const tile_kind kind, const int i, const int vectors, const int k, const tile_places *at, vector sum[]) {
    const vector spread = splat_at(tile_a(kind, i, k, at));
    UNROLL
    for (int j = 0; j < vectors; j++) accumulate_from_place(&sum[j], spread, tile_b(j, k, at));
}

/* One k, `k` further than the pointers are. Of a and b the smaller side stays in registers while the other streams by. */
INLINE void tile_step(const tile_kind kind, const int rows, const int vectors, const int k, const tile_places *at, vector sum[][MAX_TILE_VECTORS]) {
    if (rows == 1 && vectors > 1) {
        tile_row_from(kind, 0, vectors, k, at, sum[0]);
        return;
    }
    if (rows < vectors) {
        vector spread[MAX_TILE_ROWS];
        UNROLL
        for (int i = 0; i < rows; i++) spread[i] = splat_at(tile_a(kind, i, k, at));
        UNROLL
        for (int j = 0; j < vectors; j++) {
            const vector row = load_at(tile_b(j, k, at));
            UNROLL
            for (int i = 0; i < rows; i++) accumulate(&sum[i][j], spread[i], row);
        }
        return;
    }
    vector row[MAX_TILE_VECTORS];
    tile_load(vectors, k, at, row);
    UNROLL
    for (int i = 0; i < rows; i++) tile_row(vectors, tile_a(kind, i, k, at), row, sum[i]);
}

/* So many k on. Opaque, or gcc works out beforehand where the loop will end. */
INLINE void tile_advance(const tile_kind kind, const int pointers, const int steps, tile_places *at) {
    UNROLL
    for (int i = 0; i < pointers; i++) at->a[i] = opaque_pointer(kind == COLUMNS_OF_A ? moved(at->a[i], steps * at->a_bytes) : at->a[i] + steps);
    at->b = opaque_pointer(moved(at->b, steps * at->b_bytes));
}

INLINE void tile_store(const int is_added, const int vectors, vector scale, const vector sum[], real *c) {
    UNROLL
    for (int j = 0; j < touched(vectors); j++) store(c + j * LANES, is_added ? multiply_add(scale, sum[j], load(c + j * LANES)) : sum[j]);
}

/* The last k's go row by row, and each row is stored while the next is summed: all stores at the end would keep the
 * multipliers waiting. Of a tile 64 deep that takes 3 % of the time, of one 16 deep 11 %. */
INLINE void tile_finish(const tile_kind kind, const int is_added, const int rows, const int vectors, const tile_places *at, vector sum[][MAX_TILE_VECTORS], const product *p) {
    const vector scale = splat(p->scale);
    vector row[LAST][MAX_TILE_VECTORS];
    real *c = p->c;
    if (rows >= vectors) {
        UNROLL
        for (int k = 0; k < LAST; k++) tile_load(vectors, k, at, row[k]);
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int k = 0; k < LAST; k++) {
            if (rows >= vectors) tile_row(vectors, tile_a(kind, i, k, at), row[k], sum[i]);
            else tile_row_from(kind, i, vectors, k, at, sum[i]);
        }
        if (i == 0) continue;
        tile_store(is_added, vectors, scale, sum[i - 1], c);
        c = (real *)opaque_pointer(c + p->c_row);
    }
    tile_store(is_added, vectors, scale, sum[rows - 1], c);
}

/* Where the processor is shared, each instruction costs: 25 a step ran at 78 GFLOP/s, 21 at 88. So the places of four k
 * are a pointer and 0, 1, 2 or 3 strides, which an instruction can add by itself, and rows go three to a pointer. */
INLINE void tile_multiply(const tile_kind kind, const int rows, const int vectors, const product *p) {
    const int pointers = kind == COLUMNS_OF_A ? 1 : (rows + POINTER_ROWS - 1) / POINTER_ROWS;
    tile_places at = {.a = {p->a}, .b = p->b, .a_bytes = p->a_stride * (int64_t)sizeof(real), .b_bytes = p->b_row * (int64_t)sizeof(real)};
    at.a_thrice = opaque(3 * at.a_bytes), at.b_thrice = opaque(3 * at.b_bytes);
    UNROLL
    for (int i = 1; i < pointers; i++) at.a[i] = opaque_pointer(moved(at.a[i - 1], at.a_thrice));
    vector sum[MAX_TILE_ROWS][MAX_TILE_VECTORS];
    const real *start = p->start;
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < touched(vectors); j++) sum[i][j] = kind == COLUMNS_OF_A ? splat(0) : load(start + j * LANES);
        if (kind == ROWS_OF_A && i < rows - 1) start = opaque_pointer(start + p->start_row);
    }
    const real *next = p->next;
    int64_t left = p->depth;
    for (; left >= 2 * UNROLLED; left -= UNROLLED) {
        UNROLL
        for (int k = 0; k < UNROLLED; k++) tile_step(kind, rows, vectors, k, &at, sum);
        tile_advance(kind, pointers, UNROLLED, &at);
        UNROLL
        for (int j = 0; j < touched(vectors); j += LINE_VECTORS) __builtin_prefetch(next + j * LANES);
        next = opaque_pointer(next + p->next_row);
    }
    const int is_added = kind == COLUMNS_OF_A && p->scale != 0;
    const int64_t last = left < LAST ? 0 : LAST;
    ROLLED
    for (; left > last; left--) {
        tile_step(kind, rows, vectors, 0, &at, sum);
        tile_advance(kind, pointers, 1, &at);
    }
    if (last == 0) {
        UNROLL
        for (int i = 0; i < rows; i++) tile_store(is_added, vectors, splat(p->scale), sum[i], p->c + i * p->c_row);
    } else if (is_added)
        tile_finish(kind, 1, rows, vectors, &at, sum, p);
    else
        tile_finish(kind, 0, rows, vectors, &at, sum, p);
}

typedef void tile_function(const product *);
#define TILE(rows, vectors)                                                                                             \
    static void tile_rows_##rows##x##vectors(const product *p) { tile_multiply(ROWS_OF_A, rows, vectors, p); }          \
    static void tile_columns_##rows##x##vectors(const product *p) { tile_multiply(COLUMNS_OF_A, rows, vectors, p); }
/* every tile that fits the registers */
#define TILES_OF_16_REGISTERS(T)                                                                         \
    T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1) T(7, 1) T(8, 1) T(9, 1) T(10, 1) T(11, 1) T(12, 1)   \
    T(1, 2) T(2, 2) T(3, 2) T(4, 2) T(5, 2) T(6, 2) T(1, 3) T(2, 3) T(3, 3) T(4, 3)                      \
    T(1, 4) T(2, 4) T(3, 4) T(1, 5) T(1, 6) T(1, 7) T(1, 8)
#define TILES_OF_32_REGISTERS(T)                                                                         \
    T(1, 0) T(2, 0) T(3, 0) T(4, 0) T(5, 0) T(6, 0) T(7, 0) T(8, 0) T(9, 0) T(10, 0) T(11, 0) T(12, 0)   \
    T(7, 2) T(8, 2) T(9, 2) T(10, 2) T(11, 2) T(12, 2) T(5, 3) T(6, 3) T(7, 3) T(8, 3)                   \
    T(4, 4) T(5, 4) T(6, 4) T(2, 5) T(3, 5) T(2, 6) T(3, 6) T(2, 7) T(3, 7) T(2, 8) T(3, 8)
#define ENTRY(rows, vectors)                                          \
    [ROWS_OF_A][vectors][rows - 1] = tile_rows_##rows##x##vectors, \
    [COLUMNS_OF_A][vectors][rows - 1] = tile_columns_##rows##x##vectors,

TILES_OF_16_REGISTERS(TILE)
#if VECTOR_BYTES == 64
TILES_OF_32_REGISTERS(TILE)
#endif
static tile_function *const tiles[2][1 + MAX_TILE_VECTORS][MAX_TILE_ROWS] = {
    TILES_OF_16_REGISTERS(ENTRY)
#if VECTOR_BYTES == 64
    TILES_OF_32_REGISTERS(ENTRY)
#endif
};

/* The most rows a tile of so many vectors may have. */
INLINE int64_t most_tile_rows(int64_t vectors) {
    return vectors <= 1 ? 12 : vectors == 2 ? TILE_REGISTERS / 2 : vectors == 3 ? TILE_REGISTERS / 3 : vectors == 4 ? TILE_REGISTERS / 4 : TILE_REGISTERS / 8;
}

/* How many vectors the next column of tiles takes, or HALF, where so many outputs are left. Few rows want wide tiles,
 * since every accumulator is a chain of dependent sums and a core needs 8 to 10 of them at once. */
INLINE int64_t next_tile_vectors(int64_t rows, int64_t outputs) {
    const int64_t vectors = whole_vectors(outputs);
    const int ends_in_half = VECTOR_BYTES == 64 && outputs <= vectors * LANES - LANES / 2;
    if (ends_in_half && vectors == 1) return HALF;
    const int64_t left = ends_in_half && rows >= MAX_TILE_ROWS ? vectors - 1 : vectors;
    int64_t widest = TILE_VECTORS;
    while (widest < MAX_TILE_VECTORS && most_tile_rows(widest + 1) >= rows) widest++;
    if (left <= widest || left == 3) return left;
    return left == widest + 1 ? (left + 1) / 2 : widest; /* no single vector for last */
}

/* The next rows of the list are fetched from now on; where there are none, a line again and again. */
static void fetch_then(product *p) {
    p->next_row = 0;
    if (p->then->rows == 0) return;
    p->next = p->then->start, p->next_row = p->then->row, p->next_rows = p->then->rows;
    p->then++;
}

/* All rows of one column of tiles of some vectors, or HALF, the last two of one height. Moves the product on by them. */
static void multiply(tile_kind kind, int64_t rows, int64_t vectors, product *p) {
    const int64_t most = most_tile_rows(vectors), fetched = p->depth / UNROLLED;
    const int reads_c = p->scale != 0 || p->start_row != 0;
    tile_function *const *const column = tiles[kind][vectors];
    for (int64_t tile_rows; rows > 0; rows -= tile_rows) {
        tile_rows = rows <= most ? rows : rows < 2 * most ? (rows + 1) / 2 : most;
        if (reads_c)
            for (int64_t r = 0; r < tile_rows; r++) __builtin_prefetch(p->c + (tile_rows + r) * p->c_row);
        if (p->fetched) fetch_lines(p->fetched, fetched);
        column[tile_rows - 1](p);
        p->a += kind == COLUMNS_OF_A ? tile_rows : tile_rows * p->a_stride;
        p->start += tile_rows * p->start_row;
        p->c += tile_rows * p->c_row;
        p->next += fetched * p->next_row;
        p->next_rows -= fetched;
        if (p->next_rows > 0) continue;
        if (p->then) fetch_then(p);
        else p->next_row = 0;
    }
}
