#if defined(__x86_64__)
#include "target_avx512.h"
#define REAL_BITS 64
#define VECTOR_BYTES 64
#define KERNELS fastmlp_avx512_f64
#include "../kernels.h"
#include "target_end.h"
#else
typedef int nothing_here;
#endif
