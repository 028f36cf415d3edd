// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa.h"

#include <cstdlib>
#include <string>

namespace unfold {

std::vector<const SimdKernels*> UsableCpuKernels() {
  std::vector<const SimdKernels*> usable;
#if defined(UNFOLD_CPU_X86)
  __builtin_cpu_init();
  const bool v4 = __builtin_cpu_supports("x86-64-v4") != 0;
  if (v4 && __builtin_cpu_supports("avx512bf16")) usable.push_back(&kAvx512Bf16Kernels);
  if (v4) usable.push_back(&kAvx512Kernels);
  if (__builtin_cpu_supports("x86-64-v3")) usable.push_back(&kAvx2Kernels);
#endif
  usable.push_back(&kPortableKernels);
  return usable;
}

Result<const SimdKernels*> ChooseCpuKernels() {
  const std::vector<const SimdKernels*> usable = UsableCpuKernels();
  const char* forced = std::getenv("UNFOLD_CPU_ISA");
  if (forced == nullptr || *forced == '\0') return usable.front();
  std::string names;
  for (const SimdKernels* kernels : usable) {
    if (std::string_view(kernels->name) == forced) return kernels;
    if (!names.empty()) names += ", ";
    names += kernels->name;
  }
  return Status::InvalidArgument("UNFOLD_CPU_ISA is '" + std::string(forced) + "'; this CPU can run: " + names);
}

}  // namespace unfold
