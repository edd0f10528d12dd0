//! How RocksDB is set up: small, careful, and quiet.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel, Options};

/// Blocks kept for reading, per database. The log's tail and the whole state are in memory already.
const BLOCK_CACHE_BYTES: usize = 4 << 20;
/// Read at once by who reads a whole table.
pub(crate) const READAHEAD_BYTES: usize = 1 << 20;
/// Open files, per database.
const OPEN_FILES_MAX: i32 = 128;

/// What both databases have in common.
pub(crate) fn options(create: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_paranoid_checks(true);
    // A torn tail is what a crash leaves. Anything else that is wrong is refused; the default mode would quietly drop
    // everything after it.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    options.set_block_based_table_factory(&table);
    options
}
