// SPDX-License-Identifier: Apache-2.0
// Identity of a checkpoint's weights: a hash, and the proof that every weight is finite. Both need one read of all
// bytes, so they are remembered by file size and modification time.
#ifndef UNFOLD_MODEL_CHECKPOINT_H_
#define UNFOLD_MODEL_CHECKPOINT_H_

#include <string>

#include "model/safetensors.h"
#include "unfold/base.h"

namespace unfold {

// XXH3-128 of `bytes`, as 32 hex digits.
std::string HashHex(std::string_view bytes);

// Hex hash over all weight files. `cache_path` (may be empty) is a small JSON file: read when it names the same files
// by path, size and modification time, written after a full read; failing to write it only costs time. InvalidArgument
// names the first tensor that holds a NaN or an infinity.
Result<std::string> WeightsIdentity(const SafeTensors& checkpoint, const std::string& cache_path);

}  // namespace unfold

#endif  // UNFOLD_MODEL_CHECKPOINT_H_
