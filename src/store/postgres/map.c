/* What a failure of the server means to callers. https://www.postgresql.org/docs/15/errcodes */
#include "store/postgres/store.h"

#include <string.h>

static const struct {
    const char *code; /* or the beginning of several */
    enum fan_status status;
} meanings[] = {
    { "08", FAN_UNAVAILABLE },    /* the connection */
    { "22", FAN_INVALID },        /* a value */
    { "23505", FAN_EXISTS },      /* an id that is there */
    { "25006", FAN_READ_ONLY },   /* a standby, or a database that is set so */
    { "28", FAN_DENIED },         /* who one is */
    { "3D000", FAN_NOT_FOUND },   /* no such database */
    { "3F000", FAN_CORRUPT },     /* no such schema: the log's is gone */
    { "40", FAN_UNAVAILABLE },    /* rolled back, to be tried again */
    { "42501", FAN_DENIED },      /* privileges */
    { "42", FAN_CORRUPT },        /* no such table or column: the log's are gone */
    { "53100", FAN_NO_SPACE },    /* the disk is full */
    { "53", FAN_UNAVAILABLE },    /* memory, connections */
    { "54", FAN_INVALID },        /* a limit of the server's */
    { "55P03", FAN_UNAVAILABLE }, /* no lock in time */
    { "57", FAN_UNAVAILABLE },    /* cancelled, shut down, starting up */
    { "XX001", FAN_CORRUPT },     { "XX002", FAN_CORRUPT },
};

enum fan_status fan__postgres_map(const char *sqlstate)
{
    if (!sqlstate || !*sqlstate)
        return FAN_UNAVAILABLE;
    for (size_t i = 0; i < sizeof(meanings) / sizeof(*meanings); i++) {
        if (strncmp(sqlstate, meanings[i].code, strlen(meanings[i].code)) == 0)
            return meanings[i].status;
    }
    return FAN_IO;
}
