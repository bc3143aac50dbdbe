/* Dropout masks from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the mask of
 * a unit depends on (seed, step, layer, row, unit) alone, not on who computes it or when. */

/* The 128 bits of a counter are for so many units of a row, 16 for each: with 32 for each, dropout cost a step of 64-100-10 half as
 * much again. Counters at a time, one in every lane of 64 bits; their units; and vectors side by side, since every round waits
 * for the one before it: a step of 64-100-10 +2.5 %, under AVX2 +5 %. */
enum { COUNTER_UNITS = 8, COUNTERS = WIDE_LANES, DRAWN = COUNTER_UNITS * COUNTERS, DRAWN_ROWS = 3 };

/* Places of the counters in even and odd lanes, so that their bits come out in order. */
static const uint64_t counter_places[8] __attribute__((aligned(64))) =
#if VECTOR_BYTES == 16
    {0, 1};
#elif VECTOR_BYTES == 32
    {0, 2, 1, 3};
#else
    {0, 4, 1, 5, 2, 6, 3, 7};
#endif

INLINE wide_vector wide(uint32_t word) { return word - (wide_vector){0}; }

/* The bits of DRAWN units, a vector's at a time. */
typedef union {
    wide_vector words[2];
    short_vector units[DRAWN / LANES];
} drawn_bits;

/* The counters of DRAWN units of a row, from unit `first`, a multiple of COUNTER_UNITS, on. */
INLINE wide_vector counters_from(int64_t first) { return *(const wide_vector *)counter_places + wide((uint32_t)(first / COUNTER_UNITS)); }

/* What DRAWN units are multiplied by: of every lane a counter in a row, and again so many rows further, DRAWN_ROWS times. Upper
 * halves of lanes are anything until the words are put together. */
INLINE void draw_scales(uint64_t seed, int64_t step, int64_t number, const fastmlp_layer *layer, wide_vector counter, wide_vector row, int64_t rows_further, vector scales[DRAWN_ROWS][DRAWN / LANES]) {
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    wide_vector c0[DRAWN_ROWS], c1[DRAWN_ROWS], c2[DRAWN_ROWS], c3[DRAWN_ROWS];
    UNROLL
    for (int i = 0; i < DRAWN_ROWS; i++) {
        c0[i] = counter, c1[i] = row + wide((uint32_t)(i * rows_further)), c2[i] = wide((uint32_t)number), c3[i] = wide((uint32_t)step);
    }
    UNROLL
    for (int round = 0; round < 10; round++) {
        UNROLL
        for (int i = 0; i < DRAWN_ROWS; i++) {
            const wide_vector product0 = multiply_low_halves(wide(0xD2511F53), c0[i]), product1 = multiply_low_halves(wide(0xCD9E8D57), c2[i]);
            c0[i] = (product1 >> 32) ^ c1[i] ^ wide(key0);
            c1[i] = product1;
            c2[i] = (product0 >> 32) ^ c3[i] ^ wide(key1);
            c3[i] = product0;
        }
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    const ivector from = (integer)layer->dropout_from - (ivector){0};
    const ivector scale = bits_of(splat((real)layer->dropout_scale));
    UNROLL
    for (int i = 0; i < DRAWN_ROWS; i++) {
        const wide_vector words01 = (c0[i] & UINT32_MAX) | c1[i] << 32, words23 = (c2[i] & UINT32_MAX) | c3[i] << 32;
        const drawn_bits drawn = {{even_pairs(words01, words23), odd_pairs(words01, words23)}};
        UNROLL
        for (int j = 0; j < DRAWN / LANES; j++) scales[i][j] = from_bits((widened(drawn.units[j]) >= from) & scale);
    }
}

/* A vector of outputs, and of their derivatives where these are kept, by a vector of scales. */
INLINE void drop_vector(vector scale, int64_t at, real *a, real *factor) {
    store(a + at, load(a + at) * scale);
    if (factor) store(factor + at, load(factor + at) * scale);
}

/* The last units of every row, from `first` on, so few that the counters of some rows fill a vector: of 100 units 4. */
static void drop_last_units(uint64_t seed, int64_t step, int64_t number, const fastmlp_layer *layer, int64_t first, int64_t first_row, int64_t rows, real *a, real *factor) {
    const int64_t left = layer->n_out - first, counters = (left + COUNTER_UNITS - 1) / COUNTER_UNITS, together = COUNTERS / counters;
    uint64_t counter[COUNTERS] __attribute__((aligned(64))), row[COUNTERS] __attribute__((aligned(64)));
    for (int64_t lane = 0; lane < COUNTERS; lane++) {
        const int64_t place = (int64_t)counter_places[lane];
        counter[lane] = (uint64_t)(first / COUNTER_UNITS + place % counters), row[lane] = (uint64_t)(first_row + place / counters);
    }
    for (int64_t i = 0; i < rows; i += DRAWN_ROWS * together) {
        vector scales[DRAWN_ROWS][DRAWN / LANES];
        draw_scales(seed, step, number, layer, *(const wide_vector *)counter, *(const wide_vector *)row + wide((uint32_t)i), together, scales);
        real drawn[DRAWN_ROWS * DRAWN + LANES] __attribute__((aligned(64)));
        __builtin_memcpy(drawn, scales, sizeof scales);
        store(drawn + DRAWN_ROWS * DRAWN, splat(0)); /* for the padding of the last row, which must stay finite */
        for (int64_t d = 0, r = i; d < DRAWN_ROWS * DRAWN; d += DRAWN)
            for (int64_t k = 0; k < together && r < rows; k++, r++)
                for (int64_t j = 0; j < left; j += LANES)
                    drop_vector(load_loose(drawn + d + COUNTER_UNITS * k * counters + j), r * layer->leading + first + j, a, factor);
    }
}

/* Drops units of the outputs a (and of their derivatives, where these are kept) of hidden layer `number`, counted from 1;
 * first_row is their place in the batch. */
static void drop_rows(uint64_t seed, int64_t step, int64_t number, const fastmlp_layer *layer, int64_t first_row, int64_t rows, real *a, real *factor) {
    const int64_t rest = layer->n_out % DRAWN, alone = rest > DRAWN / 2 ? layer->n_out : layer->n_out - rest;
    for (int64_t i = 0; i < rows; i += DRAWN_ROWS)
        for (int64_t first = 0; first < alone; first += DRAWN) {
            vector scales[DRAWN_ROWS][DRAWN / LANES];
            draw_scales(seed, step, number, layer, counters_from(first), wide((uint32_t)(first_row + i)), 1, scales);
            UNROLL
            for (int r = 0; r < DRAWN_ROWS; r++) {
                if (i + r >= rows) break;
                UNROLL
                for (int j = 0; j < DRAWN / LANES; j++) {
                    if (first + j * LANES >= layer->n_out) break;
                    drop_vector(scales[r][j], (i + r) * layer->leading + first + j * LANES, a, factor);
                }
            }
        }
    if (alone < layer->n_out) drop_last_units(seed, step, number, layer, alone, first_row, rows, a, factor);
}
