/* Dropout masks from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the mask of
 * a unit depends on (seed, step, layer, row, unit) alone, not on who computes it or when. */

static void philox4x32_10(uint64_t seed, const uint32_t counter[4], uint32_t words[4]) {
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        const uint64_t product0 = (uint64_t)0xD2511F53u * c0, product1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(product1 >> 32) ^ c1 ^ key0;
        c1 = (uint32_t)product1;
        c2 = (uint32_t)(product0 >> 32) ^ c3 ^ key1;
        c3 = (uint32_t)product0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

/* Drops units of the outputs a (and of their kept derivatives) of hidden layer `number`, counted from 1;
 * first_row is their place in the batch. */
static void drop_rows(uint64_t seed, int64_t step, int64_t number, const fastmlp_layer *layer, int64_t first_row, int64_t rows, real *a, real *factor) {
    for (int64_t i = 0; i < rows; i++) {
        real *output = a + i * layer->leading, *kept = factor + i * layer->leading;
        for (int64_t unit = 0; unit < layer->n_out; unit += 4) {
            const uint32_t counter[4] = {(uint32_t)(unit / 4), (uint32_t)(first_row + i), (uint32_t)number, (uint32_t)step};
            uint32_t words[4];
            philox4x32_10(seed, counter, words);
            for (int64_t j = 0; j < 4 && unit + j < layer->n_out; j++) {
                const real scale = (int64_t)words[j] >= layer->dropout_from ? (real)layer->dropout_scale : 0;
                output[unit + j] *= scale;
                kept[unit + j] *= scale;
            }
        }
    }
}
