// SPDX-License-Identifier: Apache-2.0
// Shapes of well-known models by name, for measurements that need no checkpoint.
#ifndef UNFOLD_MODEL_SHAPES_H_
#define UNFOLD_MODEL_SHAPES_H_

#include <string>
#include <string_view>

#include "model/config.h"
#include "unfold/base.h"

namespace unfold {

// "llama-3.2-1b, qwen2-7b, llama-3.1-8b, gist-mini": for messages.
std::string_view ShapeNames();

// The shape of that name, else of a Hugging Face config.json given by its path, or its folder's. NotFound names what
// can be said instead. A named shape has no end tokens.
Result<ModelConfig> FindShape(const std::string& shape);

}  // namespace unfold

#endif  // UNFOLD_MODEL_SHAPES_H_
