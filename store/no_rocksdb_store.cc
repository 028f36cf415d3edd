// SPDX-License-Identifier: Apache-2.0
// In the place of rocksdb_store.cc where RocksDB is left out (UNFOLD_WITH_STORE=OFF): the store in memory is all there
// is.
#include "store/rocksdb_store.h"

namespace unfold {

Result<std::unique_ptr<Store>> OpenRocksDbStore(const RocksDbStoreOptions& options) {
  return Status::Unavailable(options.path +
                             ": this build has no store on disk: configure it with -DUNFOLD_WITH_STORE=ON (needs "
                             "RocksDB), or leave the store's path empty for a store in memory");
}

}  // namespace unfold
