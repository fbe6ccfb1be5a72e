//! What every broker must do, as tests over real servers: the executable half of [`Broker`](super::Broker)'s documentation.
//!
//! Each case takes a [`House`]: a store, a broker's servers, and as many instances as the case wants. `broker_contract!` makes
//! a test of each.

mod core;
mod ends;
mod fault;
mod gate;
mod house;
mod sending;
mod shared;

use house::House;

/// Makes a module `$name` with a test for each case; `$make` gives the house.
macro_rules! broker_contract {
    ($name:ident, $make:expr, $($group:ident: $($case:ident),+;)+) => {
        mod $name {
            use super::House;

            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let Some(house) = $make.await else { return };
                    super::$group::$case(house).await;
                }
            )+)+
        }
    };
}

broker_contract!(memory, House::memory(),
    core: order_and_dedupe, a_gap_is_refused, the_newest_session_fences, what_is_missing_for_good_is_a_row,
        dropped_runs_overlap, an_ack_means_stored, frames_reach_who_watches, back_pressure, a_reader_misses_nothing,
        an_unknown_task_is_waited_for, too_many_producers, a_backlog_is_worked_off;
    ends: a_close_ends_the_task, closes_of_several, another_attempt, a_closed_producer_comes_back, late_lines_reopen,
        a_comeback_is_shown_once_its_record_is_stored, an_expired_lease_ends_the_task;
);

broker_contract!(redis, House::redis(),
    core: order_and_dedupe, a_gap_is_refused, the_newest_session_fences, what_is_missing_for_good_is_a_row,
        dropped_runs_overlap, an_ack_means_stored, frames_reach_who_watches, back_pressure, a_reader_misses_nothing,
        an_unknown_task_is_waited_for, too_many_producers, a_backlog_is_worked_off;
    ends: a_close_ends_the_task, closes_of_several, another_attempt, a_closed_producer_comes_back, late_lines_reopen,
        a_comeback_is_shown_once_its_record_is_stored, an_expired_lease_ends_the_task;
    shared: two_instances_have_one_order, a_session_elsewhere_fences, a_lease_is_kept_by_the_instance_that_holds_it,
        a_lease_outlives_its_instance, a_cut_subscription_loses_nothing, a_dead_workers_lines_are_stored_by_another,
        a_frozen_worker_does_no_harm, workers_share_the_shards, acks_reach_an_instance_without_worker,
        nothing_is_left_in_the_queue;
    fault: everything_is_lost, everything_is_lost_while_nobody_sends, an_ended_task_is_served_from_the_store,
        restarted_with_its_data, restarted_without_data, frozen_for_a_while, out_of_memory, an_unreadable_entry,
        a_refused_row_is_a_dead_letter, the_state_of_a_task_is_shown, start_checks;
);

broker_contract!(redis_with_pubsub, House::redis_with_pubsub(),
    core: order_and_dedupe, what_is_missing_for_good_is_a_row, dropped_runs_overlap, frames_reach_who_watches,
        a_reader_misses_nothing;
    ends: a_close_ends_the_task, an_expired_lease_ends_the_task;
    shared: two_instances_have_one_order, a_session_elsewhere_fences, a_cut_subscription_loses_nothing,
        a_dead_workers_lines_are_stored_by_another, acks_reach_an_instance_without_worker;
    fault: everything_is_lost, restarted_with_its_data;
);

broker_contract!(redis_cluster, House::redis_cluster(),
    core: order_and_dedupe, a_gap_is_refused, what_is_missing_for_good_is_a_row, frames_reach_who_watches,
        a_reader_misses_nothing;
    ends: a_close_ends_the_task, another_attempt, an_expired_lease_ends_the_task;
    shared: two_instances_have_one_order, a_session_elsewhere_fences, a_cut_subscription_loses_nothing,
        a_dead_workers_lines_are_stored_by_another, workers_share_the_shards, nothing_is_left_in_the_queue;
    fault: everything_is_lost;
);

broker_contract!(redis_sentinel, House::redis_sentinel(),
    core: order_and_dedupe, a_reader_misses_nothing;
    ends: a_close_ends_the_task;
    fault: the_master_dies;
);
