// SPDX-License-Identifier: Apache-2.0
// RocksDB behind the Store interface. RocksDB's types stay out of this header except the file system hook of tests.
#ifndef UNFOLD_STORE_ROCKSDB_STORE_H_
#define UNFOLD_STORE_ROCKSDB_STORE_H_

#include <memory>
#include <string>

#include "store/store.h"

namespace rocksdb {
class FileSystem;
}

namespace unfold {

enum class StoreAccess {
  kReadOnly,   // sees what was published when opened, beside a running writer; no lock
  kReadWrite,  // opens or creates; Unavailable naming the lock when another process writes. Sweeps orphans.
};

struct RocksDbStoreOptions {
  std::string path;
  StoreAccess access = StoreAccess::kReadWrite;
  std::shared_ptr<rocksdb::FileSystem> file_system = nullptr;  // tests inject faults here; null: the real one
};

// NotFound (read-only, no such store), Unavailable (locked), Corruption, Incompatible (format version), Io.
Result<std::unique_ptr<Store>> OpenRocksDbStore(const RocksDbStoreOptions& options);

}  // namespace unfold

#endif  // UNFOLD_STORE_ROCKSDB_STORE_H_
