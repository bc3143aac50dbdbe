/* Vectors of one instruction set and one dtype: types, loads, and the few operations that C has no operator for.
 * The including file defines REAL_BITS (32 or 64) and VECTOR_BYTES (16, 32 or 64).
 * This is the one place for intrinsics. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline, unused))

/* Before a loop of a few turns that must become straight code, where arrays become registers: a fifth of the speed else. And
 * before one that must not: gcc works out the addresses of all turns beforehand, even if few are taken. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#define ROLLED _Pragma("GCC unroll 1")
#endif

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
/* Part i of n things: equal parts of whole units. */
INLINE range part_of(int64_t n, int64_t parts, int64_t i, int64_t unit) {
    if (parts == 1) return (range){0, n}; /* divisions take 10 to 20 cycles each */
    const int64_t units = (n + unit - 1) / unit;
    return (range){smaller(n, units * i / parts * unit), smaller(n, units * (i + 1) / parts * unit)};
}

/* The same value, of which the compiler knows nothing. */
INLINE int64_t opaque(int64_t x) {
    __asm__("" : "+r"(x));
    return x;
}
INLINE const real *opaque_pointer(const real *p) {
    __asm__("" : "+r"(p));
    return p;
}

typedef real vector __attribute__((vector_size(VECTOR_BYTES)));
typedef integer ivector __attribute__((vector_size(VECTOR_BYTES)));
typedef real loose_vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

/* for the preprocessor */
#define LANES_LOG2 (VECTOR_BYTES * 8 / REAL_BITS == 2 ? 1 : VECTOR_BYTES * 8 / REAL_BITS == 4 ? 2 : VECTOR_BYTES * 8 / REAL_BITS == 8 ? 3 : 4)
enum { LANES = VECTOR_BYTES / sizeof(real), LINE_LANES = 64 / sizeof(real), LINE_VECTORS = 64 / VECTOR_BYTES };

INLINE int64_t whole_vectors(int64_t n) { return (n + LANES - 1) / LANES; }

INLINE vector load(const real *p) { return *(const vector *)p; }
INLINE vector load_loose(const real *p) { return *(const loose_vector *)p; }
INLINE void store(real *p, vector x) { *(vector *)p = x; }
INLINE void store_loose(real *p, vector x) { *(loose_vector *)p = x; }
INLINE vector splat(real x) { return x - (vector){0}; } /* keeps -0, and compiles to one broadcast */
INLINE ivector bits_of(vector x) { return (ivector)x; }
INLINE vector from_bits(ivector x) { return (vector)x; }

static const integer lane_numbers[16] __attribute__((aligned(64))) = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* All ones in the lanes of real elements, zero in padding; `left` elements begin at the vector's first lane. */
INLINE ivector real_lanes(int64_t left) {
    const ivector number = *(const ivector *)lane_numbers;
    return number < (integer)smaller(left, LANES) - (ivector){0};
}

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

/* The first n lanes from memory, zero in the others: nothing beyond is read. */
INLINE vector load_part(const real *p, int64_t n) {
#if defined(__x86_64__) && VECTOR_BYTES == 64 && !defined(VECTORS_IN_HALVES)
    return (vector)X86(maskz_loadu)((1u << n) - 1, p);
#elif defined(__x86_64__) && VECTOR_BYTES == 32
    return (vector)X86(maskload)(p, (__m256i)real_lanes(n));
#else
    real part[LANES] __attribute__((aligned(64))) = {0};
    for (int64_t j = 0; j < n; j++) part[j] = p[j];
    return load(part);
#endif
}

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

/* Where a product has its instruction and a compiler takes it: a number spread, a vector moved, a product added. */
#if defined(__x86_64__) && HAS_FMA && !defined(VECTORS_IN_HALVES)
#if REAL_BITS == 32
#define SPREAD_NUMBER "vbroadcastss "
#define MOVE_VECTOR "vmovaps "
#define ADD_PRODUCT "vfmadd231ps "
#else
#define SPREAD_NUMBER "vbroadcastsd "
#define MOVE_VECTOR "vmovapd "
#define ADD_PRODUCT "vfmadd231pd "
#endif
#endif

/* *sum += a * b. Written out, since gcc left alone moves the sums of a tile from register to register. */
INLINE void accumulate(vector *sum, vector a, vector b) {
#if defined(ADD_PRODUCT)
    __asm__(ADD_PRODUCT "%1, %2, %0" : "+v"(*sum) : "v"(b), "v"(a));
#else
    *sum = multiply_add(a, b, *sum);
#endif
}

/* The same with b in memory, aligned: one instruction where a load and a product are two. */
INLINE void accumulate_from(vector *sum, vector a, const real *b) {
#if defined(ADD_PRODUCT)
    __asm__(ADD_PRODUCT "%1, %2, %0" : "+v"(*sum) : "m"(*(const vector *)b), "v"(a));
#else
    *sum = multiply_add(a, load(b), *sum);
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
#if defined(__x86_64__)
INLINE vector at_most(vector x, vector bound) { return (vector)X86(min)(bound, x); }
INLINE vector at_least(vector x, vector bound) { return (vector)X86(max)(bound, x); }
#else
INLINE vector at_most(vector x, vector bound) { return choose(x > bound, bound, x); }
INLINE vector at_least(vector x, vector bound) { return choose(x < bound, bound, x); }
#endif

INLINE vector absolute(vector x) { return from_bits(bits_of(x) & ~bits_of(splat((real)-0.0))); }

/* The magnitude of one, the sign of the other. */
INLINE vector with_sign_of(vector magnitude, vector sign) {
    return from_bits(bits_of(absolute(magnitude)) | (bits_of(sign) & bits_of(splat((real)-0.0))));
}

/* a0 b0 a1 b1 ... of the lower, or the upper, halves of two vectors. */
#if LANES_LOG2 == 1
#define LOWER_LANES 0, 2
#define UPPER_LANES 1, 3
#elif LANES_LOG2 == 2
#define LOWER_LANES 0, 4, 1, 5
#define UPPER_LANES 2, 6, 3, 7
#elif LANES_LOG2 == 3
#define LOWER_LANES 0, 8, 1, 9, 2, 10, 3, 11
#define UPPER_LANES 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOWER_LANES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define UPPER_LANES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif
#if defined(__clang__)
INLINE vector zip_lower(vector a, vector b) { return __builtin_shufflevector(a, b, LOWER_LANES); }
INLINE vector zip_upper(vector a, vector b) { return __builtin_shufflevector(a, b, UPPER_LANES); }
#else
INLINE vector zip_lower(vector a, vector b) { return __builtin_shuffle(a, b, (ivector){LOWER_LANES}); }
INLINE vector zip_upper(vector a, vector b) { return __builtin_shuffle(a, b, (ivector){UPPER_LANES}); }
#endif

/* Lanes of 64 bits, whatever the reals. */
typedef uint64_t wide_vector __attribute__((vector_size(VECTOR_BYTES)));
enum { WIDE_LANES = VECTOR_BYTES / 8 };

/* Products of their lower halves. */
INLINE wide_vector multiply_low_halves(wide_vector a, wide_vector b) {
#if defined(__x86_64__) && VECTOR_BYTES == 64 && !defined(VECTORS_IN_HALVES)
    return (wide_vector)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__x86_64__) && VECTOR_BYTES == 32
    return (wide_vector)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__) && VECTOR_BYTES == 16
    return (wide_vector)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & UINT32_MAX) * (b & UINT32_MAX);
#endif
}

/* a0 b0 a2 b2 ..., and a1 b1 a3 b3 ... */
#if VECTOR_BYTES == 16
#define EVEN_LANES 0, 2
#define ODD_LANES 1, 3
#elif VECTOR_BYTES == 32
#define EVEN_LANES 0, 4, 2, 6
#define ODD_LANES 1, 5, 3, 7
#else
#define EVEN_LANES 0, 8, 2, 10, 4, 12, 6, 14
#define ODD_LANES 1, 9, 3, 11, 5, 13, 7, 15
#endif
#if defined(__clang__)
INLINE wide_vector even_pairs(wide_vector a, wide_vector b) { return __builtin_shufflevector(a, b, EVEN_LANES); }
INLINE wide_vector odd_pairs(wide_vector a, wide_vector b) { return __builtin_shufflevector(a, b, ODD_LANES); }
#else
INLINE wide_vector even_pairs(wide_vector a, wide_vector b) { return __builtin_shuffle(a, b, (wide_vector){EVEN_LANES}); }
INLINE wide_vector odd_pairs(wide_vector a, wide_vector b) { return __builtin_shuffle(a, b, (wide_vector){ODD_LANES}); }
#endif

/* As many naturals of 16 bits as there are lanes, in lanes. gcc converts them by halves: 64-100-10 with dropout took 1.105
 * times a plain step, not 1.08. */
typedef uint16_t short_vector __attribute__((vector_size(2 * LANES)));
INLINE ivector widened(short_vector x) {
#if defined(__x86_64__) && VECTOR_BYTES == 32 && REAL_BITS == 32
    return (ivector)_mm256_cvtepu16_epi32((__m128i)x);
#elif defined(__x86_64__) && VECTOR_BYTES == 64 && REAL_BITS == 32 && !defined(VECTORS_IN_HALVES)
    return (ivector)_mm512_cvtepu16_epi32((__m256i)x);
#else
    return __builtin_convertvector(x, ivector);
#endif
}

/* Rows become columns: each round of zips moves one more bit of the lane's number into the row's. */
INLINE void transpose_lanes(vector rows[LANES]) {
    UNROLL
    for (int width = 1; width < LANES; width *= 2) {
        vector zipped[LANES];
        UNROLL
        for (int i = 0; i < LANES / 2; i++) {
            zipped[2 * i] = zip_lower(rows[i], rows[i + LANES / 2]);
            zipped[2 * i + 1] = zip_upper(rows[i], rows[i + LANES / 2]);
        }
        UNROLL
        for (int i = 0; i < LANES; i++) rows[i] = zipped[i];
    }
}

/* The same in memory, with one vector of as many rows as there are lanes; rows from `count` on are zero. */
INLINE void transpose_block(const real *source, int64_t source_row, int64_t count, real *to, int64_t to_row) {
    vector rows[LANES];
    UNROLL
    for (int i = 0; i < LANES; i++) rows[i] = i < count ? load(source + i * source_row) : splat(0);
    transpose_lanes(rows);
    UNROLL
    for (int i = 0; i < LANES; i++) store(to + i * to_row, rows[i]);
}
