// SPDX-License-Identifier: Apache-2.0
#include "store/rocksdb_options.h"

#include <rocksdb/cache.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/table.h>

namespace unfold {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::uint64_t kMinBlobBytes = 4096;

// No LOG is kept: readers would rename the writer's, and on a full disk RocksDB's own logger aborts the process where
// the library was built with assertions, as Debian's is.
class NoLogger : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char* /*format*/, va_list /*arguments*/) override {}
};

// Nothing is compressed: KV does not shrink, and what was deleted can be looked for in the files.
rocksdb::ColumnFamilyOptions Plain(std::size_t write_buffer_bytes, const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions options;
  options.write_buffer_size = write_buffer_bytes;
  options.compression = rocksdb::kNoCompression;
  options.level_compaction_dynamic_level_bytes = true;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

// Values go to blob files, so that compaction moves keys and not KV.
rocksdb::ColumnFamilyOptions Blobs(std::size_t write_buffer_bytes, const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions options = Plain(write_buffer_bytes, cache);
  options.enable_blob_files = true;
  options.min_blob_size = kMinBlobBytes;
  options.blob_compression_type = rocksdb::kNoCompression;
  options.enable_blob_garbage_collection = true;
  options.blob_garbage_collection_force_threshold = 0.5;
  options.blob_compaction_readahead_size = 2 * kMiB;
  options.target_file_size_base = kMiB;  // keys only: a range of keys that is compacted stays a small part of them
  return options;
}

}  // namespace

rocksdb::DBOptions MakeDbOptions(rocksdb::Env* env, bool read_only) {
  rocksdb::DBOptions options;
  options.env = env;
  options.create_if_missing = !read_only;
  options.create_missing_column_families = !read_only;
  options.file_checksum_gen_factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  // Point in time: after power loss the log may end in anything, and what stands behind its last sync was not
  // acknowledged. The mode cannot tell that from damage further up, so COMMITS does (Database::CheckAcknowledged).
  // The stricter kTolerateCorruptedTailRecords would refuse a store whose unsynced tail came out as zeros.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  options.max_total_wal_size = 128 * kMiB;  // what a reader beside the writer must replay into its memory
  options.max_open_files = -1;              // readers hold every table open, and opening checks each
  options.max_file_opening_threads = 1;     // so that an exception of RocksDB's at opening reaches the caller's thread
  options.max_background_jobs = 2;
  options.max_bgerror_resume_count = 0;  // after an error nothing more is written: see Database::Write
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.info_log = std::make_shared<NoLogger>();
  return options;
}

std::vector<rocksdb::ColumnFamilyDescriptor> MakeColumns() {
  const std::shared_ptr<rocksdb::Cache> cache = rocksdb::NewLRUCache(32 * kMiB);
  return {{rocksdb::kDefaultColumnFamilyName, Plain(kMiB, cache)},
          {"meta", Plain(kMiB, cache)},
          {"docs", Plain(4 * kMiB, cache)},
          {"text", Plain(8 * kMiB, cache)},
          {"chunks", Plain(8 * kMiB, cache)},
          {"gist", Blobs(16 * kMiB, cache)},
          {"raw", Blobs(32 * kMiB, cache)}};
}

}  // namespace unfold
