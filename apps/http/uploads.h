// SPDX-License-Identifier: Apache-2.0
// Documents that a client sends: as JSON, or as files of a form.
#ifndef UNFOLD_APPS_HTTP_UPLOADS_H_
#define UNFOLD_APPS_HTTP_UPLOADS_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/http/api_error.h"
#include "unfold/options.h"

namespace unfold::http {

// Of a body of `content_type`: multipart/form-data (RFC 7578), each part with a filename a document of that name, its
// format by the name's ending or the part's Content-Type; else JSON, {"documents": [{"name", "text", "format"}]}. At
// least one document, or `error` is set. The texts are looked at when they are encoded.
std::vector<DocumentInput> ParseUpload(std::string_view content_type, std::string_view body,
                                       std::optional<ApiError>& error);

}  // namespace unfold::http

#endif  // UNFOLD_APPS_HTTP_UPLOADS_H_
