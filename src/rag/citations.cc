// SPDX-License-Identifier: Apache-2.0
#include "rag/citations.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <span>

#include "text/readable_text.h"

namespace unfold {
namespace {

// First chunk of the shortest run of at most kMaxSourceChunks chunks that no other run exceeds in mass. Empty ends are
// cut off: a run begins and ends with a chunk that drew attention.
std::pair<std::int32_t, std::int32_t> BestRun(std::span<const float> mass) {
  const auto num_chunks = static_cast<std::int32_t>(mass.size());
  const std::int32_t width = std::min(num_chunks, kMaxSourceChunks);
  std::int32_t best = 0;
  double best_mass = -1;
  for (std::int32_t begin = 0; begin + width <= num_chunks; ++begin) {
    const double sum = std::accumulate(mass.begin() + begin, mass.begin() + begin + width, 0.0);
    if (sum > best_mass) {
      best_mass = sum;
      best = begin;
    }
  }
  std::int32_t end = best + width;
  while (best + 1 < end && mass[best] == 0) ++best;
  while (end - 1 > best && mass[end - 1] == 0) --end;
  return {best, end};
}

// Widens a range to whole UTF-8 characters: a token may be part of one.
ByteSpan WholeCharacters(std::string_view text, ByteSpan bytes) {
  const auto continues = [&](std::uint32_t at) { return (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U; };
  while (bytes.begin > 0 && bytes.begin < text.size() && continues(bytes.begin)) --bytes.begin;
  while (bytes.end < text.size() && continues(bytes.end)) ++bytes.end;
  return bytes;
}

}  // namespace

ByteSpan ChunkBytes(const PlacedPart& part, std::int32_t begin, std::int32_t end) {
  const ChunkTable& table = part.table;
  std::size_t token = 0;
  // The sinks stand in front of chunk 0; their text is cited with it.
  if (begin > 0) {
    token = std::accumulate(table.chunk_tokens.begin(), table.chunk_tokens.begin() + begin,
                            static_cast<std::size_t>(table.num_sinks));
  }
  const std::size_t last = std::accumulate(table.chunk_tokens.begin(), table.chunk_tokens.begin() + end,
                                           static_cast<std::size_t>(table.num_sinks));
  const std::size_t first_body = std::max<std::size_t>(token, table.num_title_tokens);
  if (first_body < last) token = first_body;
  ByteSpan bytes{std::numeric_limits<std::uint32_t>::max(), 0};
  for (; token < last; ++token) {
    bytes.begin = std::min(bytes.begin, table.token_spans[token].begin);
    bytes.end = std::max(bytes.end, table.token_spans[token].end);
  }
  return bytes.begin > bytes.end ? ByteSpan{} : bytes;
}

Result<std::vector<Source>> CiteSources(const WorkingSet& context, const AttentionReport& report) {
  std::vector<Source> sources;
  const double total = std::accumulate(report.chunk_mass.begin(), report.chunk_mass.end(), 0.0);
  if (!(total > 0)) return sources;
  for (const PlacedPart& part : context.parts()) {
    const std::span<const float> mass(report.chunk_mass.data() + part.first_chunk, part.num_chunks());
    const double part_mass = std::accumulate(mass.begin(), mass.end(), 0.0);
    if (!(part_mass > 0)) continue;
    const auto [begin, end] = BestRun(mass);
    ByteSpan bytes = ChunkBytes(part, begin, end);
    const RecordKey key{RecordKind::kText, part.ref.id, 0, 0, 0};
    UNFOLD_TRY_ASSIGN(const std::string sealed, part.ref.snapshot->Read(key));
    UNFOLD_TRY_ASSIGN(const std::string_view text, OpenText(sealed, key.ToString()));
    if (bytes.end > text.size()) {
      return Status::Corruption("document '" + part.ref.document + "': a token lies outside its text");
    }
    bytes = WholeCharacters(text, bytes);
    Source source;
    source.document = part.ref.document;
    source.part = part.ref.part;
    source.byte_begin = bytes.begin;
    source.byte_end = bytes.end;
    UNFOLD_TRY_ASSIGN(const ReadableText readable, ReadableText::Read(text, part.ref.format));
    source.snippet = std::string(readable.TextIn({bytes.begin, bytes.end}));
    source.share = part_mass / total;
    sources.push_back(std::move(source));
  }
  std::stable_sort(sources.begin(), sources.end(), [](const Source& a, const Source& b) { return a.share > b.share; });
  return sources;
}

std::vector<UnfoldedHead> ExplainFirstToken(const WorkingSet& context, const AttentionReport& report) {
  std::vector<UnfoldedHead> heads;
  for (std::size_t layer = 0; layer < report.first_chosen.size(); ++layer) {
    for (std::size_t head = 0; head < report.first_chosen[layer].size(); ++head) {
      UnfoldedHead unfolded{static_cast<int>(layer), static_cast<int>(head), {}};
      for (const std::int32_t chunk : report.first_chosen[layer][head]) {
        const auto part = std::find_if(context.parts().begin(), context.parts().end(), [&](const PlacedPart& p) {
          return chunk >= p.first_chunk && chunk < p.first_chunk + p.num_chunks();
        });
        const std::int32_t local = chunk - part->first_chunk;
        const ByteSpan bytes = ChunkBytes(*part, local, local + 1);
        unfolded.chunks.push_back(
            {part->ref.document, part->ref.part, static_cast<std::uint32_t>(local), bytes.begin, bytes.end});
      }
      heads.push_back(std::move(unfolded));
    }
  }
  return heads;
}

}  // namespace unfold
