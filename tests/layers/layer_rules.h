// SPDX-License-Identifier: Apache-2.0
// The rules of the house as functions over text, so that each can be shown to fail on a bad example. Every function
// returns its findings, one sentence each; none means that the rule holds. Stateless; thread-safe.
#ifndef UNFOLD_TESTS_LAYERS_LAYER_RULES_H_
#define UNFOLD_TESTS_LAYERS_LAYER_RULES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace unfold::layers {

struct SourceFile {
  std::string path;  // relative to the repository root, with forward slashes
  std::string text;
};

using Findings = std::vector<std::string>;

struct Include {
  int line = 0;
  bool angled = false;
  std::string target;  // as written
};

// The #include lines of a text, in order.
std::vector<Include> IncludesOf(std::string_view text);

// The layer of a path: "core" is include/unfold/base.h, "public" the rest of include/unfold, else the folder's name.
// Empty when no layer owns the path.
std::string LayerOf(std::string_view path);

// Own headers are held to the table of layers, foreign ones to the places that may know them. `files` is the whole
// tree: an include in quotes must name one of them.
Findings CheckIncludes(const std::vector<SourceFile>& files);

// No file includes itself by way of others.
Findings CheckCycles(const std::vector<SourceFile>& files);

// A layer's CMakeLists.txt names only targets of layers that it may include.
Findings CheckLinks(const std::vector<SourceFile>& cmake_files);

// The first line is the SPDX line (the second where the first is #!).
Findings CheckSpdx(const std::vector<SourceFile>& files);

Findings CheckLineCounts(const std::vector<SourceFile>& files, std::size_t max_lines);

// `cmake_files` are tests/CMakeLists.txt and every .cmake file of tests/; `test_sources` are the paths of all
// tests/*/*_test.cc. Each source is named in a .cmake file, each .cmake file is included, every label is known.
Findings CheckTestsAreListed(const std::vector<SourceFile>& cmake_files, const std::vector<std::string>& test_sources);

}  // namespace unfold::layers

#endif  // UNFOLD_TESTS_LAYERS_LAYER_RULES_H_
