/* How fast one core multiplies and adds, and how fast it reads: what the shares of bench_roofline.py are shares of.
   Compiled for a type T of numbers, with the widest vectors of the processor at hand. */
#include <stddef.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef T vector __attribute__((vector_size(VECTOR_BYTES)));

/* Enough independent chains to hide the latency (4 or 5 cycles, two units), few enough for the registers. */
#define CHAINS 12
/* A reader goes through so many parts of its memory at a time: one alone gets 18 GB/s from memory where four get 24. */
#define STREAMS 4

static T sum_of(const vector *values, int n)
{
    T sum = 0;
    for (int i = 0; i < n; i++)
        for (size_t j = 0; j < VECTOR_BYTES / sizeof(T); j++)
            sum += values[i][j];
    return sum;
}

/* The operations of one round of multiply_add. */
long flop_per_round(void)
{
    return 2 * CHAINS * (long)(VECTOR_BYTES / sizeof(T));
}

T multiply_add(long rounds, T factor, T term)
{
    vector chains[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        chains[i] = (vector){0} + (T)i;
    for (long round = 0; round < rounds; round++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            chains[i] = chains[i] * factor + term;
    return sum_of(chains, CHAINS);
}

long bytes_read_at_once(void)
{
    return VECTOR_BYTES * STREAMS;
}

/* Reads so many bytes, a multiple of bytes_read_at_once, again and again. */
T read_through(const void *start, long n_bytes, long times)
{
    const vector *vectors = start;
    const long n = n_bytes / bytes_read_at_once();
    vector sums[STREAMS] = {0};
    for (long time = 0; time < times; time++)
        for (long i = 0; i < n; i++)
#pragma GCC unroll 4
            for (int j = 0; j < STREAMS; j++)
                sums[j] += vectors[i + j * n];
    return sum_of(sums, STREAMS);
}
