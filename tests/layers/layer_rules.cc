// SPDX-License-Identifier: Apache-2.0
#include "tests/layers/layer_rules.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <regex>
#include <set>

namespace unfold::layers {
namespace {

using Names = std::set<std::string, std::less<>>;

// Who may include whom (design: layers). Every layer may include itself.
const std::map<std::string, Names, std::less<>>& LayerTable() {
  static const std::map<std::string, Names, std::less<>> table = {
      {"core", {}},
      {"public", {"core"}},
      {"base", {"core"}},
      {"text", {"core", "base"}},
      {"kernels", {"core", "base"}},
      {"store", {"core", "base"}},
      {"model", {"core", "base", "text", "kernels"}},
      {"rag", {"core", "base", "text", "kernels", "store", "model"}},
      {"engine", {"core", "public", "base", "text", "kernels", "store", "model", "rag"}},
      {"train", {"core", "base", "text", "kernels", "model"}},
      {"apps", {"core", "public"}},
  };
  return table;
}

bool MayInclude(const std::string& from, const std::string& to) {
  const auto row = LayerTable().find(from);
  return row != LayerTable().end() && (from == to || row->second.contains(to));
}

// A foreign header: the start of its name, and the path prefixes that may include it.
struct ForeignRule {
  std::string_view header;
  std::vector<std::string_view> places;
};

const std::vector<ForeignRule>& ForeignRules() {
  static const std::vector<ForeignRule> rules = {
      {"rocksdb/", {"store/"}},
      {"isa-l", {"store/"}},
      {"pcre2.h", {"src/text/"}},
      {"utf8proc.h", {"src/text/"}},
      {"libxml/", {"src/text/"}},
      {"CLI/", {"apps/"}},
      {"boost/", {"apps/http/", "apps/serve.cc", "tests/fuzz/"}},
      {"openssl/", {"apps/http/access.cc"}},
      {"nlohmann/", {"src/base/json.h", "apps/"}},
      {"xxhash.h", {"src/", "store/"}},
      {"cuda", {"kernels/"}},
      {"cublas", {"kernels/"}},
      {"cooperative_groups", {"kernels/"}},
      {"immintrin.h", {"kernels/"}},
  };
  return rules;
}

// Names with a space on both sides.
constexpr std::string_view kStandardHeaders =
    " algorithm any array atomic barrier bit bitset cassert cctype cerrno cfenv cfloat charconv chrono cinttypes "
    "climits clocale cmath compare complex concepts condition_variable csetjmp csignal cstdarg cstddef cstdint "
    "cstdio cstdlib cstring ctime cwchar deque exception execution filesystem forward_list fstream functional "
    "future initializer_list iomanip ios iosfwd iostream istream iterator latch limits list locale map memory "
    "memory_resource mutex new numbers numeric optional ostream queue random ranges ratio regex semaphore set "
    "shared_mutex source_location span sstream stack stdexcept stop_token streambuf string string_view strstream "
    "syncstream system_error thread tuple type_traits typeindex typeinfo unordered_map unordered_set utility "
    "valarray variant vector version ";

// As kStandardHeaders.
constexpr std::string_view kPosixHeaders =
    " arpa/inet.h dirent.h errno.h fcntl.h fnmatch.h glob.h langinfo.h locale.h netdb.h netinet/in.h poll.h "
    "pthread.h sched.h signal.h sys/file.h sys/ioctl.h sys/mman.h sys/resource.h sys/socket.h sys/stat.h "
    "sys/statvfs.h sys/time.h sys/types.h sys/un.h sys/wait.h termios.h time.h unistd.h wchar.h wctype.h ";

// The one header for C, and what of C it may include.
constexpr std::string_view kCInterface = "include/unfold/unfold.h";
constexpr std::string_view kCHeaders = " stddef.h stdint.h ";

bool IsListed(std::string_view list, const std::string& header) {
  return list.find(" " + header + " ") != std::string_view::npos;
}

std::string Where(const SourceFile& file, int line) { return file.path + ":" + std::to_string(line) + ": "; }

// Headers and sources of the tree by path, and how an include names one of them.
class Tree {
 public:
  explicit Tree(const std::vector<SourceFile>& files) {
    for (const SourceFile& file : files) paths_.insert(file.path);
  }

  // The path that an include of `from` names, by the include roots and the folder of `from`; nothing if none.
  std::optional<std::string> Resolve(std::string_view from, const Include& include) const {
    const std::string folder(from.substr(0, from.rfind('/') + 1));
    for (const std::string& root : {std::string("include/"), std::string("src/"), std::string(), folder}) {
      if (include.angled && root == folder) continue;
      std::string path = root + include.target;
      if (paths_.contains(path)) return path;
    }
    return std::nullopt;
  }

 private:
  Names paths_;
};

std::optional<std::string> ForeignFinding(const SourceFile& file, const std::string& header) {
  if (IsListed(kStandardHeaders, header)) return std::nullopt;
  if (file.path == kCInterface && IsListed(kCHeaders, header)) return std::nullopt;
  const std::string layer = LayerOf(file.path);
  if (layer == "core" || layer == "public") {
    return "<" + header + "> in a public header: only the standard library and include/unfold may be there";
  }
  if (IsListed(kPosixHeaders, header)) return std::nullopt;
  for (const ForeignRule& rule : ForeignRules()) {
    if (!header.starts_with(rule.header)) continue;
    const auto allowed = [&](std::string_view place) { return file.path.starts_with(place); };
    if (std::any_of(rule.places.begin(), rule.places.end(), allowed)) return std::nullopt;
    return "<" + header + "> does not belong here: only " + std::string(rule.places[0]) + " may know it";
  }
  return "<" + header + "> is in no list of known headers";
}

std::optional<std::string> OwnFinding(const SourceFile& file, const std::string& target) {
  const std::string from = LayerOf(file.path);
  const std::string to = LayerOf(target);
  if (MayInclude(from, to)) return std::nullopt;
  return "layer '" + from + "' must not include '" + target + "' of layer '" + to + "'";
}

// Text without # comments: what CMake would run.
std::string WithoutComments(std::string_view cmake) {
  std::string out;
  bool in_comment = false;
  for (const char c : cmake) {
    if (c == '\n') in_comment = false;
    if (c == '#') in_comment = true;
    if (!in_comment) out += c;
  }
  return out;
}

// Every match of the first group of `pattern`.
std::vector<std::string> Matches(const std::string& text, const std::regex& pattern) {
  std::vector<std::string> out;
  for (std::sregex_iterator it(text.begin(), text.end(), pattern), end; it != end; ++it) out.push_back((*it)[1]);
  return out;
}

std::string FileName(std::string_view path) { return std::string(path.substr(path.rfind('/') + 1)); }

}  // namespace

std::vector<Include> IncludesOf(std::string_view text) {
  static const std::regex pattern(R"(^\s*#\s*include\s*([<"])([^>"]+)[>"].*)");
  std::vector<Include> out;
  int line = 0;
  while (!text.empty()) {
    ++line;
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string current(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    std::smatch match;
    if (std::regex_match(current, match, pattern)) out.push_back({line, match[1] == "<", match[2]});
  }
  return out;
}

std::string LayerOf(std::string_view path) {
  // Plain values and options, which every layer may speak; the engine itself is not among them.
  if (path == "include/unfold/base.h" || path == "include/unfold/options.h" || path == "include/unfold/answer.h") {
    return "core";
  }
  if (path.starts_with("include/unfold/")) return "public";
  if (path.starts_with("src/")) path.remove_prefix(4);
  const std::string name(path.substr(0, path.find('/')));
  return LayerTable().contains(name) && path.size() > name.size() ? name : "";
}

Findings CheckIncludes(const std::vector<SourceFile>& files) {
  const Tree tree(files);
  Findings findings;
  for (const SourceFile& file : files) {
    if (LayerOf(file.path).empty()) findings.push_back(file.path + ": belongs to no layer");
    for (const Include& include : IncludesOf(file.text)) {
      const std::optional<std::string> own = tree.Resolve(file.path, include);
      std::optional<std::string> finding;
      if (own) {
        finding = OwnFinding(file, *own);
      } else if (include.angled) {
        finding = ForeignFinding(file, include.target);
      } else {
        finding = "\"" + include.target + "\" names no file of the tree";
      }
      if (finding) findings.push_back(Where(file, include.line) + *finding);
    }
  }
  return findings;
}

Findings CheckCycles(const std::vector<SourceFile>& files) {
  const Tree tree(files);
  std::map<std::string, std::vector<std::string>, std::less<>> edges;
  for (const SourceFile& file : files) {
    for (const Include& include : IncludesOf(file.text)) {
      if (auto own = tree.Resolve(file.path, include)) edges[file.path].push_back(*own);
    }
  }
  Findings findings;
  Names done;
  std::vector<std::string> path;
  const std::function<void(const std::string&)> visit = [&](const std::string& at) {
    if (std::find(path.begin(), path.end(), at) != path.end()) {
      findings.push_back("include cycle: " + at + " is reached again from " + path.back());
      return;
    }
    if (done.contains(at)) return;
    path.push_back(at);
    for (const std::string& next : edges[at]) visit(next);
    path.pop_back();
    done.insert(at);
  };
  for (const SourceFile& file : files) visit(file.path);
  return findings;
}

Findings CheckLinks(const std::vector<SourceFile>& cmake_files) {
  static const std::regex target(R"(\bunfold_([a-z]+)\b)");
  Findings findings;
  for (const SourceFile& file : cmake_files) {
    const std::string from = LayerOf(file.path);
    for (const std::string& to : Matches(WithoutComments(file.text), target)) {
      const bool is_layer = LayerTable().contains(to);
      // unfold_base carries the code of core, and unfold_engine the public headers' code.
      const bool allowed = MayInclude(from, to) || (to == "base" && MayInclude(from, "core")) ||
                           (to == "engine" && MayInclude(from, "public"));
      if (is_layer && !allowed) {
        std::string finding = file.path;
        finding.append(": layer '").append(from).append("' must not link unfold_").append(to);
        findings.push_back(finding);
      }
    }
  }
  return findings;
}

Findings CheckSpdx(const std::vector<SourceFile>& files) {
  static const std::regex start(R"(^(#![^\n]*\n)?(//|#) SPDX-License-Identifier: Apache-2\.0\n)");
  Findings findings;
  for (const SourceFile& file : files) {
    if (!std::regex_search(file.text.substr(0, 400), start))
      findings.push_back(file.path + ": no SPDX line at its start");
  }
  return findings;
}

Findings CheckLineCounts(const std::vector<SourceFile>& files, std::size_t max_lines) {
  Findings findings;
  for (const SourceFile& file : files) {
    const auto lines = static_cast<std::size_t>(std::count(file.text.begin(), file.text.end(), '\n'));
    if (lines > max_lines) {
      findings.push_back(file.path + ": " + std::to_string(lines) + " lines, more than " + std::to_string(max_lines));
    }
  }
  return findings;
}

Findings CheckTestsAreListed(const std::vector<SourceFile>& cmake_files, const std::vector<std::string>& test_sources) {
  static const Names labels = {"unit", "property", "golden", "crash", "layers", "install", "http", "cuda"};
  static const std::regex label(R"(\bLABELS?\s+"?([A-Za-z0-9_]+))");
  static const std::regex word(R"(([A-Za-z0-9_./-]+))");
  static const std::regex call(R"(\b(unfold_test)\s*\(\s*NAME\b)");
  Findings findings;
  Names named;  // file names that stand in any of the files, outside comments
  for (const SourceFile& file : cmake_files) {
    const std::string text = WithoutComments(file.text);
    for (const std::string& path : Matches(text, word)) named.insert(FileName(path));
    const std::vector<std::string> found = Matches(text, label);
    for (const std::string& name : found) {
      if (!labels.contains(name)) findings.push_back(file.path + ": unknown label '" + name + "'");
    }
    if (found.size() < Matches(text, call).size()) findings.push_back(file.path + ": a test without a label");
  }
  for (const SourceFile& file : cmake_files) {
    if (!named.contains(FileName(file.path)) && FileName(file.path) != "CMakeLists.txt") {
      findings.push_back(file.path + ": included nowhere, so its tests never run");
    }
  }
  for (const std::string& path : test_sources) {
    if (!named.contains(FileName(path))) findings.push_back(path + ": named in no .cmake file, so it never runs");
  }
  return findings;
}

}  // namespace unfold::layers
