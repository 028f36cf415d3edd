// SPDX-License-Identifier: Apache-2.0
// Parts of an answer as JSON: what `unfold ask --json` and the REST endpoint say alike.
#ifndef UNFOLD_APPS_ANSWER_JSON_H_
#define UNFOLD_APPS_ANSWER_JSON_H_

#include <vector>

#include "apps/json_output.h"
#include "unfold/answer.h"

namespace unfold::cli {

Json SourcesJson(const std::vector<Source>& sources);
Json RoutedJson(const std::vector<RoutedDocument>& routed);
Json UsageJson(const Usage& usage);
Json TimingsJson(const Timings& timings);
Json UnfoldedJson(const std::vector<UnfoldedHead>& heads);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_ANSWER_JSON_H_
