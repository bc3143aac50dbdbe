/* What csrc/vector.h takes of AVX-512, made of two AVX2 operations each, so that the kernels for vectors of 64 bytes run,
 * and can be compared, on processors without it. Every other operation the compiler itself cuts in halves.
 * Include after REAL_BITS is defined, and before the kernels. */
#define VECTORS_IN_HALVES
#include <immintrin.h>

#if REAL_BITS == 32
typedef float whole_vector __attribute__((vector_size(64)));
typedef __m256 half_vector;
#define HALF(op) _mm256_##op##_ps
#define _mm512_fmadd_ps fmadd_in_halves
#define _mm512_sqrt_ps sqrt_in_halves
#define _mm512_min_ps min_in_halves
#define _mm512_max_ps max_in_halves
#else
typedef double whole_vector __attribute__((vector_size(64)));
typedef __m256d half_vector;
#define HALF(op) _mm256_##op##_pd
#define _mm512_fmadd_pd fmadd_in_halves
#define _mm512_sqrt_pd sqrt_in_halves
#define _mm512_min_pd min_in_halves
#define _mm512_max_pd max_in_halves
#endif

typedef union {
    whole_vector whole;
    half_vector half[2];
} halves;

static inline __attribute__((always_inline, unused)) whole_vector fmadd_in_halves(whole_vector a, whole_vector b, whole_vector c) {
    const halves x = {a}, y = {b}, z = {c};
    const half_vector low = HALF(fmadd)(x.half[0], y.half[0], z.half[0]), high = HALF(fmadd)(x.half[1], y.half[1], z.half[1]);
    return ((halves){.half = {low, high}}).whole;
}
static inline __attribute__((always_inline, unused)) whole_vector sqrt_in_halves(whole_vector a) {
    const halves x = {a};
    return ((halves){.half = {HALF(sqrt)(x.half[0]), HALF(sqrt)(x.half[1])}}).whole;
}
static inline __attribute__((always_inline, unused)) whole_vector min_in_halves(whole_vector a, whole_vector b) {
    const halves x = {a}, y = {b};
    return ((halves){.half = {HALF(min)(x.half[0], y.half[0]), HALF(min)(x.half[1], y.half[1])}}).whole;
}
static inline __attribute__((always_inline, unused)) whole_vector max_in_halves(whole_vector a, whole_vector b) {
    const halves x = {a}, y = {b};
    return ((halves){.half = {HALF(max)(x.half[0], y.half[0]), HALF(max)(x.half[1], y.half[1])}}).whole;
}
