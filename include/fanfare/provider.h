/*
 * A provider: the table of functions behind a store. Programs may bring their own and run the
 * installed conformance suite (fanfare-conformance, docs/stores.md) on it.
 *
 * Every function is blocking, batched, and called from any thread, several at a time; `self` is
 * what open gave. What each must do and return is written at the fan_store_, fan_group_ and
 * fan_lease_ function of the same name (store.h, group.h, keep.h); arguments were checked there (no
 * NULL where none is allowed, limits set, patterns and names legal). A provider takes time,
 * randomness and memory from `env` alone, so that it runs under a simulated clock.
 */
#ifndef FANFARE_PROVIDER_H
#define FANFARE_PROVIDER_H

#include <fanfare/group.h>
#include <fanfare/keep.h>
#include <fanfare/store.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_provider {
    size_t size;
    const char *scheme; /* "sqlite": URIs start with it and a colon */
    unsigned capabilities;

    /* `uri` whole, scheme included. ret_epoch is never 0. */
    enum fan_status (*open)(const char *uri, const struct fan_env *env, void **ret_self,
                            uint64_t *ret_epoch, struct fan_error *error);
    void (*close)(void *self);

    enum fan_status (*append)(void *self, struct fan_append *items, size_t count,
                              struct fan_error *error);
    enum fan_status (*read)(void *self, uint64_t after_seq, const struct fan_query *query,
                            struct fan_batch *batch, struct fan_read_result *ret_result);
    /* NULL where there is no FAN_CAPABILITY_QUERY: then fan_store_list reads the log instead. */
    enum fan_status (*list)(void *self, const struct fan_query *query, struct fan_batch *batch,
                            struct fan_event_state *states, struct fan_error *error);
    enum fan_status (*get)(void *self, const char *id, struct fan_batch *batch,
                           struct fan_event_state *ret_state);
    enum fan_status (*remove)(void *self, const char *id);
    enum fan_status (*erase)(void *self, const char *id);
    enum fan_status (*head)(void *self, uint64_t *ret_seq);
    enum fan_status (*wait)(void *self, uint64_t after_seq, uint32_t timeout_ms);
    void (*wake)(void *self);
    enum fan_status (*stats)(void *self, struct fan_store_stats *ret_stats);

    enum fan_status (*group_create)(void *self, const struct fan_group_name *name,
                                    const struct fan_group_options *options,
                                    struct fan_error *error);
    enum fan_status (*group_delete)(void *self, const struct fan_group_name *name);
    enum fan_status (*claim)(void *self, const struct fan_group_name *name,
                             const struct fan_claim_options *options, struct fan_batch *batch,
                             struct fan_claim *claims);
    enum fan_status (*settle)(void *self, const struct fan_group_name *name,
                              struct fan_settle *items, size_t count);
    enum fan_status (*renew)(void *self, const struct fan_group_name *name,
                             struct fan_settle *items, size_t count, uint32_t lease_ms);
    enum fan_status (*move)(void *self, const struct fan_group_name *name, uint64_t seq,
                            enum fan_event_status to);
    enum fan_status (*deliveries)(void *self, uint64_t seq, uint64_t after_seq,
                                  fan_delivery_visit visit, void *context);
    enum fan_status (*groups)(void *self, fan_group_visit visit, void *context);

    enum fan_status (*lease_acquire)(void *self, const char *name, const char *owner,
                                     uint32_t ttl_ms, uint64_t *ret_fence);
    enum fan_status (*lease_renew)(void *self, const char *name, const char *owner, uint64_t fence,
                                   uint32_t ttl_ms);
    enum fan_status (*lease_release)(void *self, const char *name, const char *owner,
                                     uint64_t fence);

    /* What this store promises, where its URI decides; NULL: `capabilities`, always. */
    unsigned (*promises)(void *self);

    /* Optional, each for itself: NULL is FAN_UNSUPPORTED. restore: `uri` is whole, and nobody's. */
    enum fan_status (*retain)(void *self, const struct fan_retention *retention,
                              struct fan_retained *ret_retained, struct fan_error *error);
    enum fan_status (*accept_clock)(void *self, struct fan_error *error);
    enum fan_status (*backup)(void *self, const char *path, struct fan_error *error);
    enum fan_status (*restore)(const char *path, const char *uri, const struct fan_env *env,
                               struct fan_error *error);
    enum fan_status (*verify)(void *self, fan_finding_visit visit, void *context,
                              struct fan_error *error);
};

#define FAN_PROVIDER_SIZE sizeof(struct fan_provider)

/*
 * Opens a store on a provider that the library does not know by its scheme.
 *
 * Returns: as fan_store_open.
 * Memory:  the table is borrowed until fan_store_close.
 * Thread:  any. Blocks: as the provider's open.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_open_provider(const struct fan_provider *provider,
                                                               const char *uri,
                                                               const struct fan_env *env,
                                                               struct fan_store **ret_store,
                                                               struct fan_error *ret_error);

#ifdef __cplusplus
}
#endif

#endif
