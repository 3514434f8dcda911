/* What is not written: each of these fails. */
#include "store/postgres/store.h"

enum fan_status fan__postgres_retain(void *self, const struct fan_retention *retention,
                                     struct fan_retained *ret_retained, struct fan_error *error)
{
    (void)self;
    (void)retention;
    (void)ret_retained;
    (void)error;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_accept_clock(void *self, struct fan_error *error)
{
    (void)self;
    (void)error;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_verify(void *self, fan_finding_visit visit, void *context,
                                     struct fan_error *error)
{
    (void)self;
    (void)visit;
    (void)context;
    (void)error;
    return FAN_UNSUPPORTED;
}
