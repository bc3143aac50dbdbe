/* The one matrix product of the package: a tile of a few rows by a few vectors, summed in registers.
 *
 *     c[i][j] = start[i][j] + sum_k a[i][k] * b[k][j]
 *
 * Every output adds k = 0, 1, 2, ... with one multiply_add each, whatever the tile: results do not depend on how
 * the work is cut. `a` has general strides, `b` and `c` have rows of whole aligned vectors. */

typedef struct {
    const real *a;
    int64_t a_row, a_step; /* elements from row to row, and from k to k + 1 */
    const real *b;
    int64_t b_row;
    const real *start; /* one row for all (start_row 0) or a row each */
    int64_t start_row;
    real *c;
    int64_t c_row;
    int64_t depth;
    const real *next_b; /* what the next column of tiles will read: fetched while this one is computed */
    int64_t next_row;
} tile_operands;

/* 12 accumulators, 2-3 vectors of b and one of a fill 16 registers; AVX-512 has 32. */
#if VECTOR_BYTES == 64
enum { TILE_VECTORS = 3, TILE_REGISTERS = 24 };
#else
enum { TILE_VECTORS = 2, TILE_REGISTERS = 12 };
#endif
enum { MAX_TILE_VECTORS = 8, MAX_TILE_ROWS = 12, PREFETCH_ROWS = 8 };

INLINE void tile_multiply(const int rows, const int vectors, const tile_operands *t) {
    vector sum[MAX_TILE_ROWS][MAX_TILE_VECTORS];
    const real *restrict a = t->a;
    const real *restrict b = t->b;
    const real *ahead = t->next_b;
    const int64_t ahead_row = t->next_row;
    const int64_t a_row = t->a_row, a_step = t->a_step, b_row = t->b_row, depth = t->depth;
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) sum[i][j] = load(t->start + i * t->start_row + j * LANES);
/* twice unrolled: 5-8 % on wide nets where another process shares the core */
#pragma GCC unroll 2
    for (int64_t k = 0; k < depth; k++, a += a_step, b += b_row, ahead += ahead_row) {
        vector row[MAX_TILE_VECTORS];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) row[j] = load(b + j * LANES);
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j += LINE_VECTORS) __builtin_prefetch(ahead + j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            const vector broadcast = splat(a[i * a_row]);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) sum[i][j] = multiply_add(broadcast, row[j], sum[i][j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) store(t->c + i * t->c_row + j * LANES, sum[i][j]);
}

typedef void tile_function(const tile_operands *);
#define TILE(rows, vectors) \
    static void tile_##rows##x##vectors(const tile_operands *t) { tile_multiply(rows, vectors, t); }
/* every tile that fits the registers: [vectors][rows] */
#define TILES_OF_16_REGISTERS(T)                                                                         \
    T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1) T(7, 1) T(8, 1) T(9, 1) T(10, 1) T(11, 1) T(12, 1)   \
    T(1, 2) T(2, 2) T(3, 2) T(4, 2) T(5, 2) T(6, 2) T(1, 3) T(2, 3) T(3, 3) T(4, 3)                      \
    T(1, 4) T(2, 4) T(3, 4) T(1, 5) T(1, 6) T(1, 7) T(1, 8)
#define TILES_OF_32_REGISTERS(T)                                                                         \
    T(7, 2) T(8, 2) T(9, 2) T(10, 2) T(11, 2) T(12, 2) T(5, 3) T(6, 3) T(7, 3) T(8, 3)                   \
    T(4, 4) T(5, 4) T(6, 4) T(2, 5) T(3, 5) T(2, 6) T(3, 6) T(2, 7) T(3, 7) T(2, 8) T(3, 8)
#define ENTRY(rows, vectors) [vectors - 1][rows - 1] = tile_##rows##x##vectors,

TILES_OF_16_REGISTERS(TILE)
#if VECTOR_BYTES == 64
TILES_OF_32_REGISTERS(TILE)
#endif
static tile_function *const tiles[MAX_TILE_VECTORS][MAX_TILE_ROWS] = {
    TILES_OF_16_REGISTERS(ENTRY)
#if VECTOR_BYTES == 64
    TILES_OF_32_REGISTERS(ENTRY)
#endif
};

/* The most rows a tile of so many vectors may have. */
INLINE int64_t most_tile_rows(int64_t vectors) {
    if (vectors == 1) return 12;
    return TILE_REGISTERS / (vectors > 4 ? 8 : vectors);
}

/* How many of the vectors that are left the next column of tiles takes: few rows want wide tiles, since every
 * accumulator is a chain of dependent sums and a core needs 8 to 10 of them at once. */
INLINE int64_t next_tile_vectors(int64_t rows, int64_t left) {
    int64_t widest = TILE_VECTORS;
    while (widest < MAX_TILE_VECTORS && most_tile_rows(widest + 1) >= rows) widest++;
    if (left <= widest || left == 3) return left;
    return left == widest + 1 ? (left + 1) / 2 : widest; /* no single vector for last */
}

/* All rows of one column of tiles, split evenly. The first tile fetches the next column's b, whose lines lie pages apart
 * where no hardware looks for them; the others what they read themselves eight rows later. */
static void multiply_rows(int64_t rows, int64_t vectors, tile_operands t) {
    const int64_t count = (rows + most_tile_rows(vectors) - 1) / most_tile_rows(vectors);
    tile_function *const *const column = tiles[vectors - 1];
    const real *rows_ahead = t.b + PREFETCH_ROWS * t.b_row;
    for (int64_t i = 0; i < count; i++) {
        const int64_t tile_rows = rows * (i + 1) / count - rows * i / count;
        column[tile_rows - 1](&t);
        t.next_b = rows_ahead;
        t.next_row = t.b_row;
        t.a += tile_rows * t.a_row;
        t.start += tile_rows * t.start_row;
        t.c += tile_rows * t.c_row;
    }
}
