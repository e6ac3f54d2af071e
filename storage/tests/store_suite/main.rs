//! One suite for every store: the promises of `storage::store::Store`, checked on each implementation. A new store adds a
//! `Backend` and a line at the end of this file; it must not add exceptions.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod accounts;
mod backend;
mod backups;
mod catalogue;
mod journalled;
#[path = "../support/postgres.rs"]
mod postgres_server;
mod sample;
mod sessions;
mod writing;

use backend::{Backend, Postgres, Sqlite};

macro_rules! suite {
    ($store:ident: $backend:ty { $($room:ident :: { $($promise:ident),* $(,)? })* }) => {
        mod $store {
            use super::*;
            $($(
                #[test]
                fn $promise() {
                    $room::$promise(<$backend>::fresh());
                }
            )*)*
        }
    };
}

macro_rules! every_promise_on {
    ($store:ident: $backend:ty) => {
        suite!($store: $backend {
            accounts::{
                a_name_belongs_to_one_user,
                a_user_is_found_by_every_key,
                passwords_and_roles_change,
                seeding_leaves_existing_users_alone,
                racing_registrations_make_one_user,
            }
            sessions::{
                a_refresh_token_works_once,
                a_used_token_ends_its_session,
                racing_refreshes_rotate_once_and_end_the_session,
                an_expired_token_is_not_rotated,
                revoking_names_the_grant_once,
                a_user_cannot_revoke_anothers_session,
                a_password_change_ends_the_other_sessions,
                the_longest_unseen_session_makes_room,
                purging_forgets_what_nothing_can_name,
            }
            journalled::{
                every_record_kind_replayed_twice_changes_nothing,
                any_order_ends_in_the_same_tables,
                what_is_stored_is_what_the_rules_computed,
                stale_rows_change_nothing,
                cursors_move_with_the_rows_and_never_back,
                adopting_sets_cursors_whatever_they_were,
                an_unknown_user_is_not_loaded,
                history_is_paged_newest_first_without_gaps_or_repeats,
                nodes_of_a_day_are_added_up,
                what_was_applied_survives_reopening,
                tombstones_go_after_their_time,
                a_check_counts_and_finds_no_problem,
            }
            catalogue::{
                importing_twice_changes_nothing,
                a_known_series_is_updated_and_keeps_its_slug,
                what_a_row_leaves_out_stays,
                equal_slugs_get_a_suffix,
                slugs_never_read_as_ids_or_paths,
                a_series_without_an_id_is_adopted_when_one_title_matches,
                nothing_is_adopted_when_two_rows_could,
                bad_and_repeated_rows_are_reported_with_their_number,
                a_row_without_an_id_finds_its_series,
            }
            writing::{
                a_refused_record_is_parked_and_the_rest_stored,
                an_unreadable_record_is_parked,
                a_parked_record_can_be_retried_or_discarded,
                a_store_that_was_away_gets_everything,
                batches_that_follow_refused_ones_are_stored_whole,
                a_stop_does_not_wait_for_a_backlog,
                draining_a_closed_journal_stores_what_was_left,
                account_writes_go_before_waiting_batches,
            }
            backups::{
                what_is_saved_comes_back_in_either_store,
                who_was_signed_in_can_be_left_out,
                another_store_than_the_one_that_was_meant_is_not_saved,
            }
        });
    };
}

every_promise_on!(sqlite: Sqlite);
every_promise_on!(postgres: Postgres);
