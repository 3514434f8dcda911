/*
 * P06: the conformance suite, unchanged, over a store that the library knows (PROVIDER).
 *
 * An argument runs the behaviours whose names contain it; FANFARE_SEED repeats a run, and
 * FANFARE_SOAK=1 runs the full counts.
 */
#include <fanfare/conformance.h>

#include "../folder.h"
#include "../seed.h"

#ifdef POSTGRES_PY
#include "postgres.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where a provider keeps what it has: each store has a file, or a schema, of its own. */
struct place {
    char folder[TEST_FOLDER_SIZE];
    const char *uri;
    unsigned number;
    bool full;
#ifdef POSTGRES_PY
    struct test_postgres server;
#endif
};

static bool begin(struct place *place)
{
#ifdef POSTGRES_PY
    return test_postgres_start(&place->server, NULL);
#else
    (void)place;
    return true;
#endif
}

static void end(struct place *place)
{
#ifdef POSTGRES_PY
    test_postgres_end(&place->server);
#else
    (void)place;
#endif
}

static size_t print_server(const struct place *place, char *uri, size_t size)
{
    uri[0] = '\0';
#ifdef POSTGRES_PY
    /* A busy machine is no reason for a call to fail. */
    char options[48];
    snprintf(options, sizeof(options), "schema=s%u&timeout_ms=60000", place->number);
    test_postgres_uri(&place->server, options, uri, size);
#else
    (void)place;
    (void)size;
#endif
    return strlen(uri);
}

/* Each `@` in a URI becomes a file of its own, a `$` a schema on the test's server. */
static const struct setting {
    const char *name;
    const char *uri;
    bool keeps;
} settings[] = {
    { "memory", "memory:?capacity=1000000", false },
    { "sqlite", "sqlite:@", true },
    { "postgres", "$", true },
    { "fault-memory", "fault:memory:?capacity=1000000", false },
    { "tee-memory", "tee:memory:?capacity=1000000|memory:?capacity=1000000", false },
    { "tee-sqlite", "tee:sqlite:@|memory:?capacity=1000000", true },
    { "fault-sqlite", "fault:seed=1,errors=0%:sqlite:@", true },
};

static void print_uri(const struct place *place, char uri[256])
{
    size_t size = 0;
    for (const char *at = place->uri; *at; at++) {
        /* What synchronous=full adds is the disk's own time; the full counts have that, too. */
        if (*at == '@')
            size += (size_t)snprintf(uri + size, 256 - size, "%s/%u-%zu.db%s", place->folder,
                                     place->number, (size_t)(at - place->uri),
                                     place->full ? "" : "?synchronous=normal");
        else if (*at == '$')
            size += print_server(place, uri + size, 256 - size);
        else
            uri[size++] = *at;
    }
    uri[size] = '\0';
}

static enum fan_status open_place(void *context, const struct fan_env *env,
                                  struct fan_store **ret_store, struct fan_error *ret_error)
{
    const struct place *place = context;
    char uri[256];
    print_uri(place, uri);
    return fan_store_open(uri, env, ret_store, ret_error);
}

static enum fan_status open_fresh(void *context, const struct fan_env *env,
                                  struct fan_store **ret_store, struct fan_error *ret_error)
{
    ((struct place *)context)->number++;
    return open_place(context, env, ret_store, ret_error);
}

int main(int argc, char **argv)
{
    struct place place = { 0 };
    if (!test_folder_make(place.folder)) {
        puts("Bail out! no folder for the stores");
        return EXIT_FAILURE;
    }
    if (!begin(&place)) {
        puts("Bail out! no server for the stores");
        return EXIT_FAILURE;
    }
    place.full = test_is_soak();
    int failed = -1;
    for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
        if (strcmp(settings[i].name, PROVIDER) != 0)
            continue;
        place.uri = settings[i].uri;
        const struct fan_conformance_options options = {
            .size = FAN_CONFORMANCE_OPTIONS_SIZE,
            .context = &place,
            .open = open_fresh,
            .reopen = settings[i].keeps ? open_place : NULL,
            .traits = FAN_CONFORMANCE_CLOCK | FAN_CONFORMANCE_MEMORY,
            .seed = test_seed(),
            .only = argc > 1 ? argv[1] : NULL,
            .full = place.full,
            .label = PROVIDER ": ",
        };
        failed = fan_conformance_run(&options);
    }
    end(&place);
    test_folder_remove(place.folder);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
