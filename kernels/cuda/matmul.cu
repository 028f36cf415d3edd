// SPDX-License-Identifier: Apache-2.0
// MatMul. In f32, and for weights that tensor cores do not take: a tiled kernel in which each output is one sum over K
// in ascending order, each term fused, so its bits depend on nothing else. In bf16: cuBLASLt (products.h).
#include <array>
#include <memory>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/product_output.cuh"
#include "kernels/cuda/products.h"

namespace unfold {
namespace {

constexpr int kTile = 64;   // outputs of a block: kTile x kTile
constexpr int kDepth = 16;  // of K at a time
constexpr int kSide = 16;   // threads: kSide x kSide
constexpr int kEach = kTile / kSide;

// Blocks run along rows first, so that those that run together share weights.
template <typename X, typename Element, bool kRoundX>
__global__ void __launch_bounds__(kSide* kSide)
    ProductKernel(const X* x, const Element* weight, Index rows, Index inner, Index columns, ProductOutput out) {
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
      float value = inside && row < rows ? Widen(x[row * inner + k + depth]) : 0.0F;
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
      if (row < rows && column < columns) out.Put(row * columns + column, column, sums[r][c]);
    }
  }
}

// Four elements a thread.
template <typename From, typename To>
__global__ void ConvertKernel(const From* from, Index count, bool vectors, To* to) {
  WaitForWorkBefore();
  const Index i = 4 * (Index{blockIdx.x} * blockDim.x + threadIdx.x);
  if (i >= count) return;
  const bool whole = vectors && i + 4 <= count;
  float values[4];
  LoadFour(from + i, whole, count - i, values);
  StoreFour(values, whole, count - i, to + i);
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

  Status Make(Index rows, Index inner, Index columns, DType out_type) {
    const cudaDataType_t type = out_type == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
    UNFOLD_TRY(Blas(cublasLtMatrixLayoutCreate(&weight.handle, CUDA_R_16BF, inner, columns, inner), "weight"));
    UNFOLD_TRY(Blas(cublasLtMatrixLayoutCreate(&x.handle, CUDA_R_16BF, inner, rows, inner), "x"));
    return Blas(cublasLtMatrixLayoutCreate(&out.handle, type, columns, rows, columns), "out");
  }
};

constexpr std::uint32_t kAlignment = 16;  // of what the chosen algorithms load at once: HasVectors
constexpr Index kTypicalRows = 16384;     // the batch an algorithm is chosen for: a packed batch of documents
constexpr Index kMostQueryRows = 256;     // of a batch that has an algorithm of its own
constexpr Index kQueryRowsStep = 16;      // so many numbers of rows share one
constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // for the parts of sums when K is split

// `x` as `type` at an address of 16 bytes. Null after a failure.
const void* As(CudaContext& context, CallMemory& memory, const Tensor& x, DType type) {
  if (x.dtype == type && HasVectors(x.data)) return x.data;
  Tensor converted = x;
  converted.dtype = type;
  converted.data = memory.Array<std::byte>(static_cast<Index>(converted.bytes()));
  if (converted.data != nullptr) memory.Note(Convert(context, x, converted));
  return converted.data;
}

}  // namespace

const __nv_bfloat16* RoundToBf16(CudaContext& context, CallMemory& memory, const Tensor& x) {
  return static_cast<const __nv_bfloat16*>(As(context, memory, x, DType::kBF16));
}
const float* WidenToF32(CudaContext& context, CallMemory& memory, const Tensor& x) {
  return static_cast<const float*>(As(context, memory, x, DType::kF32));
}

Status Convert(CudaContext& context, const Tensor& from, const Tensor& to) {
  if (from.size() == 0) return Status::Ok();
  const bool vectors = HasVectors(from.data) && HasVectors(to.data);
  Status status;
  const auto run = [&]<typename From, typename To>(From*, To*) {
    status = context.Launch(ConvertKernel<From, To>, {CeilDiv(from.size(), 4 * 256), 256, 0, "Convert"},
                            from.as<const From>(), from.size(), vectors, to.as<To>());
  };
  WithActivationType(from.dtype, [&](auto* x) { WithActivationType(to.dtype, [&](auto* y) { run(x, y); }); });
  return status;
}

bool TensorCoreProducts::Takes(const MatMulArgs& args) {
  const bool whole_vectors = args.x.dims[1] > 0 && args.x.dims[1] % 8 == 0 && args.weight.dims[0] % 8 == 0;
  const bool bias_fits = args.bias.rank == 0 || args.bias.dtype == DType::kBF16;
  return args.compute == DType::kBF16 && args.weight.dtype == DType::kBF16 && bias_fits && whole_vectors;
}

// The first proposal, for stored rows the first that does not split K. To these no workspace is offered, which most
// that split would need; the others add their parts in f32.
Result<TensorCoreProducts::Algorithm> TensorCoreProducts::AlgorithmFor(const MatMulArgs& args,
                                                                       cublasLtMatmulDesc_t operation) {
  const Index columns = args.weight.dims[0], inner = args.weight.dims[1], own_rows = args.x.dims[0];
  const bool may_split = args.query && own_rows <= kMostQueryRows;
  const Index rows = may_split ? CeilDiv(own_rows, kQueryRowsStep) * kQueryRowsStep : kTypicalRows;
  const Kind kind{columns, inner, args.out.dtype, args.bias.rank != 0, rows};
  const auto known = algorithms_.find(kind);
  if (known != algorithms_.end()) return known->second;
  Layouts layouts;
  UNFOLD_TRY(layouts.Make(rows, inner, columns, args.out.dtype));
  Preference preference;
  UNFOLD_TRY(Blas(cublasLtMatmulPreferenceCreate(&preference.handle), "preference"));
  std::uint32_t alignment = kAlignment;
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    UNFOLD_TRY(Blas(cublasLtMatmulPreferenceSetAttribute(preference.handle, attribute, &alignment, sizeof(alignment)),
                    "alignment"));
  }
  if (may_split) {
    const std::uint32_t in_f32 = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    UNFOLD_TRY(Blas(cublasLtMatmulPreferenceSetAttribute(preference.handle, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                         &in_f32, sizeof(in_f32)),
                    "sums of parts"));
    UNFOLD_TRY(Blas(cublasLtMatmulPreferenceSetAttribute(preference.handle, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                         &kWorkspaceBytes, sizeof(kWorkspaceBytes)),
                    "workspace"));
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
    if (proposals[i].state != CUBLAS_STATUS_SUCCESS || read != CUBLAS_STATUS_SUCCESS) continue;
    if (split > 1 && !may_split) continue;
    return algorithms_.emplace(kind, Algorithm{proposals[i].algo, proposals[i].workspaceSize}).first->second;
  }
  return Status::Device("cuda: cuBLASLt proposes no algorithm for " + std::string(DTypeName(args.out.dtype)) +
                        " products with weights [" + std::to_string(columns) + ", " + std::to_string(inner) + "]" +
                        (args.bias.rank != 0 ? " and a bias" : ""));
}

Status TensorCoreProducts::Multiply(CallMemory& memory, const Operands& operands, const MatMulArgs& args) {
  const Index rows = args.x.dims[0], inner = args.x.dims[1], columns = args.weight.dims[0];
  Operation operation;
  UNFOLD_TRY(Blas(cublasLtMatmulDescCreate(&operation.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation"));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  UNFOLD_TRY(Blas(
      cublasLtMatmulDescSetAttribute(operation.handle, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
      "operation"));
  if (operands.bias != nullptr) {
    const cublasLtEpilogue_t add_bias = CUBLASLT_EPILOGUE_BIAS;
    UNFOLD_TRY(Blas(
        cublasLtMatmulDescSetAttribute(operation.handle, CUBLASLT_MATMUL_DESC_EPILOGUE, &add_bias, sizeof(add_bias)),
        "bias"));
    UNFOLD_TRY(Blas(cublasLtMatmulDescSetAttribute(operation.handle, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &operands.bias,
                                                   sizeof(operands.bias)),
                    "bias"));
  }
  UNFOLD_TRY_ASSIGN(const Algorithm chosen, AlgorithmFor(args, operation.handle));
  void* workspace = nullptr;
  if (chosen.workspace_bytes > 0) workspace = memory.Array<std::byte>(static_cast<Index>(chosen.workspace_bytes));
  UNFOLD_TRY(memory.status());
  Layouts layouts;
  UNFOLD_TRY(layouts.Make(rows, inner, columns, args.out.dtype));
  const float one = 1, before = args.accumulate ? 1 : 0;
  return Blas(
      cublasLtMatmul(context_.blas(), operation.handle, &one, operands.weight, layouts.weight.handle, operands.x,
                     layouts.x.handle, &before, operands.out, layouts.out.handle, operands.out, layouts.out.handle,
                     &chosen.algorithm, workspace, chosen.workspace_bytes, context_.stream()),
      "MatMul of " + args.x.ShapeString() + " and " + args.weight.ShapeString());
}

// Memory that is aligned less than the algorithm wants is worked on in a copy: the bits must not depend on an address.
Status TensorCoreProducts::Run(const MatMulArgs& args) {
  CallMemory memory(context_, "MatMul");
  Operands operands{RoundToBf16(context_, memory, args.weight), RoundToBf16(context_, memory, args.x), nullptr,
                    args.out.data};
  if (args.bias.rank != 0) {
    operands.bias = args.out.dtype == DType::kBF16 ? static_cast<const void*>(RoundToBf16(context_, memory, args.bias))
                                                   : WidenToF32(context_, memory, args.bias);
  }
  if (!HasVectors(operands.out)) operands.out = memory.Array<std::byte>(static_cast<Index>(args.out.bytes()));
  UNFOLD_TRY(memory.status());
  const auto copy = [&](void* to, const void* from) {
    if (to == from) return Status::Ok();
    return context_.Explain(cudaMemcpyAsync(to, from, args.out.bytes(), cudaMemcpyDeviceToDevice, context_.stream()),
                            "MatMul");
  };
  if (args.accumulate) UNFOLD_TRY(copy(operands.out, args.out.data));
  UNFOLD_TRY(Multiply(memory, operands, args));
  UNFOLD_TRY(copy(args.out.data, operands.out));
  return context_.Launched("MatMul");
}

namespace {

using Takes = bool (*)(const MatMulArgs&);

// How many of the first products can be done at once: those that `takes` takes and that have the first one's x.
std::size_t ProductsOfOneX(std::span<const MatMulArgs> products, Takes takes) {
  std::size_t count = 0;
  while (count < std::min<std::size_t>(products.size(), kMostProductsAtOnce) && takes(products[count]) &&
         products[count].x.data == products[0].x.data && products[count].x.dtype == products[0].x.dtype) {
    ++count;
  }
  return count;
}

// Whether both are products that `takes` takes, without a bias.
bool GatedTakes(const GatedProductArgs& args, Takes takes) {
  return takes(args.gate) && takes(args.up) && args.gate.bias.rank == 0 && args.up.bias.rank == 0;
}

}  // namespace

Status CudaBackend::DoGatedProduct(const GatedProductArgs& args) {
  if (GatedTakes(args, TakesFewRows)) return RunGatedFewRows(*context_, args);
  if (GatedTakes(args, TakesSeveralRows) && args.gate.x.dims[0] <= kSeveralRowsGated)
    return RunGatedSeveralRows(*context_, args);
  return Backend::DoGatedProduct(args);
}

Status CudaBackend::DoNormedGatedProduct(const RmsNormArgs& norm, const GatedProductArgs& args) {
  if (TakesNorm(norm) && GatedTakes(args, TakesFewRows)) return RunGatedFewRows(*context_, args, &norm);
  return Backend::DoNormedGatedProduct(norm, args);
}

Status CudaBackend::DoNormedMatMuls(const RmsNormArgs& norm, std::span<const MatMulArgs> products) {
  if (!products.empty() && TakesNorm(norm) && ProductsOfOneX(products, TakesFewRows) == products.size()) {
    return RunFewRows(*context_, products, &norm);
  }
  return Backend::DoNormedMatMuls(norm, products);
}

Status CudaBackend::DoMatMuls(std::span<const MatMulArgs> products) {
  while (!products.empty()) {
    const MatMulArgs& args = products.front();
    const Index rows = args.x.dims[0], inner = args.x.dims[1], columns = args.weight.dims[0];
    if (const std::size_t few = ProductsOfOneX(products, TakesFewRows); few > 0) {
      UNFOLD_TRY(RunFewRows(*context_, products.first(few)));
      products = products.subspan(few);
      continue;
    }
    const std::size_t several = ProductsOfOneX(products, TakesSeveralRows);
    if (several > 1 || (several == 1 && rows <= kSeveralRowsAlone)) {
      UNFOLD_TRY(RunSeveralRows(*context_, products.first(several)));
      products = products.subspan(several);
      continue;
    }
    products = products.subspan(1);
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
    const auto run = [&]<typename X, typename Element>(X*, const Element*) {
      const bool round = args.compute == DType::kBF16 && args.x.dtype == DType::kF32;
      const auto kernel = round ? ProductKernel<X, Element, true> : ProductKernel<X, Element, false>;
      kernel<<<blocks, kSide * kSide, 0, context_->stream()>>>(args.x.as<const X>(), args.weight.as<const Element>(),
                                                               rows, inner, columns, ProductOutput(args));
    };
    WithActivationType(args.x.dtype,
                       [&](auto* x) { WithWeightType(args.weight.dtype, [&](auto* element) { run(x, element); }); });
    UNFOLD_TRY(context_->Launched("MatMul"));
  }
  return Status::Ok();
}

}  // namespace unfold
