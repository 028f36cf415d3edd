// SPDX-License-Identifier: Apache-2.0
// Stores two texts and asks a question: ask_two_texts MODEL STORE
#include <unfold/engine.h>

#include <cstdio>

namespace {

unfold::Status Run(const char* model, const char* store) {
  UNFOLD_TRY_ASSIGN(auto engine, unfold::Engine::Open({.store_path = store, .model_path = model}));
  const unfold::DocumentInput documents[] = {
      {.name = "lamp.txt", .text = "The lamp of the lighthouse was lit by Anna every evening."},
      {.name = "bridge.txt", .text = "The bridge over the river was built by Peter in 1911."},
  };
  for (const unfold::DocumentInput& document : documents) UNFOLD_TRY(engine->AddDocument("notes", document).status());
  UNFOLD_TRY_ASSIGN(const unfold::Answer answer, engine->Ask("notes", "who built the bridge over the river"));
  std::printf("%s\n", answer.text.c_str());
  for (const unfold::Source& source : answer.sources) {
    std::printf("%s %u-%u %.2f: %s\n", source.document.c_str(), source.byte_begin, source.byte_end, source.share,
                source.snippet.c_str());
  }
  return unfold::Status::Ok();
}

}  // namespace

int main(int argc, char** argv) {
  const auto status = argc == 3 ? Run(argv[1], argv[2]) : unfold::Status::InvalidArgument("needs MODEL STORE");
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
