// SPDX-License-Identifier: Apache-2.0
// UnfoldChunks (method.md 4.5, design.md section 6) without the host: two launches, of which the second has only counts
// to keep while all chosen chunks have pages.
//
// Bytes: 12 for a chosen chunk; for one that is unfolded its rows, over the bus, and its page.
#include <algorithm>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/together.cuh"
#include "kernels/cuda/unfold_row.cuh"

namespace unfold {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr std::int32_t kBeingUnfolded = -2;  // in slot_page, inside a call
constexpr int kPagesOfThread = 4;            // looked at at once
constexpr int kGivenAtOnce = 8;              // pages never taken that a thread gives away
// Of the second launch: their warps have more bytes on their way than the bus brings in the time that one takes, and
// all blocks find a place at once.
constexpr int kFillBlocks = 132;

struct PoolInputs {
  std::int32_t* page_slot;
  std::uint32_t* page_call;
  std::int32_t* slot_page;
  RawRows* raw;
  PageCounts* counts;
  std::int32_t* missing;
  Index pages, slots, blocks, most_missing, page_tokens;
};

struct ChosenInputs {
  const std::int32_t *chosen, *chosen_counts;  // [T, Hk, chunks], [T, Hk]
  const ChunkPlace* places;
  ChosenChunk* entries;  // [T, Hk, chunks]
  Index lists, kv_heads, chunks;
  int layer;
  PagesFound* found;
  FaultSink faults;

  // To a count of `found`, by a thread of each warp; all its lanes take part.
  __device__ __forceinline__ void Add(std::uint64_t PagesFound::*count, int own) const {
    const int all = __reduce_add_sync(kAllLanes, own);
    if (threadIdx.x % kWarp == 0 && all > 0) AddOne(count, static_cast<unsigned>(all));
  }
  __device__ __forceinline__ void AddOne(std::uint64_t PagesFound::*count, unsigned long long more) const {
    atomicAdd(reinterpret_cast<unsigned long long*>(&(found->*count)), more);
  }
};

// What a call's kernels tell each other, all zero before it and after it.
enum Counter : int { kWork, kMissing, kGiven, kReady, kFinished, kNumCounters };

// A chunk of a head that is to be unfolded, for a request of the launch.
struct Work {
  std::int32_t slot, page, block, first_row, tokens, position, chunk;
  std::uint16_t head, request;
};

// Chunk `chunk` of a head, its slot and block those of the layer. False, and a note, where there is no such place.
__device__ __forceinline__ bool FindPlace(const ChosenInputs& in, const PoolInputs& pool, Index kv_head,
                                          std::int32_t chunk, ChunkPlace* place) {
  static_assert(sizeof(ChunkPlace) == 2 * sizeof(int4));
  const auto* from = reinterpret_cast<const int4*>(in.places + chunk);
  const int4 low = __ldg(from), high = __ldg(from + 1);
  const auto kv_heads = static_cast<unsigned>(in.kv_heads);
  *place = {low.x + in.layer * low.y + static_cast<int>(kv_head) * static_cast<int>(low.y / kv_heads),
            low.y,
            low.z + in.layer * low.w,
            low.w,
            high.x,
            high.y,
            high.z,
            high.w};
  return InRange(in.faults, FaultKind::kUnfoldSlot, chunk, place->slot, pool.slots) &&
         InRange(in.faults, FaultKind::kUnfoldBlock, chunk, place->block, pool.blocks) &&
         InRange(in.faults, FaultKind::kUnfoldTokens, chunk, place->tokens, pool.page_tokens + 1) &&
         InRange(in.faults, FaultKind::kUnfoldFirstRow, chunk, place->first_row, INT32_MAX) &&
         InRange(in.faults, FaultKind::kUnfoldChunkPosition, chunk, place->position, INT32_MAX);
}

// The entries of all lists, a thread each: each(at, list, chunk).
template <typename Each>
__device__ __forceinline__ void ForChosen(const ChosenInputs& in, unsigned blocks_of_list, Each each) {
  for (unsigned block = blockIdx.x; block < in.lists * blocks_of_list; block += gridDim.x) {
    const Index list = block / blocks_of_list;
    const std::int32_t count = in.chosen_counts[list];
    if (!InRange(in.faults, FaultKind::kUnfoldChosenCounts, list, count, in.chunks + 1)) continue;
    for (unsigned i = block % blocks_of_list * kThreads + threadIdx.x; i < count; i += blocks_of_list * kThreads) {
      const Index at = list * in.chunks + i;
      const std::int32_t chunk = in.chosen[at];
      if (InRange(in.faults, FaultKind::kUnfoldChosen, at, chunk, in.chunks)) each(at, list, chunk);
    }
  }
}

struct TakeShared {
  int sums[kWarps];
  unsigned age;
};

// Gives pages [first, first + given) of the work to those never taken, then to the oldest. All threads take part.
class PageTaker {
 public:
  __device__ PageTaker(const PoolInputs& pool, std::uint32_t call, Work* work, int wanted, TakeShared& shared)
      : pool_(pool), call_(call), work_(work), wanted_(wanted), shared_(shared) {}

  // Returns how many got one. `counts` is each thread's copy.
  __device__ int Take(PageCounts& counts) {
    const int fresh = static_cast<int>(min(Index{wanted_}, pool_.pages - counts.num_used));
    for (int i = threadIdx.x; i < fresh; i += kGivenAtOnce * kThreads) {
      // All others wait for this block, so loads are under way together.
      std::int32_t slots[kGivenAtOnce], before[kGivenAtOnce];
#pragma unroll
      for (int n = 0; n < kGivenAtOnce; ++n) {
        const int own = min(i + n * kThreads, fresh - 1);
        slots[n] = work_[own].slot;
        before[n] = pool_.page_slot[counts.num_used + own];
      }
#pragma unroll
      for (int n = 0; n < kGivenAtOnce; ++n) {
        const int own = i + n * kThreads;
        if (own < fresh) Give(own, counts.num_used + own, slots[n], before[n]);
      }
    }
    counts.num_used += fresh;
    int given = fresh;
    while (given < wanted_) {
      __syncthreads();
      given += TakeOld(counts, given);
      if (given < wanted_ && !RaiseOldest(counts)) break;
    }
    return given;
  }

 private:
  __device__ void Give(int i, std::int32_t page) { Give(i, page, work_[i].slot, pool_.page_slot[page]); }
  // To `slot`, that of work i, what was that of slot `before`.
  __device__ void Give(int i, std::int32_t page, std::int32_t slot, std::int32_t before) {
    if (before >= 0 && before < pool_.slots && pool_.slot_page[before] == page) pool_.slot_page[before] = -1;
    pool_.page_slot[page] = slot;
    pool_.page_call[page] = call_;
    pool_.slot_page[slot] = page;
    work_[i].page = page;
  }

  // From counts.next_page to the pool's end, or until all have one. Returns how many were taken.
  __device__ int TakeOld(PageCounts& counts, int given) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int taken = 0;
    while (counts.next_page < pool_.pages && given + taken < wanted_) {
      const Index first = counts.next_page + Index{kPagesOfThread} * threadIdx.x;
      unsigned old = 0;
#pragma unroll
      for (int n = 0; n < kPagesOfThread; ++n) {
        if (first + n >= pool_.pages) continue;
        const std::uint32_t age = call_ - pool_.page_call[first + n];
        if (age > 0 && age >= call_ - counts.oldest) old |= 1U << n;
      }
      const int own = __popc(old), through = WarpSumThrough(own);
      __syncthreads();
      if (threadIdx.x == 0) shared_.age = 0xffffffffU;
      if (lane == kWarp - 1) shared_.sums[warp] = through;
      __syncthreads();
      int before = through - own, all = 0;
      for (int w = 0; w < kWarps; ++w) {
        before += w < warp ? shared_.sums[w] : 0;
        all += shared_.sums[w];
      }
      for (int n = 0; n < kPagesOfThread; ++n) {
        if ((old >> n & 1) == 0 || given + taken + before >= wanted_) continue;
        Give(given + taken + before, static_cast<std::int32_t>(first + n));
        ++before;
        // The last one that is wanted: the next look begins behind it.
        if (given + taken + before == wanted_) shared_.age = static_cast<unsigned>(first + n);
      }
      __syncthreads();
      taken = min(taken + all, wanted_ - given);
      const Index end =
          shared_.age != 0xffffffffU ? Index{shared_.age} + 1 : counts.next_page + kPagesOfThread * kThreads;
      counts.next_page = static_cast<std::int32_t>(min(end, pool_.pages));
      __syncthreads();
    }
    return taken;
  }

  // At the pool's end: the oldest eighth of the ages that its pages have now, from its beginning.
  __device__ bool RaiseOldest(PageCounts& counts) {
    unsigned age = 0;
    for (Index page = threadIdx.x; page < pool_.pages; page += kThreads) age = max(age, call_ - pool_.page_call[page]);
    age = __reduce_max_sync(kAllLanes, age);
    __syncthreads();
    if (threadIdx.x == 0) shared_.age = 0;
    __syncthreads();
    if (threadIdx.x % kWarp == 0) atomicMax(&shared_.age, age);
    __syncthreads();
    age = shared_.age;
    __syncthreads();
    counts.oldest = call_ - (age - age / 8);
    counts.next_page = 0;
    return age > 0;
  }

  const PoolInputs& pool_;
  std::uint32_t call_;
  Work* work_;
  int wanted_;
  TakeShared& shared_;
};

// Finds pages, and what has none.
template <int kMost>
__global__ void __launch_bounds__(kThreads)
    FindKernel(const __grid_constant__ Together<ChosenInputs, kMost> requests, const __grid_constant__ PoolInputs pool,
               unsigned blocks_of_list, Work* work, unsigned* counters) {
  WaitForWorkBefore<WorkAfter::kWithThis>();
  const ChosenInputs& in = requests();
  const std::uint32_t call = pool.counts->calls + 1;
  const bool one_row = in.lists == in.kv_heads;
  int hits = 0;
  ForChosen(in, blocks_of_list, [&](Index at, Index list, std::int32_t chunk) {
    ChunkPlace place;
    if (!FindPlace(in, pool, list % in.kv_heads, chunk, &place)) {
      in.entries[at] = {chunk, -1, 0, 0};
      return;
    }
    const std::int32_t page = __ldcg(pool.slot_page + place.slot);
    *reinterpret_cast<int4*>(in.entries + at) = make_int4(chunk, max(page, -1), place.tokens, place.document);
    if (page >= 0 && one_row) {  // no slot comes twice, so nobody else counts it
      pool.page_call[page] = call;
      ++hits;
      return;
    }
    if (page >= 0) {
      hits += atomicExch(pool.page_call + page, call) != call ? 1 : 0;
      return;
    }
    RawRows& raw = pool.raw[place.block];
    if (raw.k == nullptr) {
      if (atomicExch(&raw.asked_by, call) == call) return;
      const unsigned missing = atomicAdd(counters + kMissing, 1U);
      if (missing < pool.most_missing) pool.missing[missing] = place.block;
      return;
    }
    const std::int32_t end = place.first_row + place.tokens;
    if (end > raw.num_rows) {
      NoteFault(in.faults, FaultKind::kUnfoldRows, chunk, end, raw.num_rows);
      return;
    }
    if (atomicCAS(pool.slot_page + place.slot, -1, kBeingUnfolded) != -1) return;
    work[atomicAdd(counters + kWork, 1U)] = {place.slot,
                                             -1,
                                             place.block,
                                             place.first_row,
                                             place.tokens,
                                             place.position,
                                             chunk,
                                             static_cast<std::uint16_t>(list % in.kv_heads),
                                             static_cast<std::uint16_t>(blockIdx.y)};
  });
  in.Add(&PagesFound::pages_hit, hits);
}

// The first block gives pages to the work, while the others wait: all are on the device at once.
__device__ void GivePages(const PoolInputs& pool, Work* work, unsigned* counters, int wanted, int missing,
                          TakeShared& shared) {
  PageCounts counts = *pool.counts;
  const std::uint32_t call = counts.calls + 1;
  const int given = wanted == 0 ? 0 : PageTaker(pool, call, work, wanted, shared).Take(counts);
  for (int i = given + static_cast<int>(threadIdx.x); i < wanted; i += kThreads) pool.slot_page[work[i].slot] = -1;
  __threadfence();
  __syncthreads();
  if (threadIdx.x != 0) return;
  counts.calls = call;
  counts.num_missing = missing;
  counts.pages_lacking = wanted - given;
  *pool.counts = counts;
  if (wanted == 0 && missing == 0) return;  // nobody waits
  counters[kGiven] = given;
  __threadfence();
  atomicExch(counters + kReady, 1U);
}

// Returns how much of the work has pages.
__device__ int AwaitPages(unsigned* counters) {
  if (threadIdx.x == 0) {
    while (atomicAdd(counters + kReady, 0U) == 0) __nanosleep(100);
  }
  __syncthreads();
  return static_cast<int>(__ldcg(counters + kGiven));
}

struct RotationInputs {
  const float *cos, *sin;
  Index table_rows;
};

template <typename Element, typename Kv>
__device__ __forceinline__ void UnfoldRow(const RawRows& raw, Index row, Index kv_heads, const Work& work, int half,
                                          const float* cos, const float* sin, Kv* k, Kv* v) {
  const Index at = ((work.first_row + row) * kv_heads + work.head) * 2 * half;
  RowToUnfold<Element, Kv> one{static_cast<const Element*>(raw.k) + at, static_cast<const Element*>(raw.v) + at};
  if constexpr (std::is_same_v<Element, std::int8_t>) {
    one.k_scale = static_cast<const __nv_bfloat16*>(raw.k_scale) + work.head * 2 * half;
    one.v_scale = static_cast<const __nv_bfloat16*>(raw.v_scale) + work.head * 2 * half;
  }
  one.cos = cos, one.sin = sin, one.k = k, one.v = v, one.half = half;
  one.Unfold();
}

template <typename Kv, int kMost>
__device__ void FillPages(const Together<ChosenInputs, kMost>& requests, const PoolInputs& pool, const Work* work,
                          int given, const RotationInputs& rotation, int half, Kv* page_k, Kv* page_v) {
  const auto page_tokens = static_cast<int>(pool.page_tokens);
  const unsigned warps = gridDim.x * kWarps, own = blockIdx.x * kWarps + threadIdx.x / kWarp;
  // Of a page: all of its rows, or, where there are few pages, every so many-th.
  const unsigned share = min(max(warps / max(given, 1), 1U), static_cast<unsigned>(page_tokens));
  unsigned long long pages = 0, bytes = 0;  // of the only request
  for (unsigned n = own; n < given * share; n += warps) {
    const Work item = work[n / share];
    const ChosenInputs& in = requests.of[kMost == 1 ? 0 : item.request];
    const RawRows raw = pool.raw[item.block];
    if (n % share == 0) {
      const unsigned of_value = raw.dtype == DType::kInt8 ? 1 : raw.dtype == DType::kBF16 ? 2 : 4;
      const unsigned long long read = 4ULL * of_value * item.tokens * half;
      ++pages, bytes += read;
      if (kMost > 1 && threadIdx.x % kWarp == 0) {
        in.AddOne(&PagesFound::pages_unfolded, 1);
        in.AddOne(&PagesFound::raw_bytes, read);
      }
    }
    for (int row = static_cast<int>(n % share); row < item.tokens; row += static_cast<int>(share)) {
      const std::int32_t position = item.position + row;
      if (!InRange(in.faults, FaultKind::kUnfoldChunkPosition, item.chunk, position, rotation.table_rows)) break;
      const float *cos = rotation.cos + Index{position} * half, *sin = rotation.sin + Index{position} * half;
      const Index to = (Index{item.page} * page_tokens + row) * 2 * half;
      switch (raw.dtype) {
        case DType::kInt8:
          UnfoldRow<std::int8_t>(raw, row, in.kv_heads, item, half, cos, sin, page_k + to, page_v + to);
          break;
        case DType::kBF16:
          UnfoldRow<__nv_bfloat16>(raw, row, in.kv_heads, item, half, cos, sin, page_k + to, page_v + to);
          break;
        default: UnfoldRow<float>(raw, row, in.kv_heads, item, half, cos, sin, page_k + to, page_v + to);
      }
    }
  }
  if (kMost == 1 && threadIdx.x % kWarp == 0 && pages > 0) {
    requests.of[0].AddOne(&PagesFound::pages_unfolded, pages);
    requests.of[0].AddOne(&PagesFound::raw_bytes, bytes);
  }
}

// Has pages given to the work of all requests, fills them, and tells them to all entries that wait for one.
template <typename Kv, int kMost>
__global__ void __launch_bounds__(kThreads)
    FillKernel(const __grid_constant__ Together<ChosenInputs, kMost> requests, int count,
               const __grid_constant__ PoolInputs pool, unsigned blocks_of_list, Work* work, unsigned* counters,
               RotationInputs rotation, int half, Kv* page_k, Kv* page_v) {
  __shared__ TakeShared shared;
  WaitForWorkBefore<WorkAfter::kWithThis>();
  const auto wanted = static_cast<int>(__ldcg(counters + kWork)),
             missing = static_cast<int>(__ldcg(counters + kMissing));
  if (blockIdx.x == 0) GivePages(pool, work, counters, wanted, missing, shared);
  if (wanted == 0 && missing == 0) return;
  FillPages(requests, pool, work, AwaitPages(counters), rotation, half, page_k, page_v);
  for (int request = 0; request < (kMost == 1 ? 1 : count); ++request) {
    const ChosenInputs& in = requests.of[request];
    int left_out = 0;
    ForChosen(in, blocks_of_list, [&](Index at, Index list, std::int32_t chunk) {
      std::int32_t& page = in.entries[at].page;
      ChunkPlace place;
      if (page >= 0 || !FindPlace(in, pool, list % in.kv_heads, chunk, &place)) return;
      page = max(__ldcg(pool.slot_page + place.slot), -1);
      left_out += page < 0 ? 1 : 0;
    });
    in.Add(&PagesFound::left_out, left_out);
  }
  __syncthreads();
  if (threadIdx.x == 0 && atomicAdd(counters + kFinished, 1U) == gridDim.x - 1) {
    for (int i = 0; i < kNumCounters; ++i) counters[i] = 0;
  }
}

PoolInputs MakePool(const PagePool& pool) {
  return {pool.page_slot.as<std::int32_t>(),
          pool.page_call.as<std::uint32_t>(),
          pool.slot_page.as<std::int32_t>(),
          pool.raw.as<RawRows>(),
          pool.counts.as<PageCounts>(),
          pool.missing.as<std::int32_t>(),
          pool.page_k.dims[0],
          pool.slot_page.dims[0],
          pool.raw.dims[0],
          pool.missing.dims[0],
          pool.page_k.dims[1]};
}

}  // namespace

Status CudaBackend::DoUnfoldChunks(std::span<const UnfoldChunksArgs> requests) {
  if (requests.empty()) return Status::Ok();
  const UnfoldChunksArgs& first = requests.front();
  const auto [rows, kv_heads, unused_chunks, unused] = first.chosen.gists.dims;
  std::vector<ChosenInputs> inputs;
  Index most_chunks = 0, most_work = 0;
  for (const UnfoldChunksArgs& args : requests) {
    const Index chunks = args.chosen.gists.dims[2];
    inputs.push_back({args.chosen.gists.as<std::int32_t>(), args.chosen.counts.as<std::int32_t>(),
                      args.places.as<ChunkPlace>(), args.chunks.as<ChosenChunk>(), rows * kv_heads, kv_heads, chunks,
                      args.layer, args.found.as<PagesFound>(), context_->NextCall()});
    most_chunks = std::max(most_chunks, chunks);
    most_work += kv_heads * chunks;  // a slot is unfolded once in a call, and a layer has Hk * C of them
  }
  static_assert(kMostTogether<ChosenInputs> == kMostRequests);
  if (requests.size() > kMostRequests || kv_heads > UINT16_MAX) {
    return Status::InvalidArgument("UnfoldChunks: cuda takes up to " + std::to_string(kMostRequests) +
                                   " requests and 65535 heads");
  }
  const PoolInputs pool = MakePool(first.pool);
  CallMemory memory(*context_, "UnfoldChunks");
  auto* work = memory.Array<Work>(std::max<Index>(1, most_work));
  UNFOLD_TRY(memory.status());
  UNFOLD_TRY_ASSIGN(unsigned* counters, context_->Counters(kNumCounters, "UnfoldChunks"));
  constexpr Index kBlocksOfList = 16;
  const auto of_list = static_cast<unsigned>(std::clamp<Index>(CeilDiv(most_chunks, kThreads), 1, kBlocksOfList));
  const Index blocks = std::max<Index>(1, rows * kv_heads * of_list);
  const RotationInputs rotation{first.rope.cos.as<float>(), first.rope.sin.as<float>(), first.rope.cos.dims[0]};
  const auto half = static_cast<int>(first.pool.page_k.dims[2] / 2);
  return LaunchTogether(inputs, [&]<int kMost>(const Together<ChosenInputs, kMost>& all, int count) -> Status {
    UNFOLD_TRY(context_->Launch(FindKernel<kMost>, {blocks, kThreads, 0, "UnfoldChunks", false, count}, all, pool,
                                of_list, work, counters));
    Status status;
    WithActivationType(first.pool.page_k.dtype, [&]<typename Kv>(Kv*) {
      status =
          context_->Launch(FillKernel<Kv, kMost>, {kFillBlocks, kThreads, 0, "UnfoldChunks"}, all, count, pool, of_list,
                           work, counters, rotation, half, first.pool.page_k.as<Kv>(), first.pool.page_v.as<Kv>());
    });
    return status;
  });
}

}  // namespace unfold
