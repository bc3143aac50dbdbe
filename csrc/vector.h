/* Vectors of one instruction set and one dtype: types, loads, and the few operations that C has no operator for.
 * The including file defines REAL_BITS (32 or 64) and VECTOR_BYTES (16, 32 or 64).
 * This is the one place for intrinsics. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline, unused))

#if REAL_BITS == 32
typedef float real;
typedef int32_t integer;
#else
typedef double real;
typedef int64_t integer;
#endif

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
/* from .. to - 1 */
typedef struct {
    int64_t from, to;
} range;

typedef real vector __attribute__((vector_size(VECTOR_BYTES)));
typedef integer ivector __attribute__((vector_size(VECTOR_BYTES)));
typedef real loose_vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

enum { LANES = VECTOR_BYTES / sizeof(real), LINE_LANES = 64 / sizeof(real), LINE_VECTORS = 64 / VECTOR_BYTES };

INLINE vector load(const real *p) { return *(const vector *)p; }
INLINE vector load_loose(const real *p) { return *(const loose_vector *)p; }
INLINE void store(real *p, vector x) { *(vector *)p = x; }
INLINE void store_loose(real *p, vector x) { *(loose_vector *)p = x; }
INLINE vector splat(real x) { return x - (vector){0}; } /* keeps -0, and compiles to one broadcast */
INLINE ivector bits_of(vector x) { return (ivector)x; }
INLINE vector from_bits(ivector x) { return (vector)x; }

/* HAS_FMA is 1 where multiply_add rounds once; results then have the same bits on every instruction set. */
#if defined(__x86_64__) && VECTOR_BYTES >= 32 || defined(__aarch64__)
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#if VECTOR_BYTES == 64 && REAL_BITS == 32
#define X86(op) _mm512_##op##_ps
#elif VECTOR_BYTES == 64
#define X86(op) _mm512_##op##_pd
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
#define X86(op) _mm256_##op##_ps
#elif VECTOR_BYTES == 32
#define X86(op) _mm256_##op##_pd
#elif REAL_BITS == 32
#define X86(op) _mm_##op##_ps
#else
#define X86(op) _mm_##op##_pd
#endif
#endif

/* a * b + c, rounded once where HAS_FMA. Left to contraction, compilers choose differently. */
INLINE vector multiply_add(vector a, vector b, vector c) {
#if defined(__x86_64__) && HAS_FMA
    return (vector)X86(fmadd)(a, b, c);
#elif defined(__aarch64__) && REAL_BITS == 32
    return __builtin_aarch64_fmav4sf(a, b, c);
#elif defined(__aarch64__)
    return __builtin_aarch64_fmav2df(a, b, c);
#else
    return a * b + c;
#endif
}

INLINE vector square_root(vector x) {
#if defined(__x86_64__)
    return (vector)X86(sqrt)(x);
#else
    for (int i = 0; i < LANES; i++) x[i] = REAL_BITS == 32 ? (real)__builtin_sqrtf(x[i]) : (real)__builtin_sqrt(x[i]);
    return x;
#endif
}

/* Lane by lane: condition ? yes : no. A condition is what a comparison of two vectors gives: all ones or zero. */
INLINE vector choose(ivector condition, vector yes, vector no) {
#if defined(__x86_64__) && VECTOR_BYTES == 32
    return (vector)X86(blendv)(no, yes, from_bits(condition));
#else
    return from_bits((condition & bits_of(yes)) | (~condition & bits_of(no)));
#endif
}

/* The order of operands decides what a NaN in x becomes: here it stays. */
INLINE vector at_most(vector x, vector bound) { return choose(x > bound, bound, x); }
INLINE vector at_least(vector x, vector bound) { return choose(x < bound, bound, x); }

INLINE vector absolute(vector x) { return from_bits(bits_of(x) & ~bits_of(splat((real)-0.0))); }

/* The magnitude of one, the sign of the other. */
INLINE vector with_sign_of(vector magnitude, vector sign) {
    return from_bits(bits_of(absolute(magnitude)) | (bits_of(sign) & bits_of(splat((real)-0.0))));
}
