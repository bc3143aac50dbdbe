/* What every processor of the architecture has: SSE2 on x86-64, NEON on AArch64. */
#define REAL_BITS 64
#define VECTOR_BYTES 16
#define KERNELS fastmlp_baseline_f64
#include "../kernels.h"
