// SPDX-License-Identifier: Apache-2.0
// SQuAD's measures of an answer.
#ifndef UNFOLD_APPS_METRICS_H_
#define UNFOLD_APPS_METRICS_H_

#include <string>
#include <string_view>
#include <vector>

namespace unfold::cli {

// Lower case, no ASCII punctuation, no articles (a, an, the as whole words), single spaces.
std::string NormalizeAnswer(std::string_view text);

// 1 when a normalised gold answer stands anywhere in the normalised prediction. A gold answer that is empty once
// normalised is matched by an empty prediction alone.
double SubspanMatch(std::string_view prediction, const std::vector<std::string>& answers);

// F1 over the words of prediction and gold answer, the best over the gold answers. Two empty texts agree.
double WordF1(std::string_view prediction, const std::vector<std::string>& answers);

}  // namespace unfold::cli

#endif  // UNFOLD_APPS_METRICS_H_
