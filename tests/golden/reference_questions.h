// SPDX-License-Identifier: Apache-2.0
// The model's own golden answers (datasets/gist-mini/reference.jsonl.gz) and how an Answer is held to them.
#ifndef UNFOLD_TESTS_GOLDEN_REFERENCE_QUESTIONS_H_
#define UNFOLD_TESTS_GOLDEN_REFERENCE_QUESTIONS_H_

#include <string>
#include <vector>

#include "base/json.h"
#include "unfold/engine.h"

namespace unfold::golden {

inline const std::string kModelDir = UNFOLD_SOURCE_DIR "/datasets/gist-mini";

// A difference from the reference is a near-tie when the reference's own margin is below these.
inline constexpr double kTokenMargin = 0.02;
inline constexpr double kScoreMargin = 0.002;

std::vector<Json> ReadLines(const std::string& path);
std::vector<DocumentInput> ReferenceDocuments();
std::vector<Json> ReferenceQuestions();

// What a comparison found. `different` counts as a near-tie unless `failures` says otherwise.
struct Comparison {
  bool different = false;
  std::vector<std::string> notes;     // near-ties, to be printed
  std::vector<std::string> failures;  // differences that are no near-ties
};

// Generated tokens against `<prefix>answer_tokens` and `<prefix>margins` of the reference ("" or "dense_").
Comparison CompareTokens(const Json& reference, const Answer& answer, const std::string& prefix);
// Chunks that the first answer token unfolded, in every layer and key/value head.
Comparison CompareChosen(const Json& reference, const Answer& answer);
// The ten best documents and their scores.
Comparison CompareRouted(const Json& reference, const Answer& answer);

// Ingests, and fails the test when any document is not added.
void IngestAll(Engine& engine, const std::string& collection, std::vector<DocumentInput> documents);

}  // namespace unfold::golden

#endif  // UNFOLD_TESTS_GOLDEN_REFERENCE_QUESTIONS_H_
