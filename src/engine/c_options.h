// SPDX-License-Identifier: Apache-2.0
// From the structs of the C interface (unfold.h) to the options of the engine.
#ifndef UNFOLD_ENGINE_C_OPTIONS_H_
#define UNFOLD_ENGINE_C_OPTIONS_H_

#include <stop_token>
#include <string>
#include <vector>

#include "unfold/base.h"
#include "unfold/options.h"
#include "unfold/unfold.h"

// The handle of the C interface. Thread-safe.
struct unfold_cancel {
  std::stop_source source;
};

namespace unfold {

// Each is InvalidArgument for NULL where something is needed, for a struct that its _init function did not make, and
// for one of a later version whose new fields are in use. `given` may be NULL where the C interface allows it.
Result<EngineOptions> ToEngineOptions(const unfold_engine_options* given);
Result<IngestOptions> ToIngestOptions(const unfold_ingest_options* given);
Result<AskOptions> ToAskOptions(const unfold_ask_options* given);
Result<DocumentInput> ToDocument(const unfold_document* given);

// `count` strings, `what` for the message.
Result<std::vector<std::string>> ToStrings(const char* const* given, std::size_t count, const char* what);
// InvalidArgument that names `what` when it is NULL.
Status NeedPointer(const void* given, const char* what);

}  // namespace unfold

#endif  // UNFOLD_ENGINE_C_OPTIONS_H_
