// SPDX-License-Identifier: Apache-2.0
// Verify over RocksDB: checksums of files, then every record.
#ifndef UNFOLD_STORE_ROCKSDB_VERIFY_H_
#define UNFOLD_STORE_ROCKSDB_VERIFY_H_

#include "store/rocksdb_database.h"
#include "store/store.h"

namespace unfold {

Result<VerifyReport> VerifyDatabase(Database& database, const rocksdb::Snapshot* snapshot,
                                    const std::function<bool(std::uint64_t)>& progress);

}  // namespace unfold

#endif  // UNFOLD_STORE_ROCKSDB_VERIFY_H_
