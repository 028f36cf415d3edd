// SPDX-License-Identifier: Apache-2.0
// MatMul. In f32, and for weights that tensor cores do not take: a tiled kernel in which each output is one sum over K
// in ascending order, each term fused, so its bits depend on nothing else. In bf16: cuBLASLt (products.h).
#include <array>
#include <memory>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/products.h"

namespace unfold {
namespace {

constexpr int kTile = 64;   // outputs of a block: kTile x kTile
constexpr int kDepth = 16;  // of K at a time
constexpr int kSide = 16;   // threads: kSide x kSide
constexpr int kEach = kTile / kSide;

// Blocks run along rows first, so that those that run together share weights.
template <typename Element, bool kRoundX>
__global__ void __launch_bounds__(kSide* kSide) ProductKernel(const float* x, const Element* weight, Index rows,
                                                              Index inner, Index columns, bool accumulate, float* out) {
  __shared__ float x_tile[kDepth][kTile + 1], w_tile[kDepth][kTile + 1];
  const Index row_tiles = CeilDiv(rows, kTile);
  const Index first_row = blockIdx.x % row_tiles * kTile, first_column = blockIdx.x / row_tiles * kTile;
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  float sums[kEach][kEach] = {};
  for (Index k = 0; k < inner; k += kDepth) {
    for (int i = threadIdx.x; i < kTile * kDepth; i += kSide * kSide) {
      const int depth = i % kDepth, line = i / kDepth;
      const bool inside = k + depth < inner;
      const Index row = first_row + line, column = first_column + line;
      float value = inside && row < rows ? x[row * inner + k + depth] : 0.0F;
      if (kRoundX) value = __bfloat162float(__float2bfloat16_rn(value));
      x_tile[depth][line] = value;
      w_tile[depth][line] = inside && column < columns ? Widen(weight[column * inner + k + depth]) : 0.0F;
    }
    __syncthreads();
    const int depths = static_cast<int>(min(Index{kDepth}, inner - k));
    for (int depth = 0; depth < depths; ++depth) {
      float a[kEach], b[kEach];
      for (int r = 0; r < kEach; ++r) a[r] = x_tile[depth][ty + r * kSide];
      for (int c = 0; c < kEach; ++c) b[c] = w_tile[depth][tx + c * kSide];
      for (int r = 0; r < kEach; ++r) {
        for (int c = 0; c < kEach; ++c) sums[r][c] = fmaf(a[r], b[c], sums[r][c]);
      }
    }
    __syncthreads();
  }
  for (int r = 0; r < kEach; ++r) {
    for (int c = 0; c < kEach; ++c) {
      const Index row = first_row + ty + r * kSide, column = first_column + tx + c * kSide;
      if (row >= rows || column >= columns) continue;
      float& place = out[row * columns + column];
      place = accumulate ? place + sums[r][c] : sums[r][c];
    }
  }
}

__global__ void RoundKernel(const float* x, Index count, __nv_bfloat16* rounded) {
  const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) rounded[i] = __float2bfloat16_rn(x[i]);
}

// Layouts and descriptors of cuBLASLt, freed with the object.
template <typename Handle, cublasStatus_t (*kDestroy)(Handle)>
struct Owned {
  Handle handle = nullptr;
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (handle != nullptr) (void)kDestroy(handle);
  }
};
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

Status Blas(cublasStatus_t status, std::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return Status::Ok();
  return Status::Device("cuda: cuBLASLt, " + std::string(what) + ": " + cublasLtGetStatusString(status));
}

// Column-major words for our row-major matrices: weight is K x N, taken transposed; x is K x T; out is N x T.
struct Layouts {
  Layout weight, x, out;

  Status Make(Index rows, Index inner, Index columns) {
    UNFOLD_TRY(Blas(cublasLtMatrixLayoutCreate(&weight.handle, CUDA_R_16BF, inner, columns, inner), "weight"));
    UNFOLD_TRY(Blas(cublasLtMatrixLayoutCreate(&x.handle, CUDA_R_16BF, inner, rows, inner), "x"));
    return Blas(cublasLtMatrixLayoutCreate(&out.handle, CUDA_R_32F, columns, rows, columns), "out");
  }
};

constexpr std::uint32_t kAlignment = 16;  // of what the chosen algorithms load at once: HasVectors
constexpr Index kTypicalRows = 4096;      // the batch an algorithm is chosen for: a packed batch of documents

}  // namespace

const __nv_bfloat16* RoundToBf16(CudaContext& context, CallMemory& memory, const Tensor& x) {
  auto* rounded = memory.Array<__nv_bfloat16>(x.size());
  if (rounded == nullptr || x.size() == 0) return rounded;
  RoundKernel<<<Blocks(x.size(), 256), 256, 0, context.stream()>>>(x.as<float>(), x.size(), rounded);
  return rounded;
}

bool TensorCoreProducts::Takes(const MatMulArgs& args) {
  const bool whole_vectors = args.x.dims[1] > 0 && args.x.dims[1] % 8 == 0 && args.weight.dims[0] % 8 == 0;
  return args.compute == DType::kBF16 && args.weight.dtype == DType::kBF16 && whole_vectors;
}

// The first proposal that does not split K. No workspace is offered, which most that split would need.
Result<cublasLtMatmulAlgo_t> TensorCoreProducts::AlgorithmFor(Index columns, Index inner,
                                                              cublasLtMatmulDesc_t operation) {
  const auto known = algorithms_.find({columns, inner});
  if (known != algorithms_.end()) return known->second;
  Layouts layouts;
  UNFOLD_TRY(layouts.Make(kTypicalRows, inner, columns));
  Preference preference;
  UNFOLD_TRY(Blas(cublasLtMatmulPreferenceCreate(&preference.handle), "preference"));
  std::uint32_t alignment = kAlignment;
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    UNFOLD_TRY(Blas(cublasLtMatmulPreferenceSetAttribute(preference.handle, attribute, &alignment, sizeof(alignment)),
                    "alignment"));
  }
  std::array<cublasLtMatmulHeuristicResult_t, 32> proposals{};
  int found = 0;
  UNFOLD_TRY(Blas(cublasLtMatmulAlgoGetHeuristic(context_.blas(), operation, layouts.weight.handle, layouts.x.handle,
                                                 layouts.out.handle, layouts.out.handle, preference.handle,
                                                 static_cast<int>(proposals.size()), proposals.data(), &found),
                  "choosing an algorithm"));
  for (int i = 0; i < found; ++i) {
    std::int32_t split = 0;
    std::size_t written = 0;
    const cublasStatus_t read = cublasLtMatmulAlgoConfigGetAttribute(
        &proposals[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof(split), &written);
    if (proposals[i].state != CUBLAS_STATUS_SUCCESS || read != CUBLAS_STATUS_SUCCESS || split > 1) continue;
    algorithms_.emplace(std::pair(columns, inner), proposals[i].algo);
    return proposals[i].algo;
  }
  return Status::Device("cuda: cuBLASLt proposes no algorithm for weights [" + std::to_string(columns) + ", " +
                        std::to_string(inner) + "]");
}

Status TensorCoreProducts::Multiply(const void* weight, const void* x, float* out, const MatMulArgs& args) {
  const Index rows = args.x.dims[0], inner = args.x.dims[1], columns = args.weight.dims[0];
  Operation operation;
  UNFOLD_TRY(Blas(cublasLtMatmulDescCreate(&operation.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation"));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  UNFOLD_TRY(Blas(
      cublasLtMatmulDescSetAttribute(operation.handle, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
      "operation"));
  UNFOLD_TRY_ASSIGN(const cublasLtMatmulAlgo_t algorithm, AlgorithmFor(columns, inner, operation.handle));
  Layouts layouts;
  UNFOLD_TRY(layouts.Make(rows, inner, columns));
  const float one = 1, before = args.accumulate ? 1 : 0;
  return Blas(cublasLtMatmul(context_.blas(), operation.handle, &one, weight, layouts.weight.handle, x,
                             layouts.x.handle, &before, out, layouts.out.handle, out, layouts.out.handle, &algorithm,
                             nullptr, 0, context_.stream()),
              "MatMul of " + args.x.ShapeString() + " and " + args.weight.ShapeString());
}

// Memory that is aligned less than the algorithm wants is worked on in a copy: the bits must not depend on an address.
Status TensorCoreProducts::Run(const MatMulArgs& args) {
  CallMemory memory(context_, "MatMul");
  const __nv_bfloat16* x = RoundToBf16(context_, memory, args.x);
  const void* weight = args.weight.data;
  if (!HasVectors(weight)) weight = memory.Array<__nv_bfloat16>(args.weight.size());
  auto* out = args.out.as<float>();
  if (!HasVectors(out)) out = memory.Array<float>(args.out.size());
  UNFOLD_TRY(memory.status());
  const auto copy = [&](void* to, const void* from, std::size_t bytes) {
    if (to == from) return Status::Ok();
    return context_.Explain(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, context_.stream()), "MatMul");
  };
  UNFOLD_TRY(copy(const_cast<void*>(weight), args.weight.data, args.weight.bytes()));
  if (args.accumulate) UNFOLD_TRY(copy(out, args.out.data, args.out.bytes()));
  UNFOLD_TRY(Multiply(weight, x, out, args));
  UNFOLD_TRY(copy(args.out.data, out, args.out.bytes()));
  return context_.Launched("MatMul");
}

Status CudaBackend::DoMatMuls(std::span<const MatMulArgs> products) {
  for (const MatMulArgs& args : products) {
    const Index rows = args.x.dims[0], inner = args.x.dims[1], columns = args.weight.dims[0];
    if (rows == 0 || columns == 0) continue;
    if (TakesDecodeProduct(args)) {
      UNFOLD_TRY(RunDecodeProduct(*context_, args));
      continue;
    }
    if (TensorCoreProducts::Takes(args)) {
      UNFOLD_TRY(tensor_cores_->Run(args));
      continue;
    }
    const auto blocks = static_cast<unsigned>(CeilDiv(rows, kTile) * CeilDiv(columns, kTile));
    WithWeightType(args.weight.dtype, [&](auto* element) {
      using Element = std::remove_cvref_t<decltype(*element)>;
      const auto kernel = args.compute == DType::kBF16 ? ProductKernel<Element, true> : ProductKernel<Element, false>;
      kernel<<<blocks, kSide * kSide, 0, context_->stream()>>>(args.x.as<float>(), args.weight.as<const Element>(),
                                                               rows, inner, columns, args.accumulate,
                                                               args.out.as<float>());
    });
    UNFOLD_TRY(context_->Launched("MatMul"));
  }
  return Status::Ok();
}

}  // namespace unfold
