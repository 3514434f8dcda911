/* Declared tables: SQLite is asked once what their columns are and whether the key names a row. */
#include "hook/records.h"

#include "base/env.h"
#include "base/status.h"

#include <string.h>

#define COLUMNS                                                                                    \
    "SELECT name, type, pk, hidden, dflt_value IS NOT NULL, (SELECT max(pk) FROM "                 \
    "pragma_table_xinfo(?1, 'main')) FROM pragma_table_xinfo(?1, 'main') WHERE hidden <> 1 "       \
    "ORDER BY cid"

#define UNIQUE                                                                                     \
    "SELECT 1 FROM pragma_index_list(?1, 'main') l WHERE l.\"unique\" AND NOT l.partial "          \
    "AND (SELECT count(*) = 1 AND max(name) = ?2 FROM pragma_index_info(l.name, 'main'))"

#define WITHOUT_ROWID "SELECT wr FROM pragma_table_list(?1) WHERE schema = 'main'"

static bool holds(const char *type, const char *word)
{
    size_t size = strlen(word);
    for (; *type; type++)
        if (sqlite3_strnicmp(type, word, (int)size) == 0)
            return true;
    return false;
}

/* By the rules of SQLite's own affinities ("Datatypes In SQLite", 3.1), and BOOLEAN. */
static enum fan__column_kind kind_of(const char *type)
{
    if (holds(type, "INT"))
        return FAN__COLUMN_INTEGER;
    if (holds(type, "CHAR") || holds(type, "CLOB") || holds(type, "TEXT"))
        return FAN__COLUMN_TEXT;
    if (holds(type, "BLOB"))
        return FAN__COLUMN_BLOB;
    if (holds(type, "REAL") || holds(type, "FLOA") || holds(type, "DOUB"))
        return FAN__COLUMN_REAL;
    return holds(type, "BOOL") ? FAN__COLUMN_BOOLEAN : FAN__COLUMN_ANY;
}

const struct fan__column *fan__records_table_column(const struct fan__records_table *table,
                                                    const char *name)
{
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->columns[i].name, name) == 0)
            return &table->columns[i];
    return NULL;
}

void fan__records_table_deinit(struct fan_records *records, struct fan__records_table *table)
{
    for (size_t i = 0; i < table->count; i++)
        fan__free(records->env, table->columns[i].name);
    fan__free(records->env, table->columns);
    fan__free(records->env, table->name);
    fan__free(records->env, table->schema);
    fan__free(records->env, table->entity);
}

/* Asks one of the questions above. */
static enum fan_status ask(struct fan_records *records, const char *sql, const char *table,
                           const char *key, sqlite3_stmt **ret_statement)
{
    int code = sqlite3_prepare_v2(records->db, sql, -1, ret_statement, NULL);
    if (code != SQLITE_OK)
        return fan__sql_status(code);
    sqlite3_bind_text(*ret_statement, 1, table, -1, SQLITE_STATIC);
    if (key)
        sqlite3_bind_text(*ret_statement, 2, key, -1, SQLITE_STATIC);
    return FAN_OK;
}

/* Whether the answer has a row that is not 0. */
static enum fan_status ask_yes_no(struct fan_records *records, const char *sql, const char *table,
                                  const char *key, bool *ret_yes)
{
    sqlite3_stmt *statement = NULL;
    enum fan_status status = ask(records, sql, table, key, &statement);
    if (status == FAN_OK) {
        int code = sqlite3_step(statement);
        *ret_yes = code == SQLITE_ROW && sqlite3_column_int(statement, 0) != 0;
        status = fan__sql_status(code);
    }
    sqlite3_finalize(statement);
    return status;
}

/* What the columns tell about the key. */
struct key {
    bool found;
    bool primary; /* alone */
    bool integer; /* of the declared type INTEGER, which makes it the rowid */
    bool has_default;
};

static enum fan_status read_column(struct fan_records *records, struct fan__records_table *table,
                                   sqlite3_stmt *statement, const char *key_name, struct key *key)
{
    const char *name = (const char *)sqlite3_column_text(statement, 0);
    const char *type = (const char *)sqlite3_column_text(statement, 1);
    struct fan__column *columns =
        fan__resize(records->env, table->columns, (table->count + 1) * sizeof(*columns));
    if (!name || !type || !columns)
        return FAN_NO_MEMORY;
    table->columns = columns;
    columns[table->count] =
        (struct fan__column){ .name = fan__strdup(records->env, name),
                              .kind = kind_of(type),
                              .generated = sqlite3_column_int(statement, 3) != 0 };
    if (!columns[table->count].name)
        return FAN_NO_MEMORY;
    if (strcmp(name, key_name) == 0) {
        table->key = table->count;
        key->found = true;
        key->primary =
            sqlite3_column_int(statement, 2) == 1 && sqlite3_column_int(statement, 5) == 1;
        key->integer = sqlite3_stricmp(type, "INTEGER") == 0;
        key->has_default = sqlite3_column_int(statement, 4) != 0 || columns[table->count].generated;
    }
    table->count++;
    return FAN_OK;
}

static enum fan_status read_columns(struct fan_records *records, struct fan__records_table *table,
                                    const char *key_name, struct key *key)
{
    sqlite3_stmt *statement = NULL;
    int code = SQLITE_DONE;
    enum fan_status status = ask(records, COLUMNS, table->name, NULL, &statement);
    while (status == FAN_OK && (code = sqlite3_step(statement)) == SQLITE_ROW)
        status = read_column(records, table, statement, key_name, key);
    sqlite3_finalize(statement);
    return status == FAN_OK ? fan__sql_status(code) : status;
}

static enum fan_status copy_names(struct fan_records *records,
                                  const struct fan_record_table *declared,
                                  struct fan__records_table *table)
{
    table->name = fan__strdup(records->env, declared->name);
    table->schema = fan__strdup(records->env, declared->schema ? declared->schema : "main");
    table->entity = fan__strdup(records->env, declared->entity ? declared->entity : declared->name);
    return table->name && table->schema && table->entity ? FAN_OK : FAN_NO_MEMORY;
}

static enum fan_status check_names(const struct fan__records_table *table, const char *field,
                                   struct fan_error *error)
{
    char type[FAN_TEXT_SIZE_MAX + 1];
    if (fan_event_type_join(table->schema, table->entity, "create", type, sizeof(type)) == FAN_OK)
        return FAN_OK;
    return fan__fail(error, FAN_INVALID, field,
                     "schema %.60s and entity %.60s do not make an event's type", table->schema,
                     table->entity);
}

enum fan_status fan__records_table_read(struct fan_records *records,
                                        const struct fan_record_table *declared,
                                        struct fan__records_table *table, const char *field,
                                        struct fan_error *error)
{
    if (!declared->name || !declared->key)
        return fan__fail(error, FAN_INVALID, field, "must have a name and a key");
    struct key key = { false, false, false, false };
    enum fan_status status = copy_names(records, declared, table);
    if (status == FAN_OK)
        status = read_columns(records, table, declared->key, &key);
    bool unique = key.primary;
    bool without_rowid = false;
    if (status == FAN_OK && key.found && !key.primary)
        status = ask_yes_no(records, UNIQUE, table->name, declared->key, &unique);
    if (status == FAN_OK)
        status = ask_yes_no(records, WITHOUT_ROWID, table->name, NULL, &without_rowid);
    if (status != FAN_OK)
        return fan__fail(error, status, field, "cannot be read: %s",
                         status == FAN_NO_MEMORY ? "out of memory" : sqlite3_errmsg(records->db));
    if (table->count == 0)
        return fan__fail(error, FAN_INVALID, field, "there is no table %.60s", table->name);
    if (!key.found)
        return fan__fail(error, FAN_INVALID, field, "%.60s has no column %.60s", table->name,
                         declared->key);
    if (!unique)
        return fan__fail(error, FAN_INVALID, field,
                         "%.60s.%.60s is no key: it is neither the primary key nor unique",
                         table->name, declared->key);
    table->key_made = (key.primary && key.integer && !without_rowid) || key.has_default;
    return check_names(table, field, error);
}
