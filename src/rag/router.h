// SPDX-License-Identifier: Apache-2.0
// Routing: from a whole collection to the documents of a working set, by the model's own un-rotated queries against the
// un-rotated gist keys (method.md section 7). Exact scoring.
#ifndef UNFOLD_RAG_ROUTER_H_
#define UNFOLD_RAG_ROUTER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/gist_config.h"
#include "model/transformer.h"
#include "rag/encoder.h"
#include "rag/working_set.h"
#include "store/store.h"
#include "unfold/answer.h"
#include "unfold/base.h"

namespace unfold {

// Gist keys of the routing heads of one collection, for a fixed set of documents. Immutable after Build.
class RoutingIndex {
 public:
  // Reads the gist keys of every document; those that `previous` (may be null) holds are copied from it.
  static Result<std::shared_ptr<const RoutingIndex>> Build(Transformer& model, const GistConfig& config,
                                                           const StoreSnapshot& snapshot,
                                                           std::vector<PublishedDocument> documents,
                                                           const RoutingIndex* previous, const CancelCheck& check);

  const std::vector<PublishedDocument>& documents() const { return documents_; }
  std::size_t num_units() const { return units_.size(); }
  // A unit is a part of a document. The reference has no snapshot yet: the index keeps none, so that it never holds on
  // to documents that were removed.
  PartRef Ref(std::size_t unit) const;
  std::size_t DocumentOf(std::size_t unit) const { return units_[unit].document; }

  // Score of every unit. `queries[i]` holds head i's un-rotated queries, [num_tokens, D], for config.routing_heads[i].
  Result<std::vector<double>> Score(Transformer& model, const GistConfig& config,
                                    std::span<const std::vector<float>> queries, std::int64_t num_tokens) const;

 private:
  struct Unit {
    std::size_t document = 0;
    std::uint32_t part = 0;
  };
  using Head = std::pair<int, int>;  // layer, key/value head

  Status Allocate(Transformer& model, const GistConfig& config, DType type);
  Status LoadPart(Transformer& model, const StoreSnapshot& snapshot, std::size_t unit);
  Status CopyPart(Transformer& model, std::size_t unit, const RoutingIndex& previous, std::size_t from);

  std::vector<PublishedDocument> documents_;
  std::vector<Unit> units_;
  std::vector<std::int64_t> unit_begin_;  // first chunk of each unit, and the end
  std::unordered_map<DocumentId, std::size_t> first_unit_;
  DType type_ = DType::kBF16;
  std::int64_t head_dim_ = 0;
  std::map<Head, Buffer> keys_;  // [C, D] of type_
};

// A question's queries at the routing heads.
struct RoutingQueries {
  std::vector<std::vector<float>> queries;  // see RoutingIndex::Score
  std::int64_t num_tokens = 0;              // of the question itself
  bool truncated = false;
};
Result<RoutingQueries> ComputeRoutingQueries(Transformer& model, const GistConfig& config, const Tokenizer& tokenizer,
                                             std::string_view question, std::span<const Turn> history,
                                             const CancelCheck& check);

// Units best first; ties go to the lower unit.
std::vector<std::size_t> RankUnits(std::span<const double> scores);
// The `count` best documents, each by its best part.
std::vector<RoutedDocument> BestDocuments(const RoutingIndex& index, std::span<const std::size_t> ranked,
                                          std::span<const double> scores, std::size_t count);
// The best units that fit: at most `max_units` (0: any number) and `max_tokens` tokens, raw ones and `links_per_part`
// for each; one that does not fit is passed over. In placement order, best last.
std::vector<PartRef> ChooseUnits(const RoutingIndex& index, const std::shared_ptr<const StoreSnapshot>& snapshot,
                                 std::span<const std::size_t> ranked, std::int64_t max_units, std::int64_t max_tokens,
                                 std::int64_t links_per_part);

}  // namespace unfold

#endif  // UNFOLD_RAG_ROUTER_H_
