//! What every backend must do, as tests: the executable half of [`LogStore`](crate::LogStore)'s documentation.
//!
//! Each case is a function that takes an empty store. [`store_contract!`](crate::store_contract) makes a `#[tokio::test]` of
//! each:
//!
//! ```text
//! async fn make_store() -> (SqliteStore, tempfile::TempDir) { … }
//! flowforge_storage::store_contract!(sqlite, make_store);
//! ```
//!
//! `make_store` returns the store and whatever must live as long as it. Cases wait for nothing: what is committed is
//! visible to the next call.

pub mod epochs;
pub mod last;
pub mod lines;
pub mod load;
pub mod model;
pub mod pages;
pub mod retention;
pub mod sample;
pub mod tasks;

/// Makes a module `$name` with one `#[tokio::test]` for each case of the contract. `$make` is an `async fn` in scope that
/// gives `(store, guard)`.
#[macro_export]
macro_rules! store_contract {
    ($name:ident, $make:ident) => {
        mod $name {
            use super::$make;

            $crate::store_contract!(@cases $make:
                lines: exact_bytes, every_field, extreme_numbers, out_of_range_is_rejected, nothing_to_insert,
                    repeated_insert, insert_in_parts_that_overlap, same_task_twice_in_one_insert, isolated_tasks;
                epochs: highest_epoch_wins_in_either_order, older_epoch_above_base_never_counts,
                    older_epoch_up_to_base_counts, new_base_below_end_rolls_back, rollback_below_the_floor,
                    lines_of_the_new_epoch_before_its_record;
                pages: unknown_task_is_empty, forward, backward, limits, bytes, ranges, filters_agree_with_matches,
                    filters_see_through_colours, filtered_pages_skip_nothing;
                last: nothing_known, follows_inserts, server_rows_have_no_producer, record_without_lines;
                tasks: record_comes_back, versions, insert_before_record, paging_with_equal_times, filters,
                    text_is_literal;
                retention: nothing_to_delete, a_prefix_goes, everything_goes, nothing_comes_back,
                    producers_of_earlier_attempts_go, tasks_are_counted, many_lines;
                load: thousand_tasks_in_one_insert, writers_and_readers_at_once, migrate_again, healthy;
                model: random_histories;
            );
        }
    };
    (@cases $make:ident: $($group:ident: $($case:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _guard) = $make().await;
                $crate::contract::$group::$case(&store).await;
                $crate::LogStore::close(&store).await;
            }
        )+)+
    };
}
