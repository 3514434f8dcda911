/* What the behaviours of groups share. */
#include "store/suite/suite.h"

#include <stdio.h>
#include <string.h>

void fan__suite_create(struct fan__suite *suite, const struct fan_group_name *name,
                       enum fan_start start, const char *pattern)
{
    struct fan_error error = FAN_ERROR_INIT;
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .pattern = pattern,
                                               .start = start };
    CHECK_OK(suite, fan_group_create(suite->store, name, &options, &error));
}

enum fan_status fan__suite_claim_into(struct fan__suite *suite, const struct fan_group_name *name,
                                      const struct fan_claim_options *options,
                                      struct fan__suite_claims *claims)
{
    struct fan_store *store = claims->store ? claims->store : suite->store;
    enum fan_status status = fan_group_claim(store, name, options, claims->batch, claims->items);
    claims->count = status == FAN_OK ? fan_batch_count(claims->batch) : 0;
    if (status == FAN_OK && (claims->count == 0 || claims->count > options->limit)) {
        fan__suite_fail(suite, __FILE__, __LINE__, "a claim of up to %zu gave %zu events",
                        options->limit, claims->count);
        claims->count = 0;
        return FAN_CORRUPT;
    }
    for (size_t i = 0; i < claims->count; i++) {
        const struct fan_claim *claim = &claims->items[i];
        if (claim->seq != fan_event_seq(fan_batch_event(claims->batch, i)) || claim->attempt == 0)
            fan__suite_fail(suite, __FILE__, __LINE__,
                            "claim %zu has attempt %u and not its event's sequence", i,
                            claim->attempt);
    }
    return status;
}

struct fan__suite_claims *fan__suite_claim(struct fan__suite *suite,
                                           const struct fan_group_name *name, const char *owner,
                                           size_t limit, uint32_t lease_ms)
{
    struct fan__suite_claims *claims = fan__suite_alloc(suite, 1, sizeof(*claims));
    claims->batch = fan__suite_batch(suite);
    const struct fan_claim_options options = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = owner, .limit = limit, .lease_ms = lease_ms
    };
    enum fan_status status = fan__suite_claim_into(suite, name, &options, claims);
    if (status != FAN_OK && status != FAN_AGAIN)
        fan__suite_fail(suite, __FILE__, __LINE__, "claim gave %s", fan_status_name(status));
    return claims;
}

struct fan_claim fan__suite_claim_one(struct fan__suite *suite, const struct fan_group_name *name,
                                      uint64_t seq)
{
    const struct fan__suite_claims *claims =
        fan__suite_claim(suite, name, "somebody", 1, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, seq);
    return claims->items[0];
}

static enum fan_status settle(struct fan__suite *suite, const struct fan_group_name *name,
                              struct fan_settle item)
{
    CHECK_OK(suite, fan_group_settle(suite->store, name, &item, 1));
    return item.ret_status;
}

enum fan_status fan__suite_settle(struct fan__suite *suite, const struct fan_group_name *name,
                                  const struct fan_claim *claim, enum fan_verdict verdict,
                                  const char *error)
{
    return settle(
        suite, name,
        (struct fan_settle){
            .seq = claim->seq, .token = claim->token, .verdict = verdict, .error = error });
}

enum fan_status fan__suite_retry(struct fan__suite *suite, const struct fan_group_name *name,
                                 const struct fan_claim *claim, uint32_t delay_ms,
                                 const char *error)
{
    return settle(suite, name,
                  (struct fan_settle){ .seq = claim->seq,
                                       .token = claim->token,
                                       .verdict = FAN_VERDICT_RETRY,
                                       .delay_ms = delay_ms,
                                       .error = error });
}

enum fan_status fan__suite_renew(struct fan__suite *suite, const struct fan_group_name *name,
                                 const struct fan_claim *claim, uint32_t lease_ms)
{
    struct fan_settle item = { .seq = claim->seq, .token = claim->token };
    CHECK_OK(suite, fan_group_renew(suite->store, name, &item, 1, lease_ms));
    return item.ret_status;
}

struct finding {
    const struct fan_group_name *name;
    struct fan__suite_delivery *delivery;
};

static bool see_delivery(void *context, const struct fan_delivery *delivery)
{
    const struct finding *finding = context;
    if (strcmp(delivery->group, finding->name->group) != 0 ||
        strcmp(delivery->handler, finding->name->handler) != 0)
        return true;
    struct fan__suite_delivery *found = finding->delivery;
    found->found = true;
    found->delivery = *delivery;
    snprintf(found->owner, sizeof(found->owner), "%s", delivery->owner ? delivery->owner : "");
    snprintf(found->error, sizeof(found->error), "%s", delivery->error ? delivery->error : "");
    return false;
}

struct fan__suite_delivery fan__suite_delivery_of(struct fan__suite *suite,
                                                  const struct fan_group_name *name, uint64_t seq)
{
    struct fan__suite_delivery delivery = { .found = false };
    struct finding finding = { name, &delivery };
    CHECK_OK(suite, fan_store_deliveries(suite->store, seq, 0, see_delivery, &finding));
    return delivery;
}

struct group_finding {
    const struct fan_group_name *name;
    struct fan_group_stats stats;
    char *pattern;
    bool found;
};

static bool see_group(void *context, const struct fan_group_stats *stats)
{
    struct group_finding *finding = context;
    if (strcmp(stats->group, finding->name->group) != 0 ||
        strcmp(stats->handler, finding->name->handler) != 0)
        return true;
    finding->stats = *stats;
    snprintf(finding->pattern, FAN_TEXT_SIZE_MAX + 1, "%s", stats->pattern ? stats->pattern : "");
    finding->stats.pattern = finding->pattern;
    finding->found = true;
    return false;
}

struct fan_group_stats fan__suite_group_stats(struct fan__suite *suite,
                                              const struct fan_group_name *name)
{
    struct group_finding finding = { .name = name,
                                     .pattern = fan__suite_alloc(suite, FAN_TEXT_SIZE_MAX + 1, 1) };
    CHECK_OK(suite, fan_store_groups(suite->store, see_group, &finding));
    CHECK(suite, finding.found);
    return finding.stats;
}
