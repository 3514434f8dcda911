/* What is not written: each of these fails. */
#include "store/postgres/store.h"

enum fan_status fan__postgres_verify(void *self, fan_finding_visit visit, void *context,
                                     struct fan_error *error)
{
    (void)self;
    (void)visit;
    (void)context;
    (void)error;
    return FAN_UNSUPPORTED;
}
