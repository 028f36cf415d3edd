// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

namespace unfold {
namespace {

const std::vector<ChatTemplate>& ChatTemplates() {
  static const std::vector<ChatTemplate> templates = {
      {.name = "chatml",
       .begin = "",
       .system = "<|im_start|>system\n{text}<|im_end|>\n",
       .user = "<|im_start|>user\n{text}<|im_end|>\n",
       .assistant = "<|im_start|>assistant\n{text}<|im_end|>\n",
       .answer = "<|im_start|>assistant\n",
       .turn_end = "<|im_end|>",
       .trims = false,
       .tokens = {"<|im_start|>", "<|im_end|>"}},
      {.name = "llama3",
       .begin = "<|begin_of_text|>",
       .system = "<|start_header_id|>system<|end_header_id|>\n\n{text}<|eot_id|>",
       .user = "<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>",
       .assistant = "<|start_header_id|>assistant<|end_header_id|>\n\n{text}<|eot_id|>",
       .answer = "<|start_header_id|>assistant<|end_header_id|>\n\n",
       .turn_end = "<|eot_id|>",
       .trims = true,
       .tokens = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}}};
  return templates;
}

}  // namespace

const ChatTemplate* FindChatTemplate(std::string_view name) {
  for (const ChatTemplate& one : ChatTemplates()) {
    if (one.name == name) return &one;
  }
  return nullptr;
}

std::string ChatTemplateNames() {
  std::string names;
  for (const ChatTemplate& one : ChatTemplates()) names += (names.empty() ? "" : " or ") + std::string(one.name);
  return names;
}

}  // namespace unfold
