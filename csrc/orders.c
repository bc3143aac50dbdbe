/* The orders that examples go in, number by number as NumPy draws them: Generator.permutation with PCG64, in a third of its
 * time, and RandomState.shuffle, in half of it; without Python's lock.
 *
 * PCG64 is PCG XSL RR 128/64 (O'Neill, "PCG: a family of simple fast space-efficient statistically good algorithms for
 * random number generation", 2014); the shuffle is Durstenfeld's, each place drawn by masking until it is in range. */
#include "calls.h"
#include <string.h>

enum { PLACES = 512 }; /* drawn before any is used: the loop that draws has no branch to be guessed wrong */

/* As many ones as a number has bits. */
static int64_t ones_for(int64_t number) {
    int64_t mask = 1;
    while (mask < number) mask = 2 * mask + 1;
    return mask;
}

/* How many places come next, from `top` downwards: as long as they have as many bits. */
static int64_t next_places(int64_t top, int64_t *mask) {
    while (*mask >> 1 >= top) *mask >>= 1;
    const int64_t alike = top - (*mask >> 1);
    return alike < PLACES ? alike : PLACES;
}

/* Element top - t changes places with one of those up to it. */
static void change_places(int64_t *order, int64_t top, const int64_t *places, int64_t count) {
    for (int64_t t = 0; t < count; t++) {
        const int64_t moved = order[top - t];
        order[top - t] = order[places[t]];
        order[places[t]] = moved;
    }
}

void fastmlp_shuffle_orders(int64_t next_uint32, int64_t state, int64_t n, int64_t count, int64_t orders) {
    uint32_t (*next)(void *) = (uint32_t(*)(void *))(intptr_t)next_uint32;
    int64_t places[PLACES], *order = (int64_t *)(intptr_t)orders;
    for (int64_t c = 0; c < count; c++, order += n) {
        if (c > 0) memcpy(order, order - n, (size_t)n * sizeof *order);
        int64_t mask = ones_for(n - 1);
        for (int64_t top = n - 1, wanted; top > 0; top -= wanted) {
            wanted = next_places(top, &mask);
            for (int64_t left = top; left > top - wanted;) {
                const int64_t place = (int64_t)next((void *)(intptr_t)state) & mask;
                places[top - left] = place;
                left -= place <= left;
            }
            change_places(order, top, places, wanted);
        }
    }
}

#ifdef __SIZEOF_INT128__
typedef unsigned __int128 word128;

/* A generator as src/fastmlp/_orders.py hands it over: 128-bit numbers as two words, the lower first. */
typedef struct {
    uint64_t state[2], increment[2];
    uint64_t has_half, half; /* the upper half of a drawn number, whether it is still to be used or not */
} pcg64;

static uint64_t next_number(word128 *state, word128 increment) {
    *state = *state * ((word128)0x2360ED051FC65DA4u << 64 | 0x4385DF649FCCF645u) + increment;
    const uint64_t mixed = (uint64_t)(*state >> 64) ^ (uint64_t)*state;
    const unsigned turn = (unsigned)(*state >> 122);
    return mixed >> turn | mixed << (-turn & 63);
}

int64_t fastmlp_draw_orders(int64_t generator, int64_t n, int64_t count, int64_t orders) {
    pcg64 *g = (pcg64 *)(intptr_t)generator;
    const word128 increment = (word128)g->increment[1] << 64 | g->increment[0];
    word128 state = (word128)g->state[1] << 64 | g->state[0];
    uint64_t has_half = g->has_half, half = g->half;
    int64_t places[PLACES], *order = (int64_t *)(intptr_t)orders;
    for (int64_t c = 0; c < count; c++, order += n) {
        int64_t mask = ones_for(n - 1);
        for (int64_t i = 0; i < n; i++) order[i] = i;
        for (int64_t top = n - 1, wanted; top > 0; top -= wanted) {
            wanted = next_places(top, &mask);
            const int64_t end = top - wanted;
            for (int64_t left = top; left > end;) {
                if (!has_half) {
                    const uint64_t drawn = next_number(&state, increment);
                    half = drawn >> 32;
                    has_half = 1;
                    const int64_t place = (int64_t)drawn & mask;
                    places[top - left] = place;
                    left -= place <= left;
                }
                if (left > end) {
                    has_half = 0;
                    const int64_t place = (int64_t)half & mask;
                    places[top - left] = place;
                    left -= place <= left;
                }
            }
            change_places(order, top, places, wanted);
        }
    }
    g->state[0] = (uint64_t)state, g->state[1] = (uint64_t)(state >> 64);
    g->has_half = has_half, g->half = half;
    return 1;
}
#else
int64_t fastmlp_draw_orders(int64_t generator, int64_t n, int64_t count, int64_t orders) {
    (void)generator, (void)n, (void)count, (void)orders;
    return 0;
}
#endif
