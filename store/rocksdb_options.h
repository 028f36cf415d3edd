// SPDX-License-Identifier: Apache-2.0
// How RocksDB is set up for a store, and why.
#ifndef UNFOLD_STORE_ROCKSDB_OPTIONS_H_
#define UNFOLD_STORE_ROCKSDB_OPTIONS_H_

#include <rocksdb/db.h>

#include <vector>

namespace unfold {

rocksdb::DBOptions MakeDbOptions(rocksdb::Env* env, bool read_only);
// In the order of Column.
std::vector<rocksdb::ColumnFamilyDescriptor> MakeColumns();

}  // namespace unfold

#endif  // UNFOLD_STORE_ROCKSDB_OPTIONS_H_
