// SPDX-License-Identifier: Apache-2.0
// OnDevice: a backend whose tensors lie in device memory, as one that takes host tensors, so that the op suite runs on
// it unchanged. Each tensor of a call is mirrored in device memory between guards, at an address with no more alignment
// than its type needs in every second call; a call that succeeds brings all of them back.
#ifndef UNFOLD_TESTS_UNIT_OP_ON_DEVICE_H_
#define UNFOLD_TESTS_UNIT_OP_ON_DEVICE_H_

#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace unfold {

// The device's side of one call's tensors. The same host memory twice is the same device memory.
class Mirrors {
 public:
  Mirrors(Backend& device, bool skewed) : device_(device), skewed_(skewed) {}

  Tensor operator()(const Tensor& host) { return Mirrored(host, skewed_); }
  // Attended in bf16 there is a form for aligned memory and one for all, of other bits: always the first.
  Tensor Kv(const Tensor& host) { return Mirrored(host, skewed_ && host.dtype != DType::kBF16); }

  // Bytes of structs, which have an alignment of their own.
  Tensor Structs(const Tensor& host) { return Mirrored(host, false); }

  const Status& status() const { return status_; }

  // After a call that succeeded: all values back to the host, if nothing around them was touched.
  Status BringBack() {
    for (const Mirror& mirror : mirrors_) {
      std::vector<std::uint8_t> bytes(mirror.memory.bytes());
      UNFOLD_TRY(device_.Download(bytes.data(), mirror.Whole()));
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        const bool inside = i >= mirror.front && i < mirror.front + mirror.host.bytes();
        if (!inside && bytes[i] != kMark) return Status::Internal("wrote outside of " + mirror.host.ShapeString());
      }
      std::memcpy(mirror.host.data, bytes.data() + mirror.front, mirror.host.bytes());
    }
    return Status::Ok();
  }

 private:
  static constexpr std::size_t kGuard = 256;
  static constexpr std::uint8_t kMark = 0xa5;

  struct Mirror {
    Tensor host;
    std::size_t front;
    Buffer memory;

    Tensor Whole() const { return memory.View(DType::kInt8, {static_cast<std::int64_t>(memory.bytes())}); }
  };

  Tensor Mirrored(const Tensor& host, bool skewed) {
    if (host.data == nullptr || host.bytes() == 0 || !status_.ok()) return host;
    for (const Mirror& known : mirrors_) {
      if (known.host.data == host.data && known.host.bytes() == host.bytes()) return As(host, known);
    }
    const std::size_t front = kGuard + (skewed ? DTypeBytes(host.dtype) : 0);
    Result<Buffer> memory = device_.Allocate(host.bytes() + 2 * kGuard + DTypeBytes(host.dtype));
    if (!memory.ok()) {
      status_ = memory.status();
      return host;
    }
    mirrors_.push_back({host, front, *std::move(memory)});
    std::vector<std::uint8_t> bytes(mirrors_.back().memory.bytes(), kMark);
    std::memcpy(bytes.data() + front, host.data, host.bytes());
    status_ = device_.Upload(mirrors_.back().Whole(), bytes.data());
    return As(host, mirrors_.back());
  }

  static Tensor As(Tensor host, const Mirror& mirror) {
    host.data = static_cast<std::uint8_t*>(mirror.memory.data()) + mirror.front;
    return host;
  }

  Backend& device_;
  bool skewed_;
  std::deque<Mirror> mirrors_;
  Status status_;
};

class OnDevice final : public Backend {
 public:
  explicit OnDevice(std::unique_ptr<Backend> device) : device_(std::move(device)) {}

  std::string_view name() const override { return device_->name(); }
  DType WorkingType(DType compute) const override { return device_->WorkingType(compute); }
  std::int64_t FeedForwardRows() const override { return device_->FeedForwardRows(); }
  std::size_t TurnedQueryBytes(const Tensor& q, std::int64_t kv_heads, std::int64_t documents) const override {
    return device_->TurnedQueryBytes(q, kv_heads, documents);
  }
  Result<Buffer> Allocate(std::size_t bytes) override { return device_->Allocate(bytes); }
  Status Upload(const Tensor& device, const void* host) override { return device_->Upload(device, host); }
  Status Download(void* host, const Tensor& device) override { return device_->Download(host, device); }
  Result<Buffer> AllocateHost(std::size_t bytes) override { return device_->AllocateHost(bytes); }
  Status FinishDownloads() override { return device_->FinishDownloads(); }
  Result<Tensor> ImportWeights(const Tensor& host) override { return device_->ImportWeights(host); }

 private:
  Status DoStartDownload(void* host, const Tensor& device, DType type) override {
    return device_->StartDownload(host, device, type);
  }
  Status DoCopy(const Tensor& from, const Tensor& to) override {
    Mirrors mirror(*device_, ++calls_ % 2 == 0);
    const Tensor device_from = mirror(from), device_to = mirror(to);
    UNFOLD_TRY(mirror.status());
    UNFOLD_TRY(device_->Copy(device_from, device_to));
    return mirror.BringBack();
  }
  // Calls the device's operation with `args`, whose tensors `mirror` has replaced.
  template <typename Args, typename Replace>
  Status Call(Status (Backend::*operation)(const Args&), Args args, Replace replace) {
    Mirrors mirror(*device_, ++calls_ % 2 == 0);
    replace(args, mirror);
    UNFOLD_TRY(mirror.status());
    UNFOLD_TRY(((*device_).*operation)(args));
    return mirror.BringBack();
  }

  static void Replace(Mirrors& mirror, RopeTable& rope) { rope = {mirror(rope.cos), mirror(rope.sin)}; }
  static void Replace(Mirrors& mirror, ChosenGists& lists) {
    for (Tensor* tensor : {&lists.gists, &lists.counts, &lists.children, &lists.child_counts}) {
      *tensor = mirror(*tensor);
    }
  }
  static void Replace(Mirrors& mirror, ContextView& context) {
    for (Tensor* tensor : {&context.segment_offset, &context.segment_sink}) *tensor = mirror(*tensor);
    for (Tensor* tensor : {&context.sink_k, &context.sink_v}) *tensor = mirror.Kv(*tensor);
    for (GistLevel& level : context.gists) {
      for (Tensor* tensor : {&level.segment, &level.child}) *tensor = mirror(*tensor);
      for (Tensor* tensor : {&level.k, &level.v}) *tensor = mirror.Kv(*tensor);
    }
  }

  Status DoEmbed(const EmbedArgs& args) override {
    return Call(&Backend::Embed, args, [](EmbedArgs& a, Mirrors& mirror) {
      a.table = mirror(a.table), a.ids = mirror(a.ids), a.out = mirror(a.out);
    });
  }
  Status DoRmsNorm(const RmsNormArgs& args) override {
    return Call(&Backend::RmsNorm, args, [](RmsNormArgs& a, Mirrors& mirror) { Replace(mirror, a); });
  }
  static void Replace(Mirrors& mirror, RmsNormArgs& a) {
    a.x = mirror(a.x), a.weight = mirror(a.weight), a.out = mirror(a.out);
  }
  static void Replace(Mirrors& mirror, MatMulArgs& a) {
    for (Tensor* tensor : {&a.x, &a.weight, &a.out, &a.bias}) *tensor = mirror(*tensor);
  }
  static void Replace(Mirrors& mirror, GatedProductArgs& a) {
    Replace(mirror, a.gate);
    Replace(mirror, a.up);
    a.out = mirror(a.out);
  }
  // Calls multiply(norm or null, products).
  template <typename Multiply>
  Status CallMatMuls(const RmsNormArgs* norm, std::span<const MatMulArgs> products, Multiply multiply) {
    std::vector<MatMulArgs> all(products.begin(), products.end());
    Mirrors mirror(*device_, ++calls_ % 2 == 0);
    RmsNormArgs device_norm;
    if (norm != nullptr) Replace(mirror, device_norm = *norm);
    for (MatMulArgs& a : all) Replace(mirror, a);
    UNFOLD_TRY(mirror.status());
    UNFOLD_TRY(multiply(device_norm, all));
    return mirror.BringBack();
  }
  Status DoMatMuls(std::span<const MatMulArgs> products) override {
    return CallMatMuls(nullptr, products, [&](const RmsNormArgs&, const auto& all) { return device_->MatMuls(all); });
  }
  Status DoNormedMatMuls(const RmsNormArgs& norm, std::span<const MatMulArgs> products) override {
    return CallMatMuls(&norm, products,
                       [&](const RmsNormArgs& own, const auto& all) { return device_->NormedMatMuls(own, all); });
  }
  Status DoGatedProduct(const GatedProductArgs& args) override {
    return Call(&Backend::GatedProduct, args, [](GatedProductArgs& a, Mirrors& mirror) { Replace(mirror, a); });
  }
  Status DoNormedGatedProduct(const RmsNormArgs& norm, const GatedProductArgs& args) override {
    Mirrors mirror(*device_, ++calls_ % 2 == 0);
    RmsNormArgs device_norm = norm;
    GatedProductArgs device_args = args;
    Replace(mirror, device_norm);
    Replace(mirror, device_args);
    UNFOLD_TRY(mirror.status());
    UNFOLD_TRY(device_->NormedGatedProduct(device_norm, device_args));
    return mirror.BringBack();
  }
  Status DoRope(const RopeArgs& args) override {
    return Call(&Backend::Rope, args, [](RopeArgs& a, Mirrors& mirror) {
      Replace(mirror, a.rope);
      a.x = mirror(a.x), a.positions = mirror(a.positions), a.out = mirror(a.out);
    });
  }
  Status DoSwiGlu(const SwiGluArgs& args) override {
    return Call(&Backend::SwiGlu, args, [](SwiGluArgs& a, Mirrors& mirror) {
      a.gate = mirror(a.gate), a.up = mirror(a.up), a.out = mirror(a.out);
    });
  }
  Status DoGistPrefill(const GistPrefillArgs& args) override {
    return Call(&Backend::GistPrefill, args, [](GistPrefillArgs& a, Mirrors& mirror) {
      a.q = mirror(a.q), a.k = mirror(a.k), a.v = mirror(a.v), a.out = mirror(a.out);
    });
  }
  // The same for several requests.
  template <typename Args, typename Replace>
  Status CallMany(Status (Backend::*operation)(std::span<const Args>), std::span<const Args> requests,
                  Replace replace) {
    std::vector<Args> all(requests.begin(), requests.end());
    std::vector<ContextView> contexts(all.size());
    Mirrors mirror(*device_, ++calls_ % 2 == 0);
    for (std::size_t i = 0; i < all.size(); ++i) {
      if constexpr (requires { all[i].context; }) {
        if (all[i].context != nullptr) {
          contexts[i] = *all[i].context;
          OnDevice::Replace(mirror, contexts[i]);
          all[i].context = &contexts[i];
        }
      }
      replace(all[i], mirror);
    }
    UNFOLD_TRY(mirror.status());
    UNFOLD_TRY(((*device_).*operation)(all));
    return mirror.BringBack();
  }

  Status DoUnfold(std::span<const UnfoldArgs> requests) override {
    return CallMany(&Backend::Unfold, requests, [](UnfoldArgs& a, Mirrors& mirror) {
      Replace(mirror, a.rope);
      for (Tensor* tensor : {&a.k, &a.v, &a.k_scale, &a.v_scale, &a.positions, &a.out_k, &a.out_v}) {
        *tensor = mirror(*tensor);
      }
    });
  }
  Status DoGistScore(std::span<const GistScoreArgs> requests) override {
    return CallMany(&Backend::GistScore, requests, [](GistScoreArgs& a, Mirrors& mirror) {
      Replace(mirror, a.rope);
      Replace(mirror, a.parents);
      a.q = mirror(a.q), a.positions = mirror(a.positions), a.scores = mirror(a.scores);
      a.best = mirror(a.best);
      a.turned = mirror.Structs(a.turned);
    });
  }
  Status DoSelectChunks(std::span<const SelectChunksArgs> requests) override {
    return CallMany(&Backend::SelectChunks, requests, [](SelectChunksArgs& a, Mirrors& mirror) {
      Replace(mirror, a.parents);
      Replace(mirror, a.chosen);
      a.scores = mirror(a.scores), a.best = mirror(a.best);
    });
  }
  Status DoSparseAttention(std::span<const SparseAttentionArgs> requests) override {
    return CallMany(&Backend::SparseAttention, requests, [](SparseAttentionArgs& a, Mirrors& mirror) {
      Replace(mirror, a.rope);
      for (ChosenGists& chosen : a.chosen) Replace(mirror, chosen);
      for (Tensor* tensor : {&a.q, &a.positions, &a.row_documents, &a.chunk_mass, &a.out}) {
        *tensor = mirror(*tensor);
      }
      for (Tensor* tensor : {&a.chunks, &a.turned}) *tensor = mirror.Structs(*tensor);
      for (Tensor* tensor : {&a.prefix_k, &a.prefix_v, &a.page_k, &a.page_v, &a.tail_k, &a.tail_v}) {
        *tensor = mirror.Kv(*tensor);
      }
    });
  }
  // Raw rows stay where they are: the caller has them from AllocateHost.
  Status DoUnfoldChunks(std::span<const UnfoldChunksArgs> requests) override {
    return CallMany(&Backend::UnfoldChunks, requests, [](UnfoldChunksArgs& a, Mirrors& mirror) {
      Replace(mirror, a.rope);
      Replace(mirror, a.chosen);
      PagePool& pool = a.pool;
      for (Tensor* tensor : {&pool.page_slot, &pool.page_call, &pool.slot_page, &pool.missing}) {
        *tensor = mirror(*tensor);
      }
      for (Tensor* tensor : {&pool.page_k, &pool.page_v}) *tensor = mirror.Kv(*tensor);
      for (Tensor* tensor : {&pool.raw, &pool.counts, &a.chunks, &a.places, &a.found})
        *tensor = mirror.Structs(*tensor);
    });
  }
  Status DoRouteScores(std::span<const RouteScoreArgs> heads) override {
    std::vector<RouteScoreArgs> all(heads.begin(), heads.end());
    Mirrors mirror(*device_, ++calls_ % 2 == 0);
    for (RouteScoreArgs& a : all) a.q = mirror(a.q), a.keys = mirror(a.keys), a.best = mirror(a.best);
    UNFOLD_TRY(mirror.status());
    UNFOLD_TRY(device_->RouteScores(all));
    return mirror.BringBack();
  }
  Status DoCopyRows(std::span<const RowPiece> pieces) override {
    std::vector<RowPiece> all(pieces.begin(), pieces.end());
    Mirrors mirror(*device_, ++calls_ % 2 == 0);
    for (RowPiece& piece : all) piece.from = mirror(piece.from), piece.to = mirror(piece.to);
    UNFOLD_TRY(mirror.status());
    UNFOLD_TRY(device_->CopyRows(all));
    return mirror.BringBack();
  }
  Status DoXorWords(const XorWordsArgs& args) override {
    return Call(&Backend::XorWords, args,
                [](XorWordsArgs& a, Mirrors& mirror) { a.words = mirror(a.words), a.out = mirror(a.out); });
  }

  std::unique_ptr<Backend> device_;
  int calls_ = 0;
};

}  // namespace unfold

#endif  // UNFOLD_TESTS_UNIT_OP_ON_DEVICE_H_
