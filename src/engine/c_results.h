// SPDX-License-Identifier: Apache-2.0
// The handles by which the C interface (unfold.h) gives results: each holds what the engine returned, and views of it
// as plain C structs. Immutable once made; thread-safe.
#ifndef UNFOLD_ENGINE_C_RESULTS_H_
#define UNFOLD_ENGINE_C_RESULTS_H_

#include <string>
#include <vector>

#include "unfold/engine.h"
#include "unfold/unfold.h"

namespace unfold {

// Views of the C++ values, which must outlive them.
unfold_document_info ViewOf(const DocumentInfo& info);
unfold_source ViewOf(const Source& source);
unfold_routed ViewOf(const RoutedDocument& routed);

template <typename View, typename Value>
std::vector<View> ViewsOf(const std::vector<Value>& values) {
  std::vector<View> views;
  views.reserve(values.size());
  for (const Value& value : values) views.push_back(ViewOf(value));
  return views;
}

}  // namespace unfold

// Not copied nor moved: the views point into the values beside them.
struct unfold_document_list {
  explicit unfold_document_list(std::vector<unfold::DocumentInfo> given);
  unfold_document_list(const unfold_document_list&) = delete;
  unfold_document_list& operator=(const unfold_document_list&) = delete;
  const std::vector<unfold::DocumentInfo> infos;
  const std::vector<unfold_document_info> views;
};

struct unfold_name_list {
  std::vector<std::string> names;
};

struct unfold_answer {
  explicit unfold_answer(unfold::Answer given);
  unfold_answer(const unfold_answer&) = delete;
  unfold_answer& operator=(const unfold_answer&) = delete;
  const unfold::Answer answer;
  const std::vector<unfold_source> sources;
  const std::vector<unfold_routed> routed;
  const unfold_usage usage;
  const unfold_timings timings;
};

struct unfold_route {
  explicit unfold_route(unfold::RouteResult given);
  unfold_route(const unfold_route&) = delete;
  unfold_route& operator=(const unfold_route&) = delete;
  const unfold::RouteResult result;
  const std::vector<unfold_routed> documents;
  const std::vector<unfold_source> placed;
};

struct unfold_verification {
  unfold_verify_counts counts;
  std::vector<std::string> findings;
};

#endif  // UNFOLD_ENGINE_C_RESULTS_H_
