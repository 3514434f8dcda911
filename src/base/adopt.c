/* The one place that reads a struct whose size the caller states. */
#include "base/adopt.h"

#include <string.h>

/* No struct of ours comes near; a larger size is a struct that nobody initialised. */
#define SIZE_SANE 4096

bool fan__adopt(void *ret_struct, size_t known, const void *given, size_t least)
{
    size_t size;
    memcpy(&size, given, sizeof(size));
    if (size < least || size > SIZE_SANE)
        return false;
    const char *bytes = given;
    for (size_t i = known; i < size; i++)
        if (bytes[i] != 0)
            return false;
    memset(ret_struct, 0, known);
    memcpy(ret_struct, given, size < known ? size : known);
    memcpy(ret_struct, &known, sizeof(known));
    return true;
}
