/* Dropout masks from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the mask of
 * a unit depends on (seed, step, layer, row, unit) alone, not on who computes it or when. */

/* Counters at a time, one in every lane of 64 bits, and the units that get a word of theirs each. */
enum { QUADS = WIDE_LANES, DRAWN = 4 * QUADS };

/* Places of the quads in even and odd lanes, so that their words come out in order. */
static const uint64_t quad_places[8] __attribute__((aligned(64))) =
#if VECTOR_BYTES == 16
    {0, 1};
#elif VECTOR_BYTES == 32
    {0, 2, 1, 3};
#else
    {0, 4, 1, 5, 2, 6, 3, 7};
#endif

INLINE wide_vector wide(uint32_t word) { return word - (wide_vector){0}; }

/* Vector i of the words in two vectors, as naturals of the reals' size. */
INLINE nvector naturals_of(const wide_vector words[2], int i) {
#if REAL_BITS == 32
    return (nvector)words[i];
#else
    typedef uint32_t narrow_vector __attribute__((vector_size(VECTOR_BYTES / 2)));
    union {
        wide_vector whole;
        narrow_vector half[2];
    } part = {words[i / 2]};
    return __builtin_convertvector(part.half[i % 2], nvector);
#endif
}

/* What DRAWN units of a row, from unit `first`, a multiple of 4, on, are multiplied by. Upper halves of lanes are anything until
 * the words are put together. A unit takes 0.7 ns; with one counter after the other it took 5.9. */
INLINE void draw_scales(uint64_t seed, int64_t step, int64_t number, const fastmlp_layer *layer, int64_t row, int64_t first, vector scales[DRAWN / LANES]) {
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    wide_vector c0 = *(const wide_vector *)quad_places + wide((uint32_t)(first / 4));
    wide_vector c1 = wide((uint32_t)row), c2 = wide((uint32_t)number), c3 = wide((uint32_t)step);
    UNROLL
    for (int round = 0; round < 10; round++) {
        const wide_vector product0 = multiply_low_halves(wide(0xD2511F53), c0), product1 = multiply_low_halves(wide(0xCD9E8D57), c2);
        c0 = (product1 >> 32) ^ c1 ^ wide(key0);
        c1 = product1;
        c2 = (product0 >> 32) ^ c3 ^ wide(key1);
        c3 = product0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    const wide_vector words01 = (c0 & UINT32_MAX) | c1 << 32, words23 = (c2 & UINT32_MAX) | c3 << 32;
    const wide_vector words[2] = {even_pairs(words01, words23), odd_pairs(words01, words23)};
    const nvector from = (natural)layer->dropout_from - (nvector){0};
    const ivector scale = bits_of(splat((real)layer->dropout_scale));
    UNROLL
    for (int i = 0; i < DRAWN / LANES; i++) scales[i] = from_bits((ivector)(naturals_of(words, i) >= from) & scale);
}

/* Drops units of the outputs a (and of their kept derivatives) of hidden layer `number`, counted from 1;
 * first_row is their place in the batch. */
static void drop_rows(uint64_t seed, int64_t step, int64_t number, const fastmlp_layer *layer, int64_t first_row, int64_t rows, real *a, real *factor) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t first = 0; first < layer->n_out; first += DRAWN) {
            vector scales[DRAWN / LANES];
            draw_scales(seed, step, number, layer, first_row + i, first, scales);
            UNROLL
            for (int j = 0; j < DRAWN / LANES; j++) {
                if (first + j * LANES >= layer->n_out) break;
                const int64_t at = i * layer->leading + first + j * LANES;
                store(a + at, load(a + at) * scales[j]);
                store(factor + at, load(factor + at) * scales[j]);
            }
        }
}
