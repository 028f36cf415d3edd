// SPDX-License-Identifier: Apache-2.0
// Which instruction set the cpu backend runs on: the best that this CPU has, or the one that UNFOLD_CPU_ISA names.
#ifndef UNFOLD_KERNELS_CPU_ISA_H_
#define UNFOLD_KERNELS_CPU_ISA_H_

#include <memory>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/simd.h"
#include "unfold/base.h"

namespace unfold {

// Kernel sets that this CPU can run, best first; the last is always "portable".
std::vector<const SimdKernels*> UsableCpuKernels();

// UNFOLD_CPU_ISA (portable, avx2, avx512 or avx512_bf16) when set, else the best. InvalidArgument for a name that is
// unknown or that this CPU cannot run, with those it can.
Result<const SimdKernels*> ChooseCpuKernels();

std::unique_ptr<Backend> MakeCpuBackendWith(const SimdKernels& kernels, int threads);

// The kernel set that a backend made by MakeBackend("cpu") or MakeCpuBackend* runs on.
std::string_view CpuIsaName(const Backend& cpu_backend);

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CPU_ISA_H_
