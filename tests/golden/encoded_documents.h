// SPDX-License-Identifier: Apache-2.0
// Documents encoded in a test, without an engine, and their parts as questions place them.
#ifndef UNFOLD_TESTS_GOLDEN_ENCODED_DOCUMENTS_H_
#define UNFOLD_TESTS_GOLDEN_ENCODED_DOCUMENTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/loaded_model.h"
#include "rag/working_set.h"
#include "store/store.h"
#include "unfold/options.h"

namespace unfold::golden {

// Encodes each document alone, now, into collection "c" of a store in memory.
std::unique_ptr<Store> EncodeAfresh(LoadedModel& model, DType kv_type, const std::vector<DocumentInput>& documents);

// Every part of the named documents of collection "c", in this order.
std::vector<PartRef> PartsOf(const std::shared_ptr<const StoreSnapshot>& snapshot, std::uint64_t source,
                             const std::vector<DocumentInput>& documents);

}  // namespace unfold::golden

#endif  // UNFOLD_TESTS_GOLDEN_ENCODED_DOCUMENTS_H_
