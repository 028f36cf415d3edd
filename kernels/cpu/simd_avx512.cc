// SPDX-License-Identifier: Apache-2.0
// Compiled for x86-64-v4; reached only through the table.
#include "kernels/cpu/simd_lanes512.h"

#define UNFOLD_SIMD_TABLE kAvx512Kernels
#define UNFOLD_SIMD_NAME "avx512"
#include "kernels/cpu/simd_kernels.h"
