/* What is behind a store's handle, for the files of this folder that check what callers pass. */
#ifndef FAN_STORE_HANDLE_H
#define FAN_STORE_HANDLE_H

#include "base/env.h"

#include <fanfare/provider.h>

struct fan_store {
    const struct fan_provider *provider;
    const struct fan_env *env;
    void *self;
    uint64_t epoch;
    unsigned fork_generation;
};

static inline bool fan__store_in_fork(const struct fan_store *store)
{
    return store->fork_generation != fan__fork_generation();
}

/* Whether a table, which may be of an earlier header, has a function that it need not have. */
#define FAN__PROVIDER_HAS(provider, member)                                                        \
    ((provider)->size >= offsetof(struct fan_provider, member) + sizeof((provider)->member) &&     \
     (provider)->member)

/*
 * The provider that the library knows by a URI's scheme. Returns: FAN_INVALID with those it knows.
 */
FAN_MUST_CHECK enum fan_status fan__provider_find(const char *uri,
                                                  const struct fan_provider **ret_provider,
                                                  struct fan_error *error);

/* A handle on what a provider opened, still without its epoch; NULL when there is no memory. */
struct fan_store *fan__store_new(const struct fan_provider *provider, const struct fan_env *env,
                                 void *self);

/*
 * Opens the store behind another provider's. As fan_store_open, but that the words do not begin
 * with the URI: whoever asked for both puts theirs there.
 */
FAN_MUST_CHECK enum fan_status fan__store_open_inner(const char *uri, const struct fan_env *env,
                                                     struct fan_store **ret_store,
                                                     struct fan_error *error);

/* Puts the URI, without its secret, in front of what a provider said; gives the status back. */
enum fan_status fan__store_failed(enum fan_status status, const char *uri,
                                  const struct fan_error *reason, struct fan_error *error);

#endif
