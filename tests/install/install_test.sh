#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs a build into a fresh prefix, and builds and runs programs against it with nothing of the tree in reach: in
# C++ by the CMake package, in C by pkg-config, in Python by ctypes. All must say the same.
# install_test.sh BUILD_DIR SOURCE_DIR CMAKE C++_COMPILER C_COMPILER GENERATOR SANITIZERS
set -euo pipefail

readonly build="$1" source="$2" cmake="$3" compiler="$4" c_compiler="$5" generator="$6" sanitizers="$7"
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

# The library exports the public API and nothing else: no name of its dependencies, of the standard library, or hidden.
names="$(nm --dynamic --defined-only --demangle "$library" | cut -d' ' -f3-)"
grep -q '^unfold::Engine::Open' <<<"$names" || fail "Engine::Open is not exported"
grep -q '^unfold::Status::ToString' <<<"$names" || fail "Status::ToString is not exported"
if grep -vE '^(unfold::(Engine::Open|RunBench|Status::ToString|StatusCodeName|DTypeName)\b|typeinfo (name )?for unfold::Engine$|unfold_[a-z_]+$)' \
  <<<"$names"; then
  fail "the names above are exported"
fi
# What the C header declares is there, and what is there is declared.
declared="$(grep -oE '\bunfold_[a-z_]+\(' "$prefix/include/unfold/unfold.h" | tr -d '(' | sort -u)"
diff <(grep -E '^unfold_' <<<"$names" | sort) <(cat <<<"$declared") || fail "unfold.h and the library differ as above"
if grep -rliE 'rocksdb|nlohmann|pcre2|libxml' "$prefix/include" "${library%/*}/cmake" "${library%/*}/pkgconfig"; then
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

# The same from C, found by pkg-config, and from Python.
flags() { PKG_CONFIG_PATH="${library%/*}/pkgconfig" pkg-config "$@" unfold; }
[[ "unfold $(flags --modversion)" == "$("$prefix/bin/unfold" --version)" ]] || fail "unfold.pc has another version"
# shellcheck disable=SC2046,SC2086 # flags are words
"$c_compiler" -std=c99 -pedantic -Wall -Wextra -Werror ${sanitizers:+-fsanitize=$sanitizers} -o "$work/ask_in_c" \
  "$source/tests/install/ask_in_c.c" $(flags --cflags --libs) -Wl,-rpath,"${library%/*}"
[[ "$("$work/ask_in_c" "$source/datasets/gist-mini" "$work/store")" == "$output" ]] || fail "C is answered otherwise"
preload=()  # a sanitized library needs its sanitizer first; Python leaks, so leaks are no finding
if [[ -n "$sanitizers" ]]; then
  runtime=asan && [[ "$sanitizers" != thread ]] || runtime=tsan
  preload=(LD_PRELOAD="$("$compiler" -print-file-name=lib$runtime.so)" ASAN_OPTIONS=detect_leaks=0)
fi
ask_from_python() { env "${preload[@]}" python3 "$source/tests/install/ask_from_python.py" "$library" "$@"; }
[[ "$(ask_from_python "$source/datasets/gist-mini" "$work/store")" == "$output" ]] || fail "Python is answered otherwise"
if ask_from_python "$work/no_model" "$work/store" 2>"$work/error"; then fail "a missing model is no error"; fi
grep -q '^not found: .*no_model' "$work/error" || fail "Python's message is not ours: $(cat "$work/error")"

"$prefix/bin/unfold" verify --store "$work/store" | grep -q '^sound: 2 documents' || fail "the store is not sound"
if "$work/build/ask_two_texts" "$work/no_model" "$work/store" 2>"$work/error"; then fail "a missing model is no error"; fi
grep -q '^not found: .*no_model' "$work/error" || fail "the message is not ours: $(cat "$work/error")"
