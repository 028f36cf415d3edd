// SPDX-License-Identifier: Apache-2.0
// Unicode Normalization Form C, by utf8proc's tables (Unicode 15).
#ifndef UNFOLD_TEXT_NFC_H_
#define UNFOLD_TEXT_NFC_H_

#include "text/aligned_text.h"

namespace unfold {

// `from` in NFC. Bytes that are not valid UTF-8 stay as they are, and nothing combines across them. What changes is
// found character by character: a text that is in NFC already is only read. An edit is a base character with its marks.
AlignedText ToNfc(AlignedText from);

}  // namespace unfold

#endif  // UNFOLD_TEXT_NFC_H_
