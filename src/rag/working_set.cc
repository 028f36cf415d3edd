// SPDX-License-Identifier: Apache-2.0
#include "rag/working_set.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace unfold {
namespace {

RecordKey KeyOf(const PartRef& ref, RecordKind kind, int layer = 0, std::uint32_t block = 0) {
  return {kind, ref.id, ref.part, static_cast<std::uint16_t>(layer), block};
}

Status Contradiction(const PartRef& ref, std::string_view what) {
  return Status::Corruption("document '" + ref.document + "', part " + std::to_string(ref.part) + ": " +
                            std::string(what));
}

Status CheckShape(const KvHeader& header, const ModelConfig& config, std::int64_t num_rows, const PartRef& ref) {
  if (header.kv_heads != config.kv_heads || header.head_dim != config.head_dim || header.num_rows != num_rows) {
    return Contradiction(ref, "stored KV has " + std::to_string(header.num_rows) + " rows of " +
                                  std::to_string(header.kv_heads) + " heads of " + std::to_string(header.head_dim) +
                                  ", expected " + std::to_string(num_rows) + " of " + std::to_string(config.kv_heads) +
                                  " of " + std::to_string(config.head_dim));
  }
  return Status::Ok();
}

}  // namespace

Tensor WorkingSet::PlacesView() const { return device_places_.View(DType::kInt8, {num_chunks(), sizeof(ChunkPlace)}); }

std::int64_t WorkingSet::num_gists() const {
  std::int64_t gists = 0;
  for (const Level& level : levels_) gists += level.segment.back();
  return gists;
}

ContextView WorkingSet::View(int layer) const {
  const LayerKv& kv = layers_[layer];
  const auto documents = static_cast<std::int64_t>(parts_.size());
  ContextView view;
  view.segment_offset = device_offset_.View(DType::kInt32, {documents});
  view.segment_sink = device_sink_.View(DType::kInt32, {documents + 1});
  view.sink_k = kv.sink_k;
  view.sink_v = kv.sink_v;
  view.num_levels = static_cast<int>(levels_.size());
  for (std::size_t n = 0; n < levels_.size(); ++n) {
    const Level& level = levels_[n];
    view.gists[n].segment = level.device_segment.View(DType::kInt32, {documents + 1});
    if (n > 0) view.gists[n].child = level.device_child.View(DType::kInt32, {level.segment.back() + 1});
    view.gists[n].k = kv.gist_k[n];
    view.gists[n].v = kv.gist_v[n];
  }
  return view;
}

Status WorkingSet::UploadTables() {
  const auto upload = [&](const std::vector<std::int32_t>& values, Buffer& buffer) -> Status {
    const auto count = static_cast<std::int64_t>(values.size());
    if (buffer.data() == nullptr) {
      UNFOLD_TRY_ASSIGN(buffer, model_.backend().Allocate(values.size() * sizeof(std::int32_t)));
    }
    return model_.backend().Upload(buffer.View(DType::kInt32, {count}), values.data());
  };
  UNFOLD_TRY(upload(segment_offset_, device_offset_));
  UNFOLD_TRY(upload(segment_sink_, device_sink_));
  UNFOLD_TRY_ASSIGN(device_places_, model_.backend().Allocate(places_.size() * sizeof(ChunkPlace)));
  UNFOLD_TRY(model_.backend().Upload(PlacesView(), places_.data()));
  if (found_place_ == nullptr) {
    UNFOLD_TRY_ASSIGN(found_place_, cache_.HoldFound());
  }
  for (Level& level : levels_) {
    UNFOLD_TRY(upload(level.segment, level.device_segment));
    UNFOLD_TRY(upload(level.child, level.device_child));
  }
  return Status::Ok();
}

void WorkingSet::AddChunks(const PlacedPart& part) {
  auto position = static_cast<std::int32_t>(part.table.num_sinks);
  std::int32_t block_begin = position;
  for (std::size_t chunk = 0; chunk < part.table.chunk_tokens.size(); ++chunk) {
    if (chunk % kChunksPerRawBlock == 0) block_begin = position;
    ChunkPlace& place = places_.emplace_back();
    place.first_row = position - block_begin;
    place.tokens = part.table.chunk_tokens[chunk];
    place.position = position;
    place.document = static_cast<std::int32_t>(parts_.size());
    position += place.tokens;
    // A gist shares the position of the last raw token before it.
    levels_[0].position.push_back(std::max(0, position - 1));
  }
}

// Dense parts have no chunks: all their tokens are in the place of sinks, which everything sees.
Status WorkingSet::PlacePart(PartRef ref, bool dense) {
  const RecordKey key = KeyOf(ref, RecordKind::kChunks);
  UNFOLD_TRY_ASSIGN(const std::string sealed, ref.snapshot->Read(key));
  PlacedPart placed;
  UNFOLD_TRY_ASSIGN(placed.table, OpenChunks(sealed, key.ToString()));
  const auto longest = std::max_element(placed.table.chunk_tokens.begin(), placed.table.chunk_tokens.end());
  if (longest != placed.table.chunk_tokens.end() && *longest > cache_.page_tokens()) {
    return Contradiction(ref, "a chunk is longer than chunk_size allows");
  }
  const auto num_tokens = static_cast<std::int32_t>(placed.table.token_ids.size());
  if (dense) {
    placed.table.num_sinks = static_cast<std::uint32_t>(num_tokens);
    placed.table.chunk_tokens.clear();
  }
  placed.offset = end_position_;
  placed.first_chunk = levels_[0].segment.back();
  AddChunks(placed);
  segment_offset_.push_back(placed.offset);
  segment_sink_.push_back(segment_sink_.back() + static_cast<std::int32_t>(placed.table.num_sinks));
  levels_[0].segment.push_back(placed.first_chunk + placed.num_chunks());
  num_tokens_ += num_tokens;
  end_position_ += num_tokens;
  placed.ref = std::move(ref);
  parts_.push_back(std::move(placed));
  return Status::Ok();
}

Status WorkingSet::ReadTables(std::vector<PartRef> parts, std::int32_t first_position, bool dense) {
  end_position_ = first_position;
  segment_sink_.push_back(0);
  for (PartRef& ref : parts) UNFOLD_TRY(PlacePart(std::move(ref), dense));
  return Status::Ok();
}

// The levels above the chunks: every section_size gists of a document, and what is left at its end, have one above
// them.
void WorkingSet::AddSections(const GistRules& rules) {
  for (int n = 1; n < rules.num_levels(); ++n) {
    const Level& below = levels_.back();
    Level level;
    level.child.push_back(0);
    for (std::size_t j = 0; j < parts_.size(); ++j) {
      for (std::int32_t begin = below.segment[j]; begin < below.segment[j + 1]; begin += rules.section_size) {
        level.child.push_back(std::min(begin + rules.section_size, below.segment[j + 1]));
        level.position.push_back(below.position[level.child.back() - 1]);
      }
      level.segment.push_back(static_cast<std::int32_t>(level.position.size()));
    }
    levels_.push_back(std::move(level));
  }
}

// All in one piece of memory: a device takes a while for each.
Status WorkingSet::AllocateLayers() {
  constexpr std::size_t kAlignment = 256;
  layers_.resize(model_.config().num_layers);
  const std::int64_t heads = model_.config().kv_heads, dim = model_.config().head_dim;
  std::size_t bytes = 0;
  const auto place = [&](std::int64_t rows, Tensor& k, Tensor& v) {
    for (Tensor* tensor : {&k, &v}) {
      auto* memory = static_cast<std::byte*>(kv_memory_.data());
      *tensor = Tensor(memory == nullptr ? nullptr : memory + bytes, model_.kv_type(), {heads, rows, dim});
      bytes += (tensor->bytes() + kAlignment - 1) / kAlignment * kAlignment;
    }
  };
  const auto place_all = [&] {
    bytes = 0;
    for (LayerKv& layer : layers_) {
      place(segment_sink_.back(), layer.sink_k, layer.sink_v);
      for (std::size_t n = 0; n < levels_.size(); ++n) {
        place(levels_[n].segment.back(), layer.gist_k[n], layer.gist_v[n]);
      }
    }
  };
  place_all();
  UNFOLD_TRY_ASSIGN(kv_memory_, model_.backend().Allocate(bytes));
  place_all();
  UNFOLD_TRY(HoldParts());
  return UploadTables();
}

Status WorkingSet::HoldParts() {
  for (PlacedPart& part : parts_) {
    if (part.num_chunks() == 0) continue;
    const PartKey key{part.ref.source, part.ref.id.value, part.ref.part};
    UNFOLD_TRY_ASSIGN(part.place, cache_.Hold(key, part.num_chunks()));
    for (std::int32_t i = 0; i < part.num_chunks(); ++i) {
      ChunkPlace& chunk = places_[part.first_chunk + i];
      chunk.slot = part.place->first_slot + i;
      chunk.slots_of_layer = part.place->slots_of_layer;
      chunk.block = part.place->first_block + i / static_cast<std::int32_t>(kChunksPerRawBlock);
      chunk.blocks_of_layer = part.place->blocks_of_layer;
    }
  }
  return Status::Ok();
}

// From the store to memory of the part's own.
Result<std::shared_ptr<const GistRows>> WorkingSet::ReadGists(std::size_t index) {
  const PlacedPart& part = parts_[index];
  std::vector<RecordKey> keys;
  for (int layer = 0; layer < model_.config().num_layers; ++layer) {
    keys.push_back(KeyOf(part.ref, RecordKind::kGist, layer));
  }
  UNFOLD_TRY_ASSIGN(const std::vector<std::string> records, part.ref.snapshot->ReadMany(keys));
  std::vector<std::int32_t> positions(part.table.num_sinks);
  std::iota(positions.begin(), positions.end(), 0);
  for (const Level& level : levels_) {
    positions.insert(positions.end(), level.position.begin() + level.segment[index],
                     level.position.begin() + level.segment[index + 1]);
  }
  const auto num_rows = static_cast<std::int64_t>(positions.size());
  UNFOLD_TRY_ASSIGN(std::shared_ptr<GistRows> rows, GistRows::Make(model_, num_rows));
  for (int layer = 0; layer < model_.config().num_layers; ++layer) {
    UNFOLD_TRY_ASSIGN(const KvView view, OpenKv(RecordKind::kGist, records[layer], keys[layer].ToString()));
    UNFOLD_TRY(CheckShape(view.header, model_.config(), num_rows, part.ref));
    UNFOLD_TRY(loader_.Load(model_, view, 0, positions, 0, rows->k(layer), rows->v(layer)));
    kv_bytes_read_ += records[layer].size();
  }
  return std::shared_ptr<const GistRows>(std::move(rows));
}

Result<std::shared_ptr<const GistRows>> WorkingSet::GistsOf(std::size_t index) {
  const PartRef& ref = parts_[index].ref;
  const PartKey key{ref.source, ref.id.value, ref.part};
  std::shared_ptr<const GistRows> rows = cache_.gists().Find(key);
  if (rows != nullptr) return rows;
  UNFOLD_TRY_ASSIGN(rows, ReadGists(index));
  cache_.gists().Keep(key, rows);
  return rows;
}

// Sinks and gists of all parts side by side, as attention wants them.
Status WorkingSet::PlaceGists() {
  std::vector<std::shared_ptr<const GistRows>> parts;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    UNFOLD_TRY_ASSIGN(auto rows, GistsOf(i));
    parts.push_back(std::move(rows));
  }
  std::vector<RowPiece> pieces;
  for (int layer = 0; layer < model_.config().num_layers; ++layer) {
    const LayerKv& kv = layers_[layer];
    pieces.clear();
    for (std::size_t i = 0; i < parts.size(); ++i) {
      std::int64_t row = 0;
      const auto copy = [&](std::int64_t count, const Tensor& k, const Tensor& v, std::int64_t begin) {
        pieces.push_back({parts[i]->k(layer), row, k, begin, count});
        pieces.push_back({parts[i]->v(layer), row, v, begin, count});
        row += count;
      };
      copy(segment_sink_[i + 1] - segment_sink_[i], kv.sink_k, kv.sink_v, segment_sink_[i]);
      for (std::size_t n = 0; n < levels_.size(); ++n) {
        const std::int32_t begin = levels_[n].segment[i];
        copy(levels_[n].segment[i + 1] - begin, kv.gist_k[n], kv.gist_v[n], begin);
      }
    }
    UNFOLD_TRY(model_.backend().CopyRows(pieces));
  }
  return Status::Ok();
}

Result<std::unique_ptr<WorkingSet>> WorkingSet::Place(Transformer& model, UnfoldCache& cache, const GistRules& rules,
                                                      std::vector<PartRef> parts, std::int32_t first_position) {
  std::unique_ptr<WorkingSet> set(new WorkingSet(model, cache));
  UNFOLD_TRY(set->ReadTables(std::move(parts), first_position, false));
  set->AddSections(rules);
  UNFOLD_TRY(set->AllocateLayers());
  UNFOLD_TRY(set->PlaceGists());
  return set;
}

Status WorkingSet::EncodeDense(std::size_t begin, std::size_t end, const CancelCheck& check) {
  std::vector<GistSequence> sequences;
  std::vector<std::int32_t> positions;
  for (std::size_t i = begin; i < end; ++i) {
    sequences.push_back(BuildPlainSequence(parts_[i].table.token_ids));
    for (const GistToken& token : sequences.back().tokens) positions.push_back(token.position);
  }
  std::vector<const GistSequence*> pointers;
  for (const GistSequence& sequence : sequences) pointers.push_back(&sequence);
  UNFOLD_TRY_ASSIGN(const Tensor position_view, positions_.Upload(model_.backend(), positions));
  const LayerKvSink sink = [&](int layer, const Tensor& k, const Tensor& v) {
    return model_.backend().Unfold({.k = k,
                                    .v = v,
                                    .positions = position_view,
                                    .rope = model_.rope(),
                                    .row_begin = segment_sink_[begin],
                                    .out_k = layers_[layer].sink_k,
                                    .out_v = layers_[layer].sink_v});
  };
  return EncodePass(model_, pointers, sink, check);
}

Result<std::unique_ptr<WorkingSet>> WorkingSet::PlaceDense(Transformer& model, UnfoldCache& cache,
                                                           std::vector<PartRef> parts, std::int32_t first_position,
                                                           std::int64_t batch_tokens, const CancelCheck& check) {
  std::unique_ptr<WorkingSet> set(new WorkingSet(model, cache));
  UNFOLD_TRY(set->ReadTables(std::move(parts), first_position, true));
  UNFOLD_TRY(set->AllocateLayers());
  for (std::size_t begin = 0; begin < set->parts_.size();) {
    std::size_t end = begin + 1;
    auto tokens = static_cast<std::int64_t>(set->parts_[begin].table.token_ids.size());
    while (end < set->parts_.size()) {
      tokens += static_cast<std::int64_t>(set->parts_[end].table.token_ids.size());
      if (tokens > batch_tokens) break;
      ++end;
    }
    UNFOLD_TRY(set->EncodeDense(begin, end, check));
    begin = end;
  }
  return set;
}

// Of one store.
Status WorkingSet::ReadBlocks(std::span<const WantedBlock> wanted) {
  std::vector<RecordKey> keys;
  for (const WantedBlock& block : wanted) keys.push_back(block.key);
  UNFOLD_TRY_ASSIGN(const std::vector<std::string> records, wanted.front().ref->snapshot->ReadMany(keys));
  for (std::size_t i = 0; i < records.size(); ++i) {
    kv_bytes_read_ += records[i].size();
    UNFOLD_TRY_ASSIGN(const KvView view, OpenKv(RecordKind::kRaw, records[i], keys[i].ToString()));
    UNFOLD_TRY(CheckShape(view.header, model_.config(), view.header.num_rows, *wanted[i].ref));
    if (view.header.num_rows > static_cast<std::uint64_t>(cache_.page_tokens()) * kChunksPerRawBlock) {
      return Contradiction(*wanted[i].ref, "a raw block is too long");
    }
    UNFOLD_TRY(cache_.blocks().Keep(wanted[i].place, view));
  }
  return Status::Ok();
}

// Brings blocks, by their places in the cache, to host memory: as many as fit there at once, since those that do not
// are asked for again.
Status WorkingSet::ReadMissing(int layer, std::vector<std::int32_t> blocks) {
  std::sort(blocks.begin(), blocks.end());
  std::vector<WantedBlock> wanted;
  for (const PlacedPart& part : parts_) {
    if (part.place == nullptr) continue;
    const std::int32_t first = part.place->first_block + layer * part.place->blocks_of_layer;
    const auto end = std::lower_bound(blocks.begin(), blocks.end(), first + part.place->blocks_of_layer);
    for (auto block = std::lower_bound(blocks.begin(), end, first); block != end; ++block) {
      const auto number = static_cast<std::uint32_t>(*block - first);
      wanted.push_back({&part.ref, KeyOf(part.ref, RecordKind::kRaw, layer, number), *block});
    }
  }
  const std::size_t at_once = std::max<std::size_t>(1, cache_.blocks().budget() / RawBlockBytes());
  wanted.resize(std::min(wanted.size(), at_once));
  // One ReadMany a store; a working set draws on at most two (the collection, and documents given with the query).
  for (std::size_t begin = 0; begin < wanted.size();) {
    std::size_t end = begin + 1;
    while (end < wanted.size() && wanted[end].ref->source == wanted[begin].ref->source) ++end;
    UNFOLD_TRY(ReadBlocks(std::span(wanted).subspan(begin, end - begin)));
    begin = end;
  }
  return Status::Ok();
}

// The most that a block takes.
std::uint64_t WorkingSet::RawBlockBytes() const {
  const ModelConfig& config = model_.config();
  return std::uint64_t{2} * kChunksPerRawBlock * static_cast<std::uint64_t>(cache_.page_tokens()) * config.kv_heads *
         config.head_dim * sizeof(float);
}

Result<UnfoldChunksArgs> WorkingSet::Unfolding(int layer, const ChosenGists& chosen, const Tensor& chunks) {
  UnfoldChunksArgs args{PlacesView(), layer, chosen, model_.rope(), {}, chunks, cache_.FoundAt(*found_place_)};
  UNFOLD_TRY_ASSIGN(args.pool, cache_.Pool());
  return args;
}

Status WorkingSet::UnfoldAll(int layer, const ChosenGists& chosen, const Tensor& chunks) {
  Tensor staged;
  if (cache_.blocks().stages()) {
    UNFOLD_TRY_ASSIGN(staged, cache_.blocks().StagedTable(BlocksOf(layer), &unfolded_bytes_));
  }
  for (std::uint64_t unfolded = 0;;) {
    UNFOLD_TRY_ASSIGN(UnfoldChunksArgs args, Unfolding(layer, chosen, chunks));
    const bool from_staged = staged.rank != 0;
    if (from_staged) args.pool.raw = std::exchange(staged, Tensor());
    UNFOLD_TRY(model_.backend().UnfoldChunks(args));
    PagesFound found;
    UNFOLD_TRY(model_.backend().Download(&found, args.found));
    const PagesFound since = TakeFound(found);
    pages_missed_ += since.pages_unfolded;
    if (!from_staged) unfolded_bytes_ += since.raw_bytes;
    if (since.left_out == 0) {
      pages_hit_ += since.pages_hit - unfolded;  // those of the calls before were no hits
      return StageNext(layer, unfolded + since.pages_unfolded);
    }
    UNFOLD_TRY_ASSIGN(const PageCounts counts, cache_.Counts());
    if (counts.pages_lacking > 0) {
      return Status::ResourceExhausted("unfolding: one layer of this question needs more than the " +
                                       std::to_string(cache_.num_pages()) +
                                       " pages of the unfold cache; raise unfold_cache_bytes or choose fewer chunks");
    }
    if (counts.num_missing == 0) return Status::Internal("unfolding: chunks were left out, and nothing is missing");
    unfolded += since.pages_unfolded;
    UNFOLD_TRY_ASSIGN(std::vector<std::int32_t> missing, cache_.Missing(counts));
    UNFOLD_TRY(ReadMissing(layer, std::move(missing)));
  }
}

// Of all parts.
std::vector<std::int32_t> WorkingSet::BlocksOf(int layer) const {
  std::vector<std::int32_t> blocks;
  for (const PlacedPart& part : parts_) {
    if (part.place == nullptr) continue;
    const std::int32_t first = part.place->first_block + layer * part.place->blocks_of_layer;
    for (std::int32_t i = 0; i < part.place->blocks_of_layer; ++i) blocks.push_back(first + i);
  }
  return blocks;
}

// A question's rows together choose most chunks of long documents, in one layer as in the next: where this one unfolded
// most of them, the blocks of the next two are worth bringing whole.
Status WorkingSet::StageNext(int layer, std::uint64_t unfolded) {
  constexpr double kMost = 0.6;
  const ModelConfig& config = model_.config();
  if (!cache_.blocks().stages()) return Status::Ok();
  if (static_cast<double>(unfolded) < kMost * static_cast<double>(num_chunks() * config.kv_heads)) return Status::Ok();
  for (int next = layer + 1; next <= layer + 2 && next < config.num_layers; ++next) {
    UNFOLD_TRY(cache_.blocks().Stage(BlocksOf(next)));
  }
  return Status::Ok();
}

PagesFound WorkingSet::TakeFound(const PagesFound& found) {
  const PagesFound since{found.pages_hit - last_found_.pages_hit, found.pages_unfolded - last_found_.pages_unfolded,
                         found.raw_bytes - last_found_.raw_bytes, found.left_out - last_found_.left_out};
  last_found_ = found;
  return since;
}

bool WorkingSet::EndPass(std::span<const PagesFound> found) {
  const PagesFound since = TakeFound(found[*found_place_]);
  if (since.left_out > 0) return false;  // the pass is done again, and counted then
  pages_hit_ += since.pages_hit;
  pages_missed_ += since.pages_unfolded;
  unfolded_bytes_ += since.raw_bytes;
  return true;
}

Result<std::uint64_t> WorkingSet::UpdatePool() {
  UNFOLD_TRY(cache_.Pool().status());
  return cache_.moves();
}

}  // namespace unfold
