/* What every processor of the architecture has: SSE2 on x86-64, NEON on AArch64. */
#define REAL_BITS 32
#define VECTOR_BYTES 16
#define KERNELS fastmlp_baseline_f32
#include "../kernels.h"
