/*
 * P21: the table of promises in docs/stores.md, cell by cell. Its rows are found by their first
 * cell and its columns by their heads; each cell is laid beside what the store says of itself (its
 * capability bits) and beside what it does. What stands over other stores promises what they do.
 */
#include "../folder.h"
#include "../test.h"

#include <fanfare/batch.h>
#include <fanfare/group.h>
#include <fanfare/keep.h>

#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef WITH_POSTGRES
#include "../postgres.h"
#endif

#define LONG_MS 20000
#define SHORT_MS 30
#define CELL_SIZE 160
#define COLUMNS_MAX 8

/* A store of a column, plain or behind another provider; `number` makes each one a fresh log. */
struct column {
    char name[32];
    char folder[TEST_FOLDER_SIZE];
    unsigned number;
    const char *prefix;
    const char *suffix;
    char uri[256];
};

#ifdef WITH_POSTGRES
static struct test_postgres server;
#endif

/* Names a log that is not there yet. */
static void next_log(struct column *column)
{
    char uri[200] = "memory:";
    column->number++;
    if (strcmp(column->name, "sqlite") == 0)
        snprintf(uri, sizeof(uri), "sqlite:%s/%u.db", column->folder, column->number);
#ifdef WITH_POSTGRES
    char options[32];
    snprintf(options, sizeof(options), "schema=s%u", column->number);
    if (strcmp(column->name, "postgres") == 0)
        test_postgres_uri(&server, options, uri, sizeof(uri));
#endif
    snprintf(column->uri, sizeof(column->uri), "%s%s%s", column->prefix, uri, column->suffix);
}

static struct fan_store *open_log(const struct column *column)
{
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_store_open(column->uri, NULL, &store, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return store;
}

static struct fan_append append(struct fan_store *store, const char *id)
{
    const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                           .id = id,
                                           .type = "a.promise.kept" };
    struct fan_event *event = NULL;
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    struct fan_append item = { .event = event };
    assert_ok(fan_store_append(store, &item, 1, NULL));
    assert_ok(item.ret_status);
    fan_event_free(event, NULL);
    item.event = NULL;
    return item;
}

static bool has(struct fan_store *store, const char *id)
{
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    enum fan_status status = fan_store_get(store, id, batch, NULL);
    fan_batch_free(batch);
    assert_true(status == FAN_OK || status == FAN_NOT_FOUND);
    return status == FAN_OK;
}

static bool promises(const struct column *column, unsigned bit)
{
    struct fan_store *store = open_log(column);
    unsigned capabilities = fan_store_capabilities(store);
    fan_store_close(store);
    return (capabilities & bit) != 0;
}

static const char *yes(bool is_so)
{
    return is_so ? "yes" : "no";
}

/* A process appends, is told that it is stored, and is killed. */
static const char *survives_a_kill(struct column *column)
{
    next_log(column);
    int pipes[2];
    char told = 0;
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        struct fan_store *store = open_log(column);
        append(store, "before-the-kill");
        if (write(pipes[1], "!", 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(pipes[0], &told, 1), 1);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(pipes[0]);
    close(pipes[1]);
    struct fan_store *store = open_log(column);
    bool survived = has(store, "before-the-kill");
    fan_store_close(store);
    assert_int_equal(survived, promises(column, FAN_CAPABILITY_DURABLE_PROCESS));
    return yes(survived);
}

/* The tests crash_power and conformance show what these bits say. */
static const char *survives_a_power_loss(struct column *column)
{
    next_log(column);
    return yes(promises(column, FAN_CAPABILITY_DURABLE_DISK));
}

static const char *is_replicated(struct column *column)
{
    next_log(column);
    return yes(promises(column, FAN_CAPABILITY_REPLICATED));
}

static const char *has_native_groups(struct column *column)
{
    next_log(column);
    return yes(promises(column, FAN_CAPABILITY_NATIVE_GROUPS));
}

static const char *has_indexes(struct column *column)
{
    next_log(column);
    return yes(promises(column, FAN_CAPABILITY_QUERY));
}

/* Another process waits for what this one appends. */
static const char *is_seen_by_others(struct column *column)
{
    next_log(column);
    bool promised = promises(column, FAN_CAPABILITY_TAIL_PROCESSES);
    int pipes[2];
    char told = 0;
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        struct fan_store *other = open_log(column);
        if (write(pipes[1], "!", 1) != 1)
            _exit(2);
        enum fan_status status = fan_store_wait(other, 0, promised ? LONG_MS : SHORT_MS);
        fan_store_close(other);
        _exit(status == FAN_OK ? 0 : 1);
    }
    assert_int_equal(read(pipes[0], &told, 1), 1);
    struct fan_store *store = open_log(column);
    append(store, "for-others");
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
    fan_store_close(store);
    close(pipes[0]);
    close(pipes[1]);
    assert_int_equal(WEXITSTATUS(status) == 0, promised);
    return yes(promised);
}

static const char *knows_ids(struct column *column)
{
    next_log(column);
    struct fan_store *store = open_log(column);
    uint64_t first_seq = append(store, "again").ret_seq;
    for (int i = 0; i < 100; i++) {
        char id[16];
        snprintf(id, sizeof(id), "other-%d", i);
        append(store, id);
    }
    struct fan_append again = append(store, "again");
    assert_true(again.ret_duplicate && again.ret_seq == first_seq);
    assert_ok(fan_store_delete(store, "again"));
    struct fan_append anew = append(store, "again");
    assert_true(!anew.ret_duplicate && anew.ret_seq > first_seq);
    fan_store_close(store);
    return "while its event is retained";
}

static const char *retains(struct column *column)
{
    next_log(column);
    struct fan_store *store = open_log(column);
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .count = 1 };
    struct fan_retained retained = { .size = sizeof(retained) };
    append(store, "one");
    append(store, "two");
    enum fan_status status;
    do
        status = fan_store_retain(store, &retention, &retained, NULL);
    while (status == FAN_OK && retained.more);
    assert_true(status == FAN_OK || status == FAN_UNSUPPORTED);
    assert_int_equal(has(store, "one"), status != FAN_OK);
    assert_true(has(store, "two"));
    fan_store_close(store);
    return yes(status == FAN_OK);
}

static const char *backs_up(struct column *column)
{
    next_log(column);
    char path[96];
    struct fan_store *store = open_log(column);
    append(store, "kept");
    snprintf(path, sizeof(path), "%s/%u.backup", column->folder, column->number);
    enum fan_status status = fan_store_backup(store, path, NULL);
    fan_store_close(store);
    assert_true(status == FAN_OK || status == FAN_UNSUPPORTED);
    if (status != FAN_OK)
        return yes(false);
    const char *prefix = column->prefix;
    const char *suffix = column->suffix;
    column->prefix = column->suffix = "";
    next_log(column);
    assert_ok(fan_store_restore(path, column->uri, NULL, NULL));
    store = open_log(column);
    assert_true(has(store, "kept"));
    fan_store_close(store);
    column->prefix = prefix;
    column->suffix = suffix;
    return yes(true);
}

static bool see_finding(void *context, const struct fan_finding *finding)
{
    (void)context;
    (void)finding;
    return false;
}

static const char *verifies(struct column *column)
{
    next_log(column);
    struct fan_store *store = open_log(column);
    append(store, "sound");
    enum fan_status status = fan_store_verify(store, see_finding, NULL, NULL);
    fan_store_close(store);
    assert_true(status == FAN_OK || status == FAN_UNSUPPORTED);
    return yes(status == FAN_OK);
}

static int find_library(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size;
    return strstr(info->dlpi_name, context) != NULL;
}

static const char *needs(struct column *column)
{
    static const struct {
        const char *name;
        const char *library;
    } libraries[] = { { "memory", "nothing" },
                      { "sqlite", "libsqlite3" },
                      { "postgres", "libpq" } };
    for (size_t i = 0; i < sizeof(libraries) / sizeof(*libraries); i++) {
        if (strcmp(column->name, libraries[i].name) != 0)
            continue;
        char library[32];
        snprintf(library, sizeof(library), "%s", libraries[i].library);
        assert_true(i == 0 || dl_iterate_phdr(find_library, library));
        return libraries[i].library;
    }
    return "?";
}

static const struct {
    const char *row;
    const char *(*look)(struct column *column);
} rows[] = {
    { "survives the death of the process", survives_a_kill },
    { "survives a power loss", survives_a_power_loss },
    { "replicated", is_replicated },
    { "groups are the storage's own", has_native_groups },
    { "list uses indexes", has_indexes },
    { "seen by other processes as it happens", is_seen_by_others },
    { "an id is known", knows_ids },
    { "retention", retains },
    { "backup and restore", backs_up },
    { "verify", verifies },
    { "needs", needs },
};

#define ROW_COUNT (sizeof(rows) / sizeof(*rows))

struct table {
    size_t columns;
    char heads[COLUMNS_MAX][CELL_SIZE];
    size_t found;
    char cells[ROW_COUNT][COLUMNS_MAX][CELL_SIZE];
};

/* Splits `| a | b |` into cells, without the blanks around them. */
static size_t split_line(char *line, char cells[COLUMNS_MAX + 1][CELL_SIZE])
{
    size_t count = 0;
    char *rest = line + 1;
    while (count <= COLUMNS_MAX && strchr(rest, '|')) {
        char *cell = strsep(&rest, "|");
        cell += strspn(cell, " ");
        size_t size = strlen(cell);
        while (size > 0 && cell[size - 1] == ' ')
            size--;
        snprintf(cells[count++], CELL_SIZE, "%.*s", (int)size, cell);
    }
    return count;
}

/* Reads the table under its heading; a row that nobody looks at is a failure. */
static void read_table(struct table *table)
{
    FILE *docs = fopen(getenv("FANFARE_STORES"), "r");
    char line[1024];
    char cells[COLUMNS_MAX + 1][CELL_SIZE];
    bool inside = false;
    assert_non_null(docs);
    memset(table, 0, sizeof(*table));
    while (fgets(line, sizeof(line), docs)) {
        if (strncmp(line, "## ", 3) == 0)
            inside = strcmp(line, "## What they promise\n") == 0;
        if (!inside || line[0] != '|' || strncmp(line, "|---", 4) == 0)
            continue;
        size_t count = split_line(line, cells);
        if (table->columns == 0) {
            table->columns = count - 1;
            memcpy(table->heads, cells + 1, sizeof(table->heads));
            continue;
        }
        assert_int_equal(count, table->columns + 1);
        size_t row = 0;
        while (row < ROW_COUNT && strcmp(rows[row].row, cells[0]) != 0)
            row++;
        if (row == ROW_COUNT)
            fail_msg("nobody looks at the row '%s'", cells[0]);
        memcpy(table->cells[row], cells + 1, sizeof(table->cells[row]));
        table->found++;
    }
    fclose(docs);
    assert_int_equal(table->found, ROW_COUNT);
}

/* Every cell of every column that this build can open. */
static void check_cells(const char *prefix, const char *suffix)
{
    static struct table table;
    read_table(&table);
    size_t checked = 0;
    for (size_t i = 0; i < table.columns; i++) {
        struct column column = { .prefix = prefix, .suffix = suffix };
        snprintf(column.name, sizeof(column.name), "%.31s", table.heads[i]);
        bool known = strcmp(column.name, "memory") == 0 || strcmp(column.name, "sqlite") == 0;
        bool postgres = strcmp(column.name, "postgres") == 0;
        assert_true(known || postgres);
#ifdef WITH_POSTGRES
        /* What passes on to one passes on to all. */
        known |= postgres && !*prefix;
#endif
        if (!known)
            continue;
        assert_true(test_folder_make(column.folder));
        for (size_t row = 0; row < ROW_COUNT; row++) {
            const char *is = rows[row].look(&column);
            if (strcmp(is, table.cells[row][i]) != 0)
                fail_msg("%s, %s: the table says '%s', and it is '%s'", table.heads[i],
                         rows[row].row, table.cells[row][i], is);
            checked++;
        }
        test_folder_remove(column.folder);
    }
    assert_true(checked >= 2 * ROW_COUNT);
}

static void test_P21_every_cell_of_the_table_is_so(void **state)
{
    (void)state;
    check_cells("", "");
}

static void test_P21_a_fault_store_promises_what_is_behind_it(void **state)
{
    (void)state;
    check_cells("fault:", "");
}

static void test_P21_a_tee_promises_what_its_first_does(void **state)
{
    (void)state;
    check_cells("tee:", "|memory:");
}

#ifdef WITH_POSTGRES
static bool has_postgres(void)
{
    static struct table table;
    bool found = false;
    read_table(&table);
    for (size_t i = 0; i < table.columns; i++)
        found |= strcmp(table.heads[i], "postgres") == 0;
    return found;
}

static int start(void **state)
{
    (void)state;
    return !has_postgres() || test_postgres_start(&server, "fsync=on") ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    if (has_postgres())
        test_postgres_end(&server);
    return 0;
}
#else
#define start NULL
#define end NULL
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P21_every_cell_of_the_table_is_so),
        cmocka_unit_test(test_P21_a_fault_store_promises_what_is_behind_it),
        cmocka_unit_test(test_P21_a_tee_promises_what_its_first_does),
    };
    return cmocka_run_group_tests(tests, start, end);
}
