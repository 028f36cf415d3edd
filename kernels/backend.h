// SPDX-License-Identifier: Apache-2.0
// Backend: the seam between the model and the machine. Eleven model-shaped operations (products and routing heads may
// be given several at once) and one that only reads, each with one Args struct that states shapes (letters: tensor.h),
// types and units. The public method checks them, the private virtual works, so comment and check stand side by side.
// Operations of a decoding step take those of several requests at once: none needs another's result, and each has the
// bits it has alone, but for what SparseAttention says.
//
// Tensors lie in the backend's memory, spans in the host's. Shapes, types and spans are checked before a call; values
// inside tensors by the backend as it reads them.
//
// Laws, held by the op suite (tests/unit/op_suite_test.cc) for every backend against `ref`:
//   - the same call twice gives the same bits; ties go to the lower index;
//   - a row's result depends on that row alone, never on the batch it ran in. Stored KV equals fresh KV bit for bit;
//   - |result - ref| stays within the bound stated at the op: c * eps * the norms of what was summed (eps = 2^-23).
//
// Thread-compatible: one thread at a time; a backend spreads the work over its own pool.
#ifndef UNFOLD_KERNELS_BACKEND_H_
#define UNFOLD_KERNELS_BACKEND_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/gist_mask.h"
#include "kernels/page_pool.h"
#include "kernels/tensor.h"
#include "unfold/base.h"

namespace unfold {

// Rotary tables: row p holds cos and sin of p * inv_freq[i]. A head's dims i and i + D/2 turn together (GPT-NeoX form).
struct RopeTable {
  Tensor cos;  // f32 [positions, D/2]
  Tensor sin;  // f32 [positions, D/2]
};

struct EmbedArgs {  // out[t] = table[ids[t]], widened to f32
  Tensor table;     // f32|f16|bf16 [V, M]
  Tensor ids;       // i32 [T], each in [0, V)
  Tensor out;       // f32 [T, M]
};

// Activations of a pass may be bf16 where an op says f32|bf16 and the backend has a WorkingType of bf16; others refuse
// them. An op reads them as they are and rounds once what it writes, to nearest, ties to even: an output in bf16 is
// within 2^-8 * |out| more of what `ref` has before it rounds.
struct RmsNormArgs {  // out = x / sqrt(mean(x^2) + epsilon) * weight. Rows of any rank-2 view; out may be x.
                      // Bound: (M / 2 + 8) * eps * |out|
  Tensor x;           // f32|bf16 [T, M]
  Tensor weight;      // f32|f16|bf16 [M]
  float epsilon = 0;
  Tensor out;  // f32|bf16 [T, M]
};

// out = x * weight^T (+ out when accumulate, + bias when there is one). With compute bf16 x is first rounded to bf16
// (to nearest, ties to even); weights stay as stored, sums are f32. Bound: (K + 2) * eps * |x row| * |weight row| (+
// eps * |out before or bias|), x as rounded. With compute bf16 and
// + K * 2^-126 * (1 + |x row| + |weight row|): a backend may take subnormal inputs and sums as zero.
struct MatMulArgs {
  Tensor x;       // f32 [T, K], with compute bf16 f32|bf16
  Tensor weight;  // f32|f16|bf16 [N, K], rows contiguous as in the checkpoint
  bool accumulate = false;
  Tensor out;                   // f32 [T, N], with compute bf16 and without accumulate f32|bf16
  DType compute = DType::kF32;  // or kBF16
  bool query = false;  // rows of a question or an answer, which are not stored: their bits may depend on how many there
                       // are, so a backend can take another form for few rows
  Tensor bias{};       // f32|f16|bf16 [N], optional; not with accumulate
};

struct RopeArgs {    // out[t, h] = x[t, h] rotated to positions[t]; out may be x.
                     // Bound: 2 * eps * the sum of both magnitudes of the pair
  Tensor x;          // f32|bf16 [T, H, D]
  Tensor positions;  // i32 [T], each in [0, table positions)
  RopeTable rope;
  Tensor out;  // f32|bf16 [T, H, D]
};

struct SwiGluArgs {  // out = silu(gate) * up; out may be gate. Bound: 6 * eps * |out| + 2^-119 * |up|, the last since
                     // exp(-gate) or its reciprocal leaves the range of f32 below a gate of -87.3
  Tensor gate;       // f32|bf16 [T, F]
  Tensor up;         // as gate
  Tensor out;        // as gate
};

// out = silu(x * gate^T) * (x * up^T), as MatMuls and then SwiGlu would. A backend may do it in one piece: what is in
// the outs of the products afterwards is not said. Their bits may then differ from those of the two, within the bound
// of SwiGlu and what the bounds of the products become in it: each is at most 1.1 times the other's factor.
struct GatedProductArgs {
  MatMulArgs gate, up;  // of one x, without accumulate, their outs alike
  Tensor out;           // as their outs; may be one of them
};

// Attention of documents encoded apart, packed into one batch, under the gist mask (method.md section 3). A sequence
// whose rules have no gist level is plain causal. Reads only visible keys. Logits are scaled by 1 / sqrt(D).
// Bound: as SparseAttention, with keys = the rows that a row may see. With compute bf16 a backend may round q, k, v and
// the softmax terms to bf16, and read keys beside the visible ones without weighing them: then
// + 2^-7 * (1 + |q| * max |k| / sqrt(D)) * max |v|.
struct GistPrefillArgs {
  Tensor q;  // f32 [T, H, D], rotated; with compute bf16 f32|bf16, as each tensor here
  Tensor k;  // f32 [T, Hk, D], rotated
  Tensor v;  // f32 [T, Hk, D]
  // Host memory, T entries and B + 1 entries: sequence b is rows [sequence_begin[b], sequence_begin[b+1]).
  std::span<const GistToken> tokens;
  std::span<const std::int64_t> sequence_begin;
  MaskRules rules;
  Tensor out;                   // f32 [T, H, D]
  DType compute = DType::kF32;  // or kBF16
};

// Brings KV rows, as stored, into attention layout: rotates keys to `positions`, widens, rounds to the type of `out_k`,
// and writes rows [row_begin, row_begin + T) of every head, or those that first_position says. Unfolds raw chunks into
// pages, loads gists and sinks, appends the tail. Element (t, h, e) of int8 rows stands for k[t, h, e] * k_scale[h, e],
// likewise v. Bound: 2 * eps * the sum of both magnitudes of the pair; with bf16 out + 2^-8 * |out|
struct UnfoldArgs {
  Tensor k;          // f32|bf16|int8 [T, Hk, D], not rotated
  Tensor v;          // as k
  Tensor k_scale{};  // bf16 [Hk, D]; with int8 only
  Tensor v_scale{};  // bf16 [Hk, D]; with int8 only
  Tensor positions;  // i32 [T]
  RopeTable rope;
  std::int64_t row_begin = 0;
  std::int64_t first_position = -1;  // not negative: row t goes to row positions[t] - first_position instead
  Tensor out_k;                      // f32|bf16 [Hk, rows, D]
  Tensor out_v;                      // as out_k
};

// KV of a context: every tensor of keys and values that one call reads is f32, or every one is bf16 (`kv` in the shapes
// below; `cpu` takes f32 alone). With bf16 a backend may round the rotated query and the softmax terms to bf16.

// The gists of one level of a context, document after document. Level 0: one gist per chunk, in chunk order. A gist of
// level n >= 1 (H-SSA) stands for a run of gists of level n - 1, its children.
struct GistLevel {
  Tensor segment;  // i32 [m + 1]: gists of document j are [segment[j], segment[j+1])
  Tensor child;  // i32 [C_n + 1]: children of gist s are [child[s], child[s+1]) of the level below. Not set at level 0
  Tensor k;      // kv [Hk, C_n, D]
  Tensor v;      // kv [Hk, C_n, D]
};

// The compressed context of a query at one layer: m documents, each encoded alone, keys rotated to positions inside
// their own document. A query at global position p scores document j rotated to p - segment_offset[j], so a document's
// keys are valid wherever it is placed (design.md section 6).
struct ContextView {
  Tensor segment_offset;  // i32 [m]: global position of each document's first token
  Tensor segment_sink;    // i32 [m + 1]: sink rows of document j are [segment_sink[j], segment_sink[j+1])
  Tensor sink_k;          // kv [Hk, sinks, D]   always visible
  Tensor sink_v;          // kv [Hk, sinks, D]
  int num_levels = 1;
  std::array<GistLevel, kMaxGistLevels> gists;  // the first num_levels are set; C = C_0 below

  std::int64_t num_documents() const { return segment_offset.dims[0]; }
};

// Gists of one level chosen for each query row and key/value head.
struct ChosenGists {
  Tensor gists;   // i32 [T, Hk, C_n], ascending, the first counts[t, hk] are set
  Tensor counts;  // i32 [T, Hk]
  // Optional, above level 0, where Backend::ListsChildren(): their children, which SelectChunks leaves there for the
  // calls of the level below, i32 [T, Hk, C_(n - 1)] and [T, Hk].
  Tensor children{}, child_counts{};

  ChosenGists Rows(std::int64_t begin, std::int64_t end) const {
    const auto part = [&](const Tensor& of) { return of.rank == 0 ? Tensor() : of.Rows(begin, end); };
    return {part(gists), part(counts), part(children), part(child_counts)};
  }
};

constexpr std::int64_t kScoresOfBest = 16;
// Of so many scores (GistScoreArgs::best).
constexpr std::int64_t NumBest(std::int64_t scores) { return (scores + kScoresOfBest - 1) / kScoresOfBest; }

// The gists of one level that are candidates for a query row and key/value head: the children of `parents`, the gists
// chosen at the level above, or all of the level when `parents` is not set (method.md 4.4). Candidate i is the i-th in
// ascending order; what an op reads or writes per candidate stands at i, so work grows with candidates alone.
struct GistScoreArgs {  // scores[t, h, i] = <q[t, h] rotated, k[h / G, candidate i]>, no scaling (method.md 4.1).
                        // Bound: (D + 6) * eps * |q| * |k|, with bf16 keys + 2^-8 * |q| * |k|
  Tensor q;             // f32 [T, H, D], not rotated
  Tensor positions;     // i32 [T], global
  RopeTable rope;
  const ContextView* context = nullptr;  // segments and gists are read
  int level = 0;
  ChosenGists parents{};
  Tensor scores;  // f32 [T, H, C_level]; past the last candidate nothing is written
  // Optional: f32 [T, H, NumBest(C_level)], the best of every kScoresOfBest scores, NaN not counted; minus
  // infinity of none. SelectChunks then need not look at all scores.
  Tensor best{};
  // Optional: int8 [Backend::TurnedQueryBytes], at a multiple of 16 bytes. What a backend makes of the queries once for
  // every document is left there for the calls after, of the same q, positions, rope and context, to use.
  Tensor turned{};
  bool is_turned = false;  // a call before has left it
};

// Per head the best candidates, then the union over the G heads of a group (method.md 4.2 and 4.3).
struct SelectChunksArgs {
  Tensor scores;                         // f32 [T, H, C_level], as GistScore wrote them
  const ContextView* context = nullptr;  // read when `parents` or `chosen.children` are set
  int level = 0;
  ChosenGists parents{};
  std::int64_t kv_heads = 0;  // Hk
  std::int64_t top_k = 0;     // gists per head; used when top_p is 0
  float top_p = 0;            // > 0: smallest set whose softmax(scale * score) mass reaches top_p, best first
  float scale = 1;            // 1 / sqrt(D), for top_p
  ChosenGists chosen{};
  Tensor best{};  // optional, as GistScore wrote them
};

// Unfolds the chosen chunks that have no page yet. Pages for them are those never taken, then those used longest ago:
// of the oldest eighth of all ages, in the order of the pool. A page that this call has used is not taken. Several
// requests are one call: they share a pool, and each has one row. What two of them lack is unfolded for one.
// Bound: of a page's values as Unfold.
struct UnfoldChunksArgs {
  Tensor places;  // int8 [C, sizeof(ChunkPlace)], at a multiple of 16 bytes
  int layer = 0;
  ChosenGists chosen;  // of level 0
  RopeTable rope;
  PagePool pool;
  Tensor chunks;  // int8 [T, Hk, C, sizeof(ChosenChunk)], at a multiple of 16 bytes: an entry for each that is chosen
  Tensor found;   // int8 [sizeof(PagesFound)], at a multiple of 16 bytes. Added to
};

// Which gists of the documents a query row attends.
enum class GistRead : std::uint8_t {
  kChosen,     // the chosen ones of every level, and the raw tokens of chosen chunks (method.md 4.5)
  kAll,        // all of every level, no raw tokens: link tokens (method.md section 6)
  kCollapsed,  // as kAll, at layer 0: gists of a level share one value per head, so only the log-sum-exp of their
               // logits is needed
};

// Attention of query rows over prefix, sinks, gists, raw tokens of chosen chunks, and the tail. Of several requests the
// sums may be split otherwise than of one: then a request's bits are the same whatever the others are.
// Bound: (2 * keys + D + 8) * eps * (1 + scale * |q| * max |k|) * max |v|; with bf16 KV 2^-7 beside eps's factor
struct SparseAttentionArgs {
  Tensor q;          // f32 [T, H, D], not rotated
  Tensor positions;  // i32 [T], global
  RopeTable rope;
  float scale = 1;  // 1 / sqrt(D)
  Tensor prefix_k;  // kv [Hk, rows >= prefix_tokens, D], rotated; always visible
  Tensor prefix_v;  // kv [Hk, rows, D]
  std::int64_t prefix_tokens = 0;
  const ContextView* context = nullptr;  // nullptr: no documents
  GistRead read = GistRead::kChosen;
  // By level; with kChosen, where the context has gists. Level 0's names the chunks of `chunks`.
  std::array<ChosenGists, kMaxGistLevels> chosen;
  // Raw tokens of a chosen chunk: the first rows of its page. A chunk without one is attended by its gist alone. With
  // kChosen, where the context has gists:
  Tensor chunks;         // int8 [T, Hk, C, sizeof(ChosenChunk)], ascending, as UnfoldChunks wrote it of chosen[0]
  Tensor page_k;         // kv [P, L_max, D]
  Tensor page_v;         // kv [P, L_max, D]
  Tensor row_documents;  // i32 [T], optional: row t sees the first row_documents[t] documents. Not set: all
  Tensor tail_k;         // kv [Hk, rows, D], rotated
  Tensor tail_v;         // kv [Hk, rows, D]
  // Global position of tail row 0: a query row at position p sees tail rows [0, p - tail_position].
  std::int64_t tail_position = 0;
  // Optional: += the last query row's attention mass on each chunk (its gist and raw tokens), summed over the heads of
  // each key/value head. For citations; with kChosen only. Bound: that of a weight for each head, and of the sum.
  Tensor chunk_mass;  // f32 [Hk, C]
  Tensor turned;      // optional, as GistScore left it
  Tensor out;         // f32 [T, H, D]
};

// One routing head against the collection's un-rotated gist keys (method.md section 7).
// best[t, p] = max over chunks c of unit p of <q[t], keys[c]>, -infinity for a unit without chunks.
// Bound: (D + 2) * eps * |q| * |key|
struct RouteScoreArgs {
  Tensor q;                                  // f32 [T, D], not rotated
  Tensor keys;                               // f32|bf16 [C, D], not rotated
  std::span<const std::int64_t> unit_begin;  // host memory; unit p is rows [unit_begin[p], unit_begin[p+1]); 0 .. C
  Tensor best;                               // f32 [T, units]
  // Sums over all chunks per query row, for the standardised score. Overwritten.
  std::span<double> sum;          // T entries
  std::span<double> sum_squares;  // T entries
};

// Rows [from_begin, from_begin + count) of every head of `from` go to rows [to_begin, ...) of `to`. Exact.
struct RowPiece {
  Tensor from;  // f32|bf16 [Hk, rows, D]
  std::int64_t from_begin = 0;
  Tensor to;  // as from, of any number of rows
  std::int64_t to_begin = 0;
  std::int64_t count = 0;
};

// out[0] = the exclusive or of all words. Exact. Reads every byte once, as fast as the machine can: what bandwidth is
// measured with.
struct XorWordsArgs {
  Tensor words;  // i32 [n]
  Tensor out;    // i32 [1]
};

// Host memory, and where it goes: bytes [to, to + bytes) of a tensor.
struct HostPiece {
  const void* from = nullptr;
  std::size_t bytes = 0, to = 0;
};

// Operations recorded once, to be run many times.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual Status Run() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;
  // The type in which activations and KV should lie for products of `compute`: f32, or bf16 where that is faster and
  // rounds no more than the products do.
  virtual DType WorkingType(DType /*compute*/) const { return DType::kF32; }
  // The most rows of a pass to run through a feed-forward network at once: enough to keep the machine busy, and few
  // enough that what lies between its products stays in caches or takes a small part of the memory.
  virtual std::int64_t FeedForwardRows() const { return 1024; }
  // Tokens of documents that a pass should have to keep it busy.
  virtual std::int64_t EncodeTokens() const { return 2048; }

  // Whether SelectChunks looks at SelectChunksArgs::best.
  virtual bool SelectsByBest() const { return false; }
  // Whether SelectChunks leaves ChosenGists::children, and the calls of the level below look at them.
  virtual bool ListsChildren() const { return false; }
  // Of GistScoreArgs::turned, for q [T, H, D] and a context of so many documents; 0 where there is no use for it.
  virtual std::size_t TurnedQueryBytes(const Tensor& /*q*/, std::int64_t /*kv_heads*/,
                                       std::int64_t /*documents*/) const {
    return 0;
  }

  // Device memory, not initialised. ResourceExhausted with what was asked.
  virtual Result<Buffer> Allocate(std::size_t bytes) = 0;
  // Host to device and back; complete on return.
  virtual Status Upload(const Tensor& device, const void* host) = 0;
  virtual Status Download(void* host, const Tensor& device) = 0;
  // One tensor's elements to another of the same type and size.
  Status Copy(const Tensor& from, const Tensor& to);
  // Host memory for downloads that run beside later work, and for raw rows: operations read it where it is.
  // ResourceExhausted with what was asked.
  virtual Result<Buffer> AllocateHost(std::size_t bytes) = 0;
  // Whether operations return before they are done, so that each Download waits for all work before it.
  virtual bool RunsBehind() const { return false; }
  // Starts to bring `device`, f32, to `host`, inside memory of AllocateHost, as f32 or as bf16 (to nearest, ties to
  // even). `device` may be overwritten at once; `host` is there after the next FinishDownloads.
  Status StartDownload(void* host, const Tensor& device, DType type);
  // Waits for all downloads that were started, and for no work that was given after them.
  virtual Status FinishDownloads() = 0;
  // Whether whole pieces of host memory come faster, and beside other work, than where operations read them: then
  // StartUpload is worth while.
  virtual bool UploadsAhead() const { return false; }
  // Starts to bring pieces of memory of AllocateHost to `device`, int8, once the work given before is done. They must
  // stay until they are there. Returns a number for AwaitUpload.
  Result<std::uint64_t> StartUpload(const Tensor& device, std::span<const HostPiece> pieces);
  // Work given from now on waits for that upload; the host does not.
  virtual Status AwaitUpload(std::uint64_t /*upload*/) { return Status::Ok(); }
  // A tensor for weights that lie in host memory (a mapped file), valid while the backend and that memory live: `ref`
  // returns the view itself, `cpu` a copy in large pages.
  virtual Result<Tensor> ImportWeights(const Tensor& host) = 0;
  // Records the operations that `work` calls; whether it is called now, or in each Run, is the backend's matter. What
  // runs is the same operations on the same tensors and host spans, whose values may have changed. `work` neither
  // uploads nor downloads. The backend must outlive the recording.
  virtual Result<std::unique_ptr<Recording>> Record(std::function<Status()> work);

  Status Embed(const EmbedArgs& args);
  Status RmsNorm(const RmsNormArgs& args);
  Status MatMul(const MatMulArgs& args) { return MatMuls(std::span(&args, 1)); }
  // Products of which none needs another's result: done as one piece of work, each with the bits it has alone.
  Status MatMuls(std::span<const MatMulArgs> products);
  // MatMuls of norm.out and GatedProduct of it, as RmsNorm and then they would; no out is norm.x. A backend may do it
  // in one piece: whether norm.out is written is then not said, and what products read of it, before it is rounded, is
  // within RmsNorm's bound.
  Status NormedMatMuls(const RmsNormArgs& norm, std::span<const MatMulArgs> products);
  Status NormedGatedProduct(const RmsNormArgs& norm, const GatedProductArgs& args);
  Status Rope(const RopeArgs& args);
  Status SwiGlu(const SwiGluArgs& args);
  Status GatedProduct(const GatedProductArgs& args);
  Status GistPrefill(const GistPrefillArgs& args);
  Status Unfold(const UnfoldArgs& args) { return Unfold(std::span(&args, 1)); }
  Status Unfold(std::span<const UnfoldArgs> requests);
  Status GistScore(const GistScoreArgs& args) { return GistScore(std::span(&args, 1)); }
  Status GistScore(std::span<const GistScoreArgs> requests);
  Status SelectChunks(const SelectChunksArgs& args) { return SelectChunks(std::span(&args, 1)); }
  Status SelectChunks(std::span<const SelectChunksArgs> requests);
  Status UnfoldChunks(const UnfoldChunksArgs& args) { return UnfoldChunks(std::span(&args, 1)); }
  Status UnfoldChunks(std::span<const UnfoldChunksArgs> requests);
  Status SparseAttention(const SparseAttentionArgs& args) { return SparseAttention(std::span(&args, 1)); }
  Status SparseAttention(std::span<const SparseAttentionArgs> requests);
  Status RouteScore(const RouteScoreArgs& args) { return RouteScores(std::span(&args, 1)); }
  // The routing heads of one collection: the same units, T and D, keys of one type. Each has the bits it has alone.
  Status RouteScores(std::span<const RouteScoreArgs> heads);
  Status CopyRows(std::span<const RowPiece> pieces);
  Status XorWords(const XorWordsArgs& args);

 protected:
  virtual Status DoGatedProduct(const GatedProductArgs& args);
  virtual Status DoNormedMatMuls(const RmsNormArgs& norm, std::span<const MatMulArgs> products);
  virtual Status DoNormedGatedProduct(const RmsNormArgs& norm, const GatedProductArgs& args);

 private:
  Status CheckTurned(std::string_view op, const Tensor& turned, const Tensor& q, std::int64_t kv_heads,
                     std::int64_t documents) const;
  virtual Status DoStartDownload(void* host, const Tensor& device, DType type) = 0;
  virtual Result<std::uint64_t> DoStartUpload(const Tensor& device, std::span<const HostPiece> pieces);
  virtual Status DoCopy(const Tensor& from, const Tensor& to) = 0;
  virtual Status DoEmbed(const EmbedArgs& args) = 0;
  virtual Status DoRmsNorm(const RmsNormArgs& args) = 0;
  static Status CheckRmsNorm(const RmsNormArgs& args);
  static Status CheckGatedProduct(const GatedProductArgs& args);
  static Status CheckMatMul(const MatMulArgs& args);
  virtual Status DoMatMuls(std::span<const MatMulArgs> products) = 0;
  virtual Status DoRope(const RopeArgs& args) = 0;
  virtual Status DoSwiGlu(const SwiGluArgs& args) = 0;
  virtual Status DoGistPrefill(const GistPrefillArgs& args) = 0;
  static Status CheckUnfold(const UnfoldArgs& args);
  virtual Status DoUnfold(std::span<const UnfoldArgs> requests) = 0;
  Status CheckGistScore(const GistScoreArgs& args) const;
  virtual Status DoGistScore(std::span<const GistScoreArgs> requests) = 0;
  static Status CheckSelectChunks(const SelectChunksArgs& args);
  virtual Status DoSelectChunks(std::span<const SelectChunksArgs> requests) = 0;
  static Status CheckUnfoldChunks(const UnfoldChunksArgs& args);
  virtual Status DoUnfoldChunks(std::span<const UnfoldChunksArgs> requests) = 0;
  Status CheckSparseAttention(const SparseAttentionArgs& args) const;
  virtual Status DoSparseAttention(std::span<const SparseAttentionArgs> requests) = 0;
  static Status CheckRouteScore(const RouteScoreArgs& args);
  virtual Status DoRouteScores(std::span<const RouteScoreArgs> heads) = 0;
  virtual Status DoCopyRows(std::span<const RowPiece> pieces) = 0;
  virtual Status DoXorWords(const XorWordsArgs& args) = 0;
};

// "ref" (scalar, double accumulation), "cpu" (SIMD, `threads` workers; 0: one per core) or, in a build with CUDA,
// "cuda" (the first GPU that CUDA_VISIBLE_DEVICES leaves; Unavailable without one). InvalidArgument for a name this
// build does not have. UNFOLD_BACKEND in the environment, when set, overrides `name`.
Result<std::unique_ptr<Backend>> MakeBackend(std::string_view name, int threads);

// The implementations; each in files of its own. The last is there in builds with UNFOLD_WITH_CUDA.
std::unique_ptr<Backend> MakeRefBackend();
std::unique_ptr<Backend> MakeCpuBackend(int threads);
Result<std::unique_ptr<Backend>> MakeCudaBackend();

}  // namespace unfold

#endif  // UNFOLD_KERNELS_BACKEND_H_
