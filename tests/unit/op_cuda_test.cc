// SPDX-License-Identifier: Apache-2.0
// What the op suite tests on a GPU, and what is the device's alone: memory, values that are found wrong late, running
// out of memory. A machine without a GPU fails.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

#include "op_on_device.h"
#include "op_testing.h"

namespace unfold {
namespace {

// Aborts without a GPU: every test of this program needs one.
std::unique_ptr<Backend> MakeDevice() {
  Result<std::unique_ptr<Backend>> made = MakeCudaBackend();
  if (!made.ok()) {
    std::fprintf(stderr, "%s\n", made.status().ToString().c_str());
    std::abort();
  }
  return *std::move(made);
}

}  // namespace

std::vector<Candidate> Candidates() {
  return {{.name = "cuda",
           .make = [] { return std::make_unique<OnDevice>(MakeDevice()); },
           .kernels = nullptr,
           .columns_stand_alone = false}};  // cuBLASLt takes another tile for another number of columns
}

std::vector<Candidate> RefusingCandidates() { return Candidates(); }

namespace {

TEST(CudaBackend, MemoryIsAlignedAndCopiesRoundTrip) {
  const std::unique_ptr<Backend> device = MakeDevice();
  EXPECT_EQ(device->name(), "cuda");
  for (std::size_t bytes : {0, 1, 63, 1000}) {
    const Result<Buffer> buffer = device->Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(buffer->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % 256, 0U);
  }
  std::vector<float> in(1 << 20), out(in.size());
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  const Tensor host(in.data(), DType::kF32, {1 << 20});
  const Result<Tensor> weights = device->ImportWeights(host);
  ASSERT_TRUE(weights.ok());
  EXPECT_NE(weights->data, host.data);
  ASSERT_TRUE(Succeeds(device->Download(out.data(), *weights)));
  EXPECT_EQ(in, out);
  EXPECT_EQ(device->Upload(*weights, nullptr).code(), StatusCode::kInvalidArgument);
}

TEST(CudaBackend, MoreMemoryThanThereIsIsRefusedAndWorkGoesOn) {
  const std::unique_ptr<Backend> device = MakeDevice();
  for (const std::size_t bytes : {std::size_t{1} << 45, SIZE_MAX}) {
    const Result<Buffer> huge = device->Allocate(bytes);
    EXPECT_EQ(huge.status().code(), StatusCode::kResourceExhausted) << huge.status().ToString();
    EXPECT_NE(huge.status().message().find(std::to_string(bytes)), std::string::npos) << huge.status().message();
    EXPECT_NE(huge.status().message().find("free are"), std::string::npos) << huge.status().message();
  }
  // Memory of a call, too: a place for each of 2^28 gists of 2^20 rows. Nothing runs, so the tensors need no memory.
  Result<Buffer> small = device->Allocate(4096);
  ASSERT_TRUE(small.ok());
  const std::int64_t rows = 1 << 20, gists = 1 << 28;
  const Status refused = device->SelectChunks(
      {.scores = small->View(DType::kF32, {rows, 1, gists}),
       .kv_heads = 1,
       .top_k = gists,
       .chosen = {small->View(DType::kInt32, {rows, 1, gists}), small->View(DType::kInt32, {rows, 1})}});
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted) << refused.ToString();
  EXPECT_NE(refused.message().find("SelectChunks"), std::string::npos) << refused.message();

  std::int32_t three[3] = {1, 2, 3}, back[3] = {};
  const Tensor place = small->View(DType::kInt32, {3});
  ASSERT_TRUE(Succeeds(device->Upload(place, three)));
  ASSERT_TRUE(Succeeds(device->Download(back, place)));
  EXPECT_TRUE(SameBits(three, back, sizeof(three)));
}

// Of several bad values the first call's is told, once; what was right is computed.
TEST(CudaBackend, BadValuesAreToldByTheNextDownload) {
  const std::unique_ptr<Backend> device = MakeDevice();
  const Result<Buffer> memory = device->Allocate(4096);
  ASSERT_TRUE(memory.ok());
  const std::int32_t host_ids[4] = {1, 7, 0, -3};
  const float host_table[4] = {10, 11, 12, 13};
  auto* bytes = static_cast<std::byte*>(memory->data());
  const Tensor ids(bytes, DType::kInt32, {4}), table(bytes + 1024, DType::kF32, {2, 2});
  const Tensor out(bytes + 2048, DType::kF32, {4, 2}), cos(bytes + 3072, DType::kF32, {2, 1});
  ASSERT_TRUE(Succeeds(device->Upload(ids, host_ids)));
  ASSERT_TRUE(Succeeds(device->Upload(table, host_table)));
  ASSERT_TRUE(Succeeds(device->Upload(cos, host_table)));
  std::vector<float> zeros(8), found(8);
  ASSERT_TRUE(Succeeds(device->Upload(out, zeros.data())));
  ASSERT_TRUE(Succeeds(device->Embed({table, ids, out})));
  const Tensor turned = out.Reshape({4, 1, 2});
  ASSERT_TRUE(Succeeds(device->Rope({turned, ids, {cos, cos}, turned})));
  const Status told = device->Download(found.data(), out);
  EXPECT_EQ(told.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(told.message(), "Embed: ids[1] is 7, expected 0 to 1");
  ASSERT_TRUE(Succeeds(device->Embed({table, ids.Rows(0, 1), out.Rows(0, 1)})));
  ASSERT_TRUE(Succeeds(device->Download(found.data(), out)));
  EXPECT_EQ(found[0], 12);
  EXPECT_EQ(found[1], 13);
  EXPECT_EQ(found[2], 0) << "a row of a bad id was written";
}

// Recorded work reads the values of the time it runs, and what cannot be recorded says so and spoils nothing.
TEST(CudaBackend, RecordedWorkRunsAgainOnNewValues) {
  const std::unique_ptr<Backend> device = MakeDevice();
  const Result<Buffer> memory = device->Allocate(4096);
  ASSERT_TRUE(memory.ok());
  const auto tensor = [&](int place) {
    return Tensor(static_cast<std::byte*>(memory->data()) + place * 1024, DType::kF32, {1, 4});
  };
  const Tensor gate = tensor(0), up = tensor(1), out = tensor(2);
  Result<std::unique_ptr<Recording>> recorded =
      device->Record([&] { return device->SwiGlu({.gate = gate, .up = up, .out = out}); });
  ASSERT_TRUE(Succeeds(recorded.status()));
  const std::vector<float> ones(4, 1);
  ASSERT_TRUE(Succeeds(device->Upload(up, ones.data())));
  for (const float value : {1.0F, 2.0F}) {
    const std::vector<float> gates(4, value);
    std::vector<float> found(4);
    ASSERT_TRUE(Succeeds(device->Upload(gate, gates.data())));
    ASSERT_TRUE(Succeeds((*recorded)->Run()));
    ASSERT_TRUE(Succeeds(device->Download(found.data(), out)));
    for (const float one : found) EXPECT_NEAR(one, value / (1 + std::exp(-value)), 1e-6);
  }
  const Result<std::unique_ptr<Recording>> refused = device->Record([&] { return device->Upload(up, ones.data()); });
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument) << refused.status().ToString();
  ASSERT_TRUE(Succeeds((*recorded)->Run()));
  std::vector<float> found(4);
  ASSERT_TRUE(Succeeds(device->Download(found.data(), out)));
}

// A row of a query has the bits it has in every other batch of more than eight rows, where products share their x and
// where one is gated (of up to 32): matrices of which a block has part of a tile, and many tiles.
TEST(CudaBackend, RowsOfAQueryStandAlone) {
  const std::unique_ptr<Backend> device = MakeDevice();
  Random random(71);
  std::deque<Buffer> memory;
  const auto make = [&](DType type, std::initializer_list<std::int64_t> dims) {
    Tensor tensor(nullptr, type, dims);
    Result<Buffer> made = device->Allocate(tensor.bytes());
    if (made.ok()) tensor.data = memory.emplace_back(*std::move(made)).data();
    return tensor;
  };
  const auto put = [&](const Guarded& host) {
    const Tensor tensor = make((*host).dtype, {(*host).dims[0], (*host).dims[1]});
    EXPECT_TRUE(Succeeds(device->Upload(tensor, (*host).data)));
    return tensor;
  };
  constexpr std::int64_t kRows = 64;
  for (const auto& [inner, columns] : {std::array<std::int64_t, 2>{3584, 512}, {72, 40000}, {1000, 130}}) {
    const Tensor x = put(random.Make(DType::kBF16, {kRows, inner}));
    const Tensor weight = put(random.Make(DType::kBF16, {columns, inner})),
                 up = put(random.Make(DType::kBF16, {columns, inner}));
    // The sums of these rows of both matrices, and the gated product.
    const auto multiply = [&](std::int64_t begin, std::int64_t end, bool gated) {
      const Tensor sums = make(DType::kF32, {2, end - begin, columns});
      const auto product = [&](const Tensor& matrix, std::int64_t n) {
        return MatMulArgs{x.Rows(begin, end), matrix, false, sums.Rows(n, n + 1).Reshape({end - begin, columns}),
                          DType::kBF16,       true};
      };
      const MatMulArgs two[] = {product(weight, 0), product(up, 1)};
      EXPECT_TRUE(Succeeds(gated ? device->GatedProduct({two[0], two[1], two[0].out}) : device->MatMuls(two)));
      std::vector<float> found(sums.size());
      EXPECT_TRUE(Succeeds(device->Download(found.data(), sums)));
      return found;
    };
    const auto same = [&](const std::vector<float>& some, const std::vector<float>& all, std::int64_t rows,
                          std::int64_t begin, std::int64_t end, std::int64_t n) {
      const std::int64_t count = (end - begin) * columns;
      return SameBits(some.data() + n * count, all.data() + (n * rows + begin) * columns, count * sizeof(float));
    };
    const std::vector<float> all = multiply(0, kRows, false), all_gated = multiply(0, kRows / 2, true);
    for (const auto& [begin, end] : {std::array<std::int64_t, 2>{3, 12}, {16, 32}, {2, 31}, {11, 40}, {31, 64}}) {
      const std::vector<float> some = multiply(begin, end, false);
      EXPECT_TRUE(same(some, all, kRows, begin, end, 0)) << inner << " x " << columns << " from " << begin;
      EXPECT_TRUE(same(some, all, kRows, begin, end, 1)) << inner << " x " << columns << " from " << begin;
      if (end > kRows / 2) continue;
      EXPECT_TRUE(same(multiply(begin, end, true), all_gated, kRows / 2, begin, end, 0))
          << inner << " x " << columns << " from " << begin << ", gated";
    }
  }
}

TEST(CudaBackend, IsMadeByName) {
  const Result<std::unique_ptr<Backend>> made = MakeBackend("cuda", 0);
  ASSERT_TRUE(Succeeds(made.status()));
  EXPECT_EQ((*made)->name(), "cuda");
}

}  // namespace
}  // namespace unfold
