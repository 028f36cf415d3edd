// SPDX-License-Identifier: Apache-2.0
// ask_two_texts in C: stores two texts and asks a question: ask_in_c MODEL STORE
#include <stdio.h>
#include <string.h>
#include <unfold/unfold.h>

// Prints what went wrong, if anything, and says whether all is well.
static int Succeeded(unfold_code code, char* message) {
  if (code == UNFOLD_OK) return 1;
  fprintf(stderr, "%s: %s\n", unfold_code_name(code), message == NULL ? "" : message);
  unfold_free(message);
  return 0;
}

static int AddText(unfold_engine* engine, const char* name, const char* text) {
  char* message;
  unfold_document document;
  unfold_document_init(&document, sizeof document);
  document.name = name;
  document.text = text;
  document.text_bytes = strlen(text);
  const unfold_code code = unfold_add_document(engine, "notes", &document, NULL, NULL, &message);
  return Succeeded(code, message);
}

static int Print(void* context, const char* text, size_t text_bytes) {
  (void)context;
  return fwrite(text, 1, text_bytes, stdout) == text_bytes;
}

static int Ask(unfold_engine* engine, const char* question) {
  char* message;
  unfold_answer* answer;
  const unfold_code code = unfold_ask(engine, "notes", question, NULL, Print, NULL, &answer, &message);
  if (!Succeeded(code, message)) return 0;
  printf("\n");
  for (size_t i = 0; i < unfold_answer_num_sources(answer); ++i) {
    const unfold_source* source = unfold_answer_source(answer, i);
    printf("%s %u-%u %.2f: %s\n", source->document, (unsigned)source->byte_begin, (unsigned)source->byte_end,
           source->share, source->snippet);
  }
  unfold_answer_free(answer);
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  unfold_engine_options options;
  unfold_engine_options_init(&options, sizeof options);
  options.model_path = argv[1];
  options.store_path = argv[2];
  unfold_engine* engine;
  char* message;
  const unfold_code code = unfold_open(&options, &engine, &message);
  if (!Succeeded(code, message)) return 1;
  const int all_well = AddText(engine, "lamp.txt", "The lamp of the lighthouse was lit by Anna every evening.") &&
                       AddText(engine, "bridge.txt", "The bridge over the river was built by Peter in 1911.") &&
                       Ask(engine, "who built the bridge over the river");
  unfold_close(engine);
  return all_well ? 0 : 1;
}
