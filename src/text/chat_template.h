// SPDX-License-Identifier: Apache-2.0
// The chat templates that this build knows by name. A checkpoint's own template is a Jinja program, which is not run.
#ifndef UNFOLD_TEXT_CHAT_TEMPLATE_H_
#define UNFOLD_TEXT_CHAT_TEMPLATE_H_

#include <string>
#include <string_view>
#include <vector>

namespace unfold {

// Texts with special tokens; {text} is a turn's. Those before the first user header are the prefix of method.md
// section 6, the rest follows documents and links.
struct ChatTemplate {
  std::string_view name;
  std::string_view begin;                // before everything
  std::string_view system;               // a system turn; left out when there is no system text
  std::string_view user;                 // an earlier turn of the user
  std::string_view assistant;            // an earlier answer
  std::string_view answer;               // what begins the answer to come
  std::string_view turn_end;             // the token that ends an answer
  bool trims = false;                    // white space at both ends of a turn is dropped
  std::vector<std::string_view> tokens;  // special tokens that the tokenizer must have
};

// nullptr when there is none of that name.
const ChatTemplate* FindChatTemplate(std::string_view name);
// "chatml or llama3", for messages.
std::string ChatTemplateNames();

}  // namespace unfold

#endif  // UNFOLD_TEXT_CHAT_TEMPLATE_H_
