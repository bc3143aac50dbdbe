#if defined(__x86_64__)
#include "target_avx2.h"
#define REAL_BITS 32
#define VECTOR_BYTES 32
#define KERNELS fastmlp_avx2_f32
#include "../kernels.h"
#include "target_end.h"
#else
typedef int nothing_here;
#endif
