/*
 * Sums over deliveries, by event and by group, and the deliveries themselves. All of it is the
 * server's work; a question is one snapshot.
 */
#include "store/postgres/group.h"

#include "base/env.h"

void fan__postgres_sums(struct fan__postgres_connection *connection,
                        struct fan_store_stats *ret_stats)
{
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, fan__postgres_now_us(connection->store));
    PGresult *result = fan__postgres_run(connection, FAN__PG_SUMS, &params);
    if (PQntuples(result) == 1) {
        ret_stats->pending = (uint64_t)fan__postgres_int(result, 0, 0);
        ret_stats->processing = (uint64_t)fan__postgres_int(result, 0, 1);
        ret_stats->failed = (uint64_t)fan__postgres_int(result, 0, 2);
        ret_stats->groups = (uint64_t)fan__postgres_int(result, 0, 3);
        ret_stats->completed =
            ret_stats->events - ret_stats->pending - ret_stats->processing - ret_stats->failed;
    }
    PQclear(result);
}

static bool visit_group(const PGresult *result, int row, fan_group_visit visit, void *context)
{
    const struct fan_group_stats stats = {
        .size = sizeof(stats),
        .group = fan__postgres_text(result, row, 0),
        .handler = fan__postgres_text(result, row, 1),
        .pattern = fan__postgres_text(result, row, 2),
        .cursor_seq = (uint64_t)fan__postgres_int(result, row, 3),
        .lag = (uint64_t)fan__postgres_int(result, row, 4),
        .pending = (uint64_t)fan__postgres_int(result, row, 5),
        .processing = (uint64_t)fan__postgres_int(result, row, 6),
        .completed = (uint64_t)fan__postgres_int(result, row, 7),
        .failed = (uint64_t)fan__postgres_int(result, row, 8),
        .joined_us = fan__postgres_int(result, row, 9),
        .oldest_us = fan__postgres_int(result, row, 10),
    };
    return visit(context, &stats);
}

enum fan_status fan__postgres_groups(void *self, fan_group_visit visit, void *context)
{
    struct fan__postgres *store = self;
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow(store, FAN__POSTGRES_READ, &connection, NULL);
    if (status != FAN_OK)
        return status;
    struct fan__postgres_params params = { .count = 0 };
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(connection, &bounds);
    fan__postgres_add_int(&params, fan__postgres_now_us(store));
    PGresult *result = fan__postgres_run(connection, FAN__PG_GROUP_STATS, &params);
    status = fan__postgres_end(connection, FAN_OK, NULL);
    for (int row = 0; status == FAN_OK && row < PQntuples(result); row++) {
        if (!visit_group(result, row, visit, context))
            break;
    }
    PQclear(result);
    return status;
}

static bool visit_delivery(const PGresult *result, int row, int64_t now_us,
                           fan_delivery_visit visit, void *context)
{
    struct fan_delivery delivery = {
        .size = sizeof(delivery),
        .group = fan__postgres_text(result, row, 0),
        .handler = fan__postgres_text(result, row, 1),
        .seq = (uint64_t)fan__postgres_int(result, row, 2),
        .status = (enum fan_event_status)fan__postgres_int(result, row, 3),
        .attempts = (unsigned)fan__postgres_int(result, row, 4),
        .owner = fan__postgres_text(result, row, 5),
        .error = fan__postgres_text(result, row, 6),
        .due_us = fan__postgres_int(result, row, 7),
        .processed_us = fan__postgres_int(result, row, 8),
        .completed_us = fan__postgres_int(result, row, 9),
        .reason = (enum fan_dead_reason)fan__postgres_int(result, row, 10),
        .lapses = (unsigned)fan__postgres_int(result, row, 11),
    };
    if (delivery.status == FAN_EVENT_PROCESSING && delivery.due_us <= now_us) {
        delivery.status = FAN_EVENT_PENDING;
        delivery.owner = "";
    }
    return visit(context, &delivery);
}

/* The dead letters after one, page by page. */
static void visit_dead(struct fan__postgres_connection *connection, uint64_t after_seq,
                       fan_delivery_visit visit, void *context)
{
    int64_t now_us = fan__postgres_now_us(connection->store);
    PGresult *page = NULL;
    bool more = true;
    while (more) {
        /* Names are not empty, so that the first page has all of the next sequence. */
        int last = PQntuples(page) - 1;
        struct fan__postgres_params params = { .count = 0 };
        fan__postgres_add_int(&params,
                              page ? fan__postgres_int(page, last, 2) : (int64_t)after_seq + 1);
        fan__postgres_add_text(&params, page ? fan__postgres_text(page, last, 0) : "");
        fan__postgres_add_text(&params, page ? fan__postgres_text(page, last, 1) : "");
        PGresult *next = fan__postgres_run(connection, FAN__PG_DEAD, &params);
        PQclear(page);
        page = next;
        more = PQntuples(page) > 0;
        for (int row = 0; more && row < PQntuples(page); row++)
            more = visit_delivery(page, row, now_us, visit, context);
        fan__postgres_extend(connection);
    }
    PQclear(page);
}

enum fan_status fan__postgres_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                         fan_delivery_visit visit, void *context)
{
    struct fan__postgres *store = self;
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow(store, FAN__POSTGRES_READ, &connection, NULL);
    if (status != FAN_OK)
        return status;
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(connection, &bounds);
    if (after_seq >= INT64_MAX)
        return fan__postgres_end(connection, FAN_OK, NULL);
    if (seq == 0) {
        visit_dead(connection, after_seq, visit, context);
        return fan__postgres_end(connection, FAN_OK, NULL);
    }
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, (int64_t)seq);
    PGresult *result = fan__postgres_run(connection, FAN__PG_DELIVERIES, &params);
    int64_t now_us = fan__postgres_now_us(store);
    status = fan__postgres_end(connection, FAN_OK, NULL);
    for (int row = 0; status == FAN_OK && row < PQntuples(result); row++) {
        if (!visit_delivery(result, row, now_us, visit, context))
            break;
    }
    PQclear(result);
    return status;
}
