/* Places in memory whose parts an instruction adds up by itself: a pointer, one or two strides, and a constant.
 *
 * gcc, left alone, keeps sums of strides and constants in registers of their own, more than there are, and works out before
 * a loop where its pointers will end: of a tile 13 deep that takes 5 % of the time, of one half a vector wide 20 %. So the
 * instructions are written out. */

/* `strides` (0, 1 or 2) of so many bytes and `on` numbers behind `from`. */
typedef struct {
    const real *from;
    int64_t stride;
    int strides, on;
} place;

INLINE const real *moved(const real *p, int64_t bytes) { return (const real *)((const char *)p + bytes); }
INLINE const real *address_of(const place p) { return moved(p.from, p.strides * p.stride) + p.on; }

/* An instruction with the place P in the middle. clang adds up places well, and takes no constants of an inlined function;
 * gcc does unless it optimizes little. A sanitizer of addresses sees no assembler. */
#if defined(ADD_PRODUCT) && !defined(__SANITIZE_ADDRESS__)
#define WITH_ADDRESS(P, BEFORE, BEHIND, OUTPUT, ...) \
    __asm__(BEFORE "%[at]" BEHIND : OUTPUT : [at] "m"(*(const real(*)[LANES])address_of(P)), ##__VA_ARGS__)
#if defined(__clang__)
#define WITH_PLACE WITH_ADDRESS
#else
#define WITH_PLACE(P, BEFORE, BEHIND, OUTPUT, ...)                                                                      \
    do {                                                                                                                \
        if (!__builtin_constant_p((P).strides) || (P).strides == 0)                                                     \
            WITH_ADDRESS(P, BEFORE, BEHIND, OUTPUT, ##__VA_ARGS__);                                                     \
        else                                                                                                            \
            __asm__(BEFORE "%c[on](%[from],%[stride],%c[strides])" BEHIND                                               \
                    : OUTPUT                                                                                            \
                    : [from] "r"((P).from), [stride] "r"((P).stride), [strides] "i"((P).strides),                       \
                      [on] "i"((P).on * (int)sizeof(real)), "m"(*(const real(*)[])(P).from), ##__VA_ARGS__);            \
    } while (0)
#endif
#endif

INLINE vector load_at(const place p) {
#if defined(WITH_PLACE)
    vector v;
    WITH_PLACE(p, MOVE_VECTOR, ", %[v]", [v] "=v"(v));
    return v;
#else
    return load(address_of(p));
#endif
}

INLINE vector splat_at(const place p) {
#if defined(WITH_PLACE)
    vector v;
    WITH_PLACE(p, SPREAD_NUMBER, ", %[v]", [v] "=v"(v));
    return v;
#else
    return splat(*address_of(p));
#endif
}

/* accumulate with b in memory, aligned. */
INLINE void accumulate_from_place(vector *sum, vector a, const place b) {
#if defined(WITH_PLACE)
    WITH_PLACE(b, ADD_PRODUCT, ", %[a], %[sum]", [sum] "+v"(*sum), [a] "v"(a));
#else
    accumulate_from(sum, a, address_of(b));
#endif
}

/* *sum += a * b for one number a in memory, which AVX-512 spreads on the way: a quarter to a third less time where a vector
 * of b meets many of them once. */
INLINE void accumulate_spread(vector *sum, const place a, vector b) {
#if defined(WITH_PLACE) && VECTOR_BYTES == 64
#if REAL_BITS == 32
#define WHOLE_SPREAD "%{1to16%}"
#define HALF_SPREAD "%{1to8%}"
#else
#define WHOLE_SPREAD "%{1to8%}"
#define HALF_SPREAD "%{1to4%}"
#endif
    WITH_PLACE(a, ADD_PRODUCT, WHOLE_SPREAD ", %[b], %[sum]", [sum] "+v"(*sum), [b] "v"(b));
#else
    accumulate(sum, splat(*address_of(a)), b);
#endif
}

/* The same with half a vector: two of these instructions go in the time of one. The upper half becomes zero. */
INLINE vector load_half_at(const place p) {
#if defined(HALF_SPREAD)
    vector v;
    WITH_PLACE(p, MOVE_VECTOR, ", %t[v]", [v] "=v"(v));
    return v;
#else
    return load(address_of(p));
#endif
}

INLINE void accumulate_spread_in_half(vector *sum, const place a, vector b) {
#if defined(HALF_SPREAD)
    WITH_PLACE(a, ADD_PRODUCT, HALF_SPREAD ", %t[b], %t[sum]", [sum] "+v"(*sum), [b] "v"(b));
#else
    accumulate_spread(sum, a, b);
#endif
}
