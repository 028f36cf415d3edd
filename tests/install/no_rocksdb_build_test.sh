#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Configures with UNFOLD_WITH_STORE=OFF where pkg-config knows no RocksDB, builds the store layer, and plans the
# program: no step of it may name RocksDB.
# no_rocksdb_build_test.sh SOURCE_DIR BUILD_DIR CMAKE C++_COMPILER C_COMPILER PKG_CONFIG
set -euo pipefail

readonly source="$1" build="$2" cmake="$3" compiler="$4" c_compiler="$5" pkg_config="$6"

fail() {
  printf 'no_rocksdb_build_test: %s\n' "$*" >&2
  exit 1
}

rm -rf "$build"
mkdir -p "$build"
cat >"$build/pkg-config" <<SCRIPT
#!/usr/bin/env bash
[[ "\$*" != *rocksdb* ]] || exit 1
exec "$pkg_config" "\$@"
SCRIPT
chmod +x "$build/pkg-config"

configure() {
  "$cmake" -S "$source" -B "$build/$1" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" \
    -DCMAKE_C_COMPILER="$c_compiler" -DPKG_CONFIG_EXECUTABLE="$build/pkg-config" -DUNFOLD_WITH_STORE="$2" \
    >"$build/$1.log" 2>&1
}
# With the store on, the same machine is refused: so it does have no RocksDB.
if configure with ON; then fail "RocksDB was found, so this shows nothing"; fi
grep -q rocksdb "$build/with.log" || { cat "$build/with.log" >&2; fail "refused for another reason than RocksDB"; }
configure without OFF || { cat "$build/without.log" >&2; fail "cannot be configured without RocksDB"; }

"$cmake" --build "$build/without" --target unfold_store >"$build/store.log" 2>&1 ||
  { cat "$build/store.log" >&2; fail "the store layer does not build without RocksDB"; }
# The commands that would be run.
"$cmake" --build "$build/without" -- -t commands unfold unfold_shared >"$build/plan.log" 2>&1 ||
  { cat "$build/plan.log" >&2; fail "the program cannot be planned without RocksDB"; }
grep -q 'engine.cc' "$build/plan.log" || fail "the plan holds no engine"
if grep -E -- '-lrocksdb|librocksdb|store/rocksdb_' "$build/plan.log"; then fail "RocksDB is named as above"; fi
