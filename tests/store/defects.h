/*
 * The defects that test_defects.c plants: name, what is wrong, and a behaviour of the suite that
 * must find it.
 */
#ifndef TESTS_STORE_DEFECTS_H
#define TESTS_STORE_DEFECTS_H

#define DEFECT_TABLE(X)                                                                            \
    X(NONE, "", "")                                                                                \
    X(DUPLICATE_STORED, "a duplicate is stored again under another id",                            \
      "L09_a_duplicate_gives_the_first_sequence_and_stores_nothing")                               \
    X(DUPLICATE_NOT_SAID, "a duplicate is not said to be one",                                     \
      "L09_a_duplicate_gives_the_first_sequence_and_stores_nothing")                               \
    X(DUPLICATE_LATEST, "a duplicate gives the head's sequence",                                   \
      "L09_a_duplicate_gives_the_first_sequence_and_stores_nothing")                               \
    X(BATCH_REVERSED, "a batch is stored in reverse", "P05_a_batch_keeps_its_order")               \
    X(UNIT_SPLIT, "a unit is stored item by item", "P23_units_are_whole_or_nothing")               \
    X(KEY_IGNORED, "the expected key is not looked at", "P23_a_key_must_be_at_its_last_sequence")  \
    X(KEY_ZERO_IS_ANY, "an expected sequence of 0 means any",                                      \
      "P23_a_key_must_be_at_its_last_sequence")                                                    \
    X(FENCE_LOST, "the fence is not looked at", "W09_the_fence_must_be_the_present_one")           \
    X(CONFLICT_SWALLOWED, "a conflict is told as success",                                         \
      "P23_a_key_must_be_at_its_last_sequence")                                                    \
    X(READ_MISSES, "now and then a read passes over its last event",                               \
      "P05_list_and_read_by_every_filter_alone")                                                   \
    X(READ_SCANS_TOO_FAR, "a read that ended early says that it saw all",                          \
      "P05_read_goes_on_from_scanned_seq")                                                         \
    X(READ_STUCK, "scanned_seq stays where nothing matched",                                       \
      "P05_list_and_read_by_every_filter_alone")                                                   \
    X(READ_INCLUSIVE, "a read begins at its cursor", "P05_read_goes_on_from_scanned_seq")          \
    X(READ_UNFILTERED, "a read does not look at the pattern",                                      \
      "P05_read_with_a_filter_that_matches_rarely")                                                \
    X(READ_OVER_LIMIT, "a read does not look at the limit", "P05_read_goes_on_from_scanned_seq")   \
    X(LIST_OFFSET, "list does not look at the offset", "P05_list_and_read_by_every_filter_alone")  \
    X(LIST_ORDER, "list does not look at newest_first", "P05_list_and_read_by_every_filter_alone") \
    X(LIST_STATUS, "list does not look at the status", "P05_list_and_read_by_every_filter_alone")  \
    X(LIST_UNTIL, "until is inclusive", "P05_list_and_read_by_every_filter_alone")                 \
    X(LIST_USER, "list does not look at the user", "P05_list_and_read_by_every_filter_alone")      \
    X(LIST_STATES, "the states of a list are those of the event before",                           \
      "P05_list_and_read_by_every_filter_alone")                                                   \
    X(GET_ANY_CASE, "ids are found in any case", "P05_get_finds_exactly_the_id")                   \
    X(GET_STATE, "get always says pending", "P04_list_and_get_tell_the_same_states")               \
    X(DELETE_TWICE, "a second delete succeeds", "P05_deleted_events_are_gone")                     \
    X(ERASE_NOTHING, "erase does nothing", "P05_erased_events_keep_their_place_and_nothing_else")  \
    X(ERASE_ALL, "erase deletes", "P05_erased_events_keep_their_place_and_nothing_else")           \
    X(HEAD_BACK, "the head goes back when the last event is deleted",                              \
      "L02_sequences_are_not_used_again_after_a_delete")                                           \
    X(WAIT_AT_ONCE, "wait always says that there is something", "P05_wait_ends_by_itself")         \
    X(WAKE_DEAF, "wake wakes nobody", "P05_wake_ends_waits")                                       \
    X(STATS_ALL_DONE, "stats count everything as completed",                                       \
      "P17_the_status_is_the_sum_of_the_deliveries")                                               \
    X(STATS_FIRST, "stats say that the log begins at 1", "P16_stats_of_a_log_without_groups")      \
    X(CAPABILITY_FALSE, "a store that forgets calls itself durable",                               \
      "P21_a_durable_store_is_one_that_can_be_reopened")                                           \
    X(EPOCH_FIXED, "all logs have one epoch", "P13_each_log_has_an_epoch_of_its_own")              \
    X(START_BEGINNING, "groups always begin at the beginning",                                     \
      "P05_groups_begin_at_the_beginning_now_or_a_cursor")                                         \
    X(START_CURSOR, "a cursor's own event is given again",                                         \
      "P05_groups_begin_at_the_beginning_now_or_a_cursor")                                         \
    X(CREATE_ANEW, "creating again begins anew",                                                   \
      "P05_creating_again_keeps_the_place_and_changes_the_pattern")                                \
    X(CREATE_OLD_PATTERN, "creating again keeps the pattern",                                      \
      "P05_creating_again_keeps_the_place_and_changes_the_pattern")                                \
    X(GROUP_TOPIC, "a group's topic is not looked at", "H02_claims_by_pattern_and_topic")          \
    X(GROUP_HANDLER, "all handlers of a group are one",                                            \
      "P09_two_groups_and_handlers_see_everything_each")                                           \
    X(CLAIM_OVER_LIMIT, "a claim gives one event too many", "P05_claims_keep_to_their_limit")      \
    X(CLAIM_TWICE, "now and then a claim is given to a second owner, too",                         \
      "P09_an_event_goes_to_one_member_once")                                                      \
    X(CLAIM_LONG, "leases of claims are a thousand times as long",                                 \
      "P09_lapsed_claims_go_to_another_member")                                                    \
    X(CLAIM_ATTEMPT, "every claim is a first attempt", "H03_retries_wait_for_their_delay")         \
    X(CLAIM_UNORDERED, "ordered claims are not ordered", "H04_of_a_key_one_at_a_time_in_order")    \
    X(CLAIM_ONE_OWNER, "all owners are one", "P09_lapsed_claims_go_to_another_member")             \
    X(SETTLE_ANY_TOKEN, "tokens are not looked at", "P09_lapsed_claims_go_to_another_member")      \
    X(SETTLE_NO_DELAY, "retries do not wait", "H03_retries_wait_for_their_delay")                  \
    X(SETTLE_BACK_COUNTS, "a hand-back counts as an attempt",                                      \
      "H09_what_is_handed_back_was_no_attempt")                                                    \
    X(SETTLE_NO_ERROR, "errors are not kept", "P04_list_and_get_tell_the_same_states")             \
    X(SETTLE_FAIL_DONE, "a failure is settled as done", "P04_list_and_get_tell_the_same_states")   \
    X(SETTLE_FIRST, "only the first of several is settled", "P05_settles_many_and_answers_each")   \
    X(RENEW_NOTHING, "renew does nothing and says that it did",                                    \
      "P09_lapsed_claims_go_to_another_member")                                                    \
    X(MOVE_CLAIMED, "a claimed delivery can be moved", "P04_every_move_and_no_other")              \
    X(MOVE_ANY, "an illegal move is told as done", "P04_every_move_and_no_other")                  \
    X(VISIT_DEAD_ALL, "dead letters do not begin after after_seq",                                 \
      "H06_dead_letters_are_listed_in_order")                                                      \
    X(VISIT_DEAF, "a visit does not end when told", "H06_dead_letters_are_listed_in_order")        \
    X(GROUPS_STATS, "a group's pending events are those of its deliveries alone",                  \
      "P16_stats_of_groups")                                                                       \
    X(GROUP_DELETE, "deleting an unknown group succeeds", "P05_unknown_groups_are_not_found")      \
    X(LEASE_SHARED, "a lease has as many holders as ask", "W09_a_lease_has_one_holder")            \
    X(LEASE_FENCE, "fences are always the same", "W09_fences_rise_with_each_holder")               \
    X(LEASE_LONG, "leases are a thousand times as long", "W09_a_lapsed_lease_cannot_write")        \
    X(LEASE_RENEW, "a lost lease is renewed", "W09_a_lease_has_one_holder")                        \
    X(LEASE_RELEASE, "anybody may release a lease", "W09_a_lease_has_one_holder")                  \
    X(LAPSES_LOST, "claims do not tell of lapses", "P09_lapses_are_counted")                       \
    X(LAPSES_UNSEEN, "deliveries do not tell of lapses", "P09_lapses_are_counted")                 \
    X(LAPSES_BACK, "a hand-back counts as a lapse", "P04_a_claim_takes_what_is_pending_and_due")   \
    X(REDRIVE_LAPSES, "a redrive keeps the lapses", "H06_a_redrive_forgets_lapses")                \
    X(REASON_LOST, "every dead letter has failed", "H06_dead_letters_have_a_reason")               \
    X(REASON_STAYS, "what is redriven or discarded keeps its reason",                              \
      "H06_dead_letters_have_a_reason")                                                            \
    X(LAG_PENDING, "a group lags behind by what it has pending", "P16_stats_of_groups")            \
    X(JOINED_ZERO, "groups do not tell when a member asked",                                       \
      "P16_groups_tell_when_a_member_was_last_there")                                              \
    X(JOINED_NOW, "looking at a group is joining it",                                              \
      "P16_groups_tell_when_a_member_was_last_there")                                              \
    X(JOINED_MADE, "asking for work is not joining",                                               \
      "P16_groups_tell_when_a_member_was_last_there")                                              \
    X(OLDEST_CLAIMED, "what is claimed is not owed any more",                                      \
      "P16_groups_tell_the_oldest_event_they_are_owed")                                            \
    X(OLDEST_FIRST, "the oldest event is the first of the log",                                    \
      "P16_groups_tell_the_oldest_event_they_are_owed")                                            \
    X(WALL_CLOCK, "leases and delays go by the wall clock",                                        \
      "R02_claims_end_in_time_whoever_sets_the_wall_clock")                                        \
    X(RETAIN_NOTHING, "retention says that all is done and does nothing",                          \
      "P11_finished_events_go_by_age")                                                             \
    X(RETAIN_YOUNG, "retention goes by half the age", "P11_finished_events_go_by_age")             \
    X(RETAIN_COUNT, "retention keeps one event less than it should",                               \
      "P11_finished_events_go_by_count")                                                           \
    X(RETAIN_BYTES, "retention does not look at bytes", "P11_finished_events_go_by_bytes")         \
    X(RETAIN_OWED, "retention removes the oldest event, owed or not", "P11_what_is_owed_stays")    \
    X(RETAIN_OWED_SOON, "what is owed expires in half its time",                                   \
      "P11_what_is_owed_too_long_is_a_dead_letter")                                                \
    X(RETAIN_OWED_NEVER, "what is owed never expires",                                             \
      "P11_what_is_owed_too_long_is_a_dead_letter")                                                \
    X(RETAIN_DEAD_SOON, "dead letters are discarded in half their time",                           \
      "P11_dead_letters_go_in_time")                                                               \
    X(RETAIN_DEAD_NEVER, "dead letters are never discarded", "P11_dead_letters_go_in_time")        \
    X(RETAIN_GROUPS_SOON, "groups go in half their time", "P11_groups_that_nobody_joins_go")       \
    X(RETAIN_GROUPS_NEVER, "groups never go", "P11_groups_that_nobody_joins_go")                   \
    X(RETAIN_GROUP_UNSAID, "which group went is not said", "P11_groups_that_nobody_joins_go")      \
    X(RETAIN_UNBOUNDED, "one call of retention looks at everything",                               \
      "P11_one_call_looks_at_a_bounded_part")                                                      \
    X(RETAIN_NO_MORE, "retention never says that there is more",                                   \
      "P11_one_call_looks_at_a_bounded_part")                                                      \
    X(RETAIN_UNTOLD, "readers are not told what was trimmed",                                      \
      "P11_readers_are_told_what_was_trimmed")                                                     \
    X(RETAIN_ANY_CLOCK, "retention goes on when the clock has jumped",                             \
      "R02_retention_refuses_a_jump_of_the_clock")                                                 \
    X(ACCEPT_NOTHING, "accepting the clock does nothing",                                          \
      "R02_retention_refuses_a_jump_of_the_clock")                                                 \
    X(OUT_OF_MEMORY, "running out of memory in an append is told as success",                      \
      "L12_memory_that_ends_is_a_fault_and_no_harm")

#endif
