#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs a build into a fresh prefix, and builds and runs a program against it with nothing of the tree in reach.
# install_test.sh BUILD_DIR SOURCE_DIR CMAKE COMPILER GENERATOR SANITIZERS
set -euo pipefail

readonly build="$1" source="$2" cmake="$3" compiler="$4" generator="$5" sanitizers="$6"
work="$(mktemp -d)"
readonly work prefix="$work/prefix"
trap 'rm -rf "$work"' EXIT

fail() {
  printf 'install_test: %s\n' "$*" >&2
  exit 1
}

expect_file() { [[ -f "$prefix/$1" ]] || fail "not installed: $1"; }

"$cmake" --install "$build" --prefix "$prefix" >"$work/install.log"
library="$(find "$prefix" -name 'libunfold.so')"
[[ -n "$library" ]] || fail "no libunfold.so"
for header in "$source"/include/unfold/*.h; do expect_file "include/unfold/$(basename "$header")"; done
expect_file bin/unfold
expect_file share/doc/unfold/LICENSE
expect_file share/doc/unfold/README.md
"$prefix/bin/unfold" --version | grep -q '^unfold ' || fail "the program does not run"

# Nothing of the dependencies leaves the library: no name of theirs is defined in it, nor asked of a consumer.
names="$(nm --dynamic --defined-only --demangle "$library" | cut -d' ' -f3-)"
grep -q '^unfold::Engine::Open' <<<"$names" || fail "Engine::Open is not exported"
grep -q '^unfold::Status::ToString' <<<"$names" || fail "Status::ToString is not exported"
if grep -E '^(rocksdb|nlohmann|pcre2|unfold::[A-Za-z]*(Impl|Store|Backend|Tokenizer)::)' <<<"$names"; then
  fail "the names above are exported"
fi
if grep -rliE 'rocksdb|nlohmann|pcre2' "$prefix/include" "${library%/*}/cmake/unfold"; then
  fail "the files above name a dependency"
fi

cp "$source"/tests/install/{CMakeLists.txt,ask_two_texts.cc} "$work"
"$cmake" -S "$work" -B "$work/build" -G "$generator" -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$prefix" \
  -DCMAKE_CXX_FLAGS="-Wall -Wextra -Werror ${sanitizers:+-fsanitize=$sanitizers}" >"$work/configure.log" ||
  fail "$(cat "$work/configure.log")"
"$cmake" --build "$work/build" >"$work/build.log" || fail "$(cat "$work/build.log")"

run() { "$work/build/ask_two_texts" "$source/datasets/gist-mini" "$work/store"; }
output="$(run)" || fail "the program failed"
printf '%s\n' "$output"
[[ "$(head -n 1 <<<"$output")" == *Peter* ]] || fail "the answer is not Peter"
grep -qE '^bridge\.txt [0-9]+-[0-9]+ [01]\.[0-9]{2}: .*built by Peter' <<<"$output" || fail "bridge.txt is no source"
[[ "$(run)" == "$output" ]] || fail "a second run over the same store answers otherwise"
"$prefix/bin/unfold" verify --store "$work/store" | grep -q '^sound: 2 documents' || fail "the store is not sound"
if "$work/build/ask_two_texts" "$work/no_model" "$work/store" 2>"$work/error"; then fail "a missing model is no error"; fi
grep -q '^not found: .*no_model' "$work/error" || fail "the message is not ours: $(cat "$work/error")"
