/*
 * A folder of a test's own, below TMPDIR or, where that is not set or too long for the sockets of
 * servers, below /tmp. tools/test has TMPDIR in memory: what a test waits for is then no disk.
 */
#ifndef TEST_FOLDER_H
#define TEST_FOLDER_H

#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEST_FOLDER_SIZE = 64 };

/* The name of one that is there for nobody else. */
static inline bool test_folder_make(char folder[static TEST_FOLDER_SIZE])
{
    const char *base = getenv("TMPDIR");
    if (!base || *base != '/' || strlen(base) > 40)
        base = "/tmp";
    snprintf(folder, TEST_FOLDER_SIZE, "%s/fanfare-test-XXXXXX", base);
    return mkdtemp(folder) != NULL;
}

static inline int test_folder_remove_entry(const char *path, const struct stat *info, int type,
                                           struct FTW *ftw)
{
    (void)info;
    (void)type;
    (void)ftw;
    return remove(path);
}

/* With all that is in it. */
static inline void test_folder_remove(const char *folder)
{
    nftw(folder, test_folder_remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

#endif
