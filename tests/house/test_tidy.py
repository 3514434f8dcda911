"""tools/tidy: the tree obeys it, and each of its rules finds a violation that was planted."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]
sys.dont_write_bytecode = True

import tap  # noqa: E402

GOOD = {
    "include/fanfare/bus.h": """/* The bus. */
#ifndef FANFARE_BUS_H
#define FANFARE_BUS_H

#ifdef __cplusplus
extern "C" {
#endif

struct fan_bus;

#define FAN_BUS_COUNT 3

/*
 * Opens a bus.
 *
 * Returns: FAN_NO_MEMORY.
 * Memory:  *ret_bus is yours.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_bus_open(struct fan_bus **ret_bus);

/* Tells two numbers. Thread: any. Blocks: never. */
FAN_API int fan_bus_one(const struct fan_bus *bus);
FAN_API int fan_bus_two(const struct fan_bus *bus);

/* Undoes it. Returns: FAN_NOT_FOUND. Memory, Thread, Blocks: as fan_bus_open. */
FAN_MUST_CHECK FAN_API enum fan_status fan_bus_undo(struct fan_bus *bus);

#ifdef __cplusplus
}
#endif

#endif
""",
    "include/fanfare/store.h": """/* The log. */
#ifndef FANFARE_STORE_H
#define FANFARE_STORE_H

#include <fanfare/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Closes it. Thread: any. */
FAN_API void fan_store_close(struct fan_store *store);

#ifdef __cplusplus
}
#endif

#endif
""",
    "src/base/lock.h": """/* Locks. */
#ifndef FAN_BASE_LOCK_H
#define FAN_BASE_LOCK_H

struct fan__lock {
    int handle;
};

void fan__lock(struct fan__lock *lock);

#endif
""",
    "src/hook/hold.c": """/* Holds a lock, as this floor may. */
#include "base/lock.h"
""",
    "src/base/lock.c": """/* Locks. */
#include "base/lock.h"

#include <stdatomic.h>

/* acquire: what the last holder wrote is seen. */
void fan__lock(struct fan__lock *lock)
{
    atomic_load_explicit(&lock->handle, memory_order_acquire);
}
""",
    "src/bus/bus.c": """/* The bus; sleep(1) and malloc(3) in a comment are only words. */
#include <fanfare/bus.h>

#include "base/lock.h"

int fan_bus_one(const struct fan_bus *bus)
{
    const char *text = "malloc(1); sleep(1); {";
    if (!bus)
        goto out;
    return text[0] == '{';
out:
    return 0;
}
""",
    "src/store/open.c": """/* Opens stores. */
#include "store/sqlite/sqlite.h"

#include <fanfare/store.h>

void fan_store_close(struct fan_store *store)
{
    (void)store;
}
""",
    "src/store/sqlite/sqlite.h": """/* SQLite. */
#ifndef FAN_STORE_SQLITE_H
#define FAN_STORE_SQLITE_H
#endif
""",
    "src/store/memory/memory.h": """/* Memory. */
#ifndef FAN_STORE_MEMORY_H
#define FAN_STORE_MEMORY_H
#endif
""",
    "examples/hello.c": """/* Says hello. */
#include <fanfare/bus.h>

int main(void)
{
    return 0;
}
""",
    "tests/bus/test_bus.c": """/* Tests. */
#include "../test.h"

#include "bus/bus.h"
""",
}


def head(text):
    return "/* A file. */\n" + text


def function(lines, before=""):
    return head(before + "static void long_one(void)\n{\n" + "    work();\n" * (lines - 3) + "}\n")


def header(declaration):
    return GOOD["include/fanfare/bus.h"].replace("/* Tells two", declaration + "\n/* Tells two")


TAGGED = "/* Does it. Thread: any. */\n"

# name: (path, text, what the one violation says). None instead of words: nothing is to be found.
PLANTED = {
    "upward": ("src/base/x.c", head('#include "bus/bus.h"\n'), "bus is not below"),
    "upward_from_store": ("src/store/x.c", head('#include "broker/commit.h"\n'), "not below it"),
    "bus_sees_store": ("src/bus/x.c", head('#include "store/store.h"\n'), "store is not below"),
    "store_sees_bus": ("src/store/x.c", head('#include "bus/bus.h"\n'), "bus is not below"),
    "bus_sees_public_store": ("src/bus/x.c", head("#include <fanfare/store.h>\n"),
                              "belongs to store"),
    "header_sees_upward": ("include/fanfare/store.h",
                           GOOD["include/fanfare/store.h"].replace("status.h", "bus.h"),
                           "belongs to bus"),
    "server_sees_cli": ("src/server/x.c", head('#include "cli/table.h"\n'), "cli is not below"),
    "provider_sees_provider": ("src/store/sqlite/x.c", head('#include "store/memory/memory.h"\n'),
                               "provider sqlite includes provider memory"),
    "cli_sees_inside": ("src/cli/x.c", head('#include "base/lock.h"\n'), "public headers alone"),
    "hook_sees_event": ("src/hook/x.c", head('#include "event/text.h"\n'), "headers alone"),
    "flow_sees_inside": ("src/flow/x.c", head('#include "base/lock.h"\n'), "public headers alone"),
    "app_sees_inside": ("apps/albums/x.c", head('#include "base/lock.h"\n'), "headers alone"),
    "example_sees_inside": ("examples/x.c", head('#include "base/lock.h"\n'), "headers alone"),
    "example_climbs": ("examples/x.c", head('#include "../src/base/lock.h"\n'), "climbs"),
    "angled_inside": ("src/cli/x.c", head("#include <base/lock.h>\n"), "with quotes"),
    "public_sees_inside": ("include/fanfare/x.h", "/* X. */\n#ifndef FANFARE_X_H\n"
                           '#define FANFARE_X_H\n#include "base/lock.h"\n#endif\n',
                           "not installed"),
    "unknown_floor": ("src/attic/x.c", head(""), "no such floor"),
    "own_folder_is_fine": ("src/cli/x.c", head('#include "cli/table.h"\n'), None),
    "excused_include": ("src/base/x.c", head('#include "bus/bus.h" /* tidy: a reason */\n'), None),
    "header_too_long": ("include/fanfare/store.h", GOOD["include/fanfare/store.h"] + "\n" * 250,
                        "250 at most"),
    "file_too_long": ("src/bus/x.c", head("\n" * 1000), "1000 at most"),
    "file_excused": ("src/bus/x.c", "/* tidy: one table. */\n" + "\n" * 1000, None),
    "example_too_long": ("examples/x.c", head("\n" * 60), "60 at most"),
    "function_at_the_limit": ("src/bus/x.c", function(70), None),
    "function_too_long": ("src/bus/x.c", function(71), "71 lines"),
    "function_excused": ("src/bus/x.c", function(71, "/* tidy: a table of cases */\n"), None),
    "excuse_without_reason": ("src/bus/x.c", function(71, "/* tidy: */\n"), "71 lines"),
    "line_too_long": ("src/bus/x.c", head("int " + "x" * 97 + ";\n"), "102 characters"),
    "line_counts_characters": ("src/bus/x.c", head("/* " + "ä" * 94 + " */\n"), None),
    "python_line_too_long": ("tools/x.py", "x = '" + "y" * 96 + "'\n", "102 characters"),
    "six_parameters": ("src/bus/x.c", head("static int f(int a, int b, int c, int d, int e, "
                                           "int g)\n{\n    return 0;\n}\n"), "6 parameters"),
    "five_with_a_pointer": ("src/bus/x.c", head("static int f(int (*a)(int, int), int b, int c, "
                                                "int d, int e)\n{\n    return 0;\n}\n"), None),
    "six_in_a_table": ("src/bus/x.h", head("#ifndef X\n#define X\nstruct fan__x {\n    int "
                                           "(*f)(int, int, int, int, int, int);\n};\n#endif\n"),
                       "6 parameters"),
    "no_comment": ("include/fanfare/bus.h", header("FAN_API void fan_bus_x(void);\n"),
                   "no comment before it"),
    "no_thread": ("include/fanfare/bus.h",
                  header("/* Does it. */\nFAN_API void fan_bus_x(void);\n"), "no Thread:"),
    "no_returns": ("include/fanfare/bus.h",
                   header(TAGGED + "FAN_MUST_CHECK FAN_API enum fan_status fan_bus_x(void);\n"),
                   "no Returns:"),
    "no_memory": ("include/fanfare/bus.h",
                  header(TAGGED + "FAN_API void fan_bus_x(struct fan_x **ret_x);\n"),
                  "no Memory:"),
    "tags_out_of_order": ("include/fanfare/bus.h",
                          header("/* Does it. Thread: any. Memory: yours. */\n"
                                 "FAN_API void fan_bus_x(void);\n"), "in the order"),
    "tag_in_the_middle": ("include/fanfare/bus.h",
                          header("/*\n * Does it.\n *\n * Returns: x. Memory:  yours.\n"
                                 " * Thread:  any.\n */\nFAN_API void fan_bus_x(void);\n"),
                          "middle of a line"),
    "no_sentence": ("include/fanfare/bus.h", header("/* does it. Thread: any. */\n"
                                                    "FAN_API void fan_bus_x(void);\n"),
                    "no full sentence"),
    "no_head_comment": ("src/bus/x.c", "int fan__x;\n", "no comment at the top"),
    "comment_shape": ("src/bus/x.c", head("/* One\n * two. */\n"), "lines of their own"),
    "no_guard": ("src/bus/x.h", head("int fan__x(void);\n"), "no include guard"),
    "same_guard": ("src/bus/x.h", head("#ifndef FAN_BASE_LOCK_H\n#define FAN_BASE_LOCK_H\n"
                                       "#endif\n"), "is also that of"),
    "no_extern_c": ("include/fanfare/x.h", "/* X. */\n#ifndef FANFARE_X_H\n#define FANFARE_X_H\n"
                    + TAGGED + "FAN_API void fan_x(void);\n#endif\n", "for C++"),
    "public_name": ("include/fanfare/bus.h", header(TAGGED + "FAN_API void bus_x(void);\n"),
                    "is public: fan_"),
    "internal_name_in_public": ("include/fanfare/bus.h",
                                header(TAGGED + "FAN_API void fan__x(void);\n"), "is public"),
    "not_exported": ("include/fanfare/bus.h", header(TAGGED + "void fan_bus_x(void);\n"),
                     "no FAN_API"),
    "public_macro": ("include/fanfare/bus.h", header("#define COUNT 3\n"), "COUNT is public"),
    "public_struct": ("include/fanfare/bus.h", header("struct bus {\n    int x;\n};\n"),
                      "bus is public"),
    "struct_typedef": ("src/bus/x.c", head("typedef struct fan__x fan__x_t;\n"), "typedef"),
    "function_typedef_is_fine": ("src/bus/x.c", head("typedef enum x (*f)(struct y *y);\n"), None),
    "internal_name": ("src/bus/x.c", head("int helper(void)\n{\n    return 0;\n}\n"),
                      "neither static"),
    "internal_struct": ("src/bus/x.h", head("#ifndef X\n#define X\nstruct lane {\n    int x;\n};\n"
                                            "#endif\n"), "fan__"),
    "atomics_above_the_bus": ("src/broker/x.c", head("#include <stdatomic.h>\n"), "atomics live"),
    "builtin_atomics": ("src/broker/x.c", head("static int f(int *x)\n{\n    return "
                                               "__atomic_load_n(x, 0);\n}\n"), "atomics live"),
    "order_without_reason": ("src/base/x.c", head("static int f(int *x)\n{\n    return "
                             "atomic_load_explicit(x, memory_order_relaxed);\n}\n"),
                             "no comment says why"),
    "goto_back": ("src/bus/x.c", head("static void f(void)\n{\nagain:\n    goto again;\n}\n"),
                  "goes back"),
    "two_labels": ("src/bus/x.c", head("static void f(void)\n{\n    goto a;\n    goto b;\na:\nb:\n"
                                       "    return;\n}\n"), "more than one label"),
    "library_exits": ("src/broker/x.c", head("static void f(void)\n{\n    exit(1);\n}\n"), "R03"),
    "library_prints": ("src/event/x.c", head('static void f(void)\n{\n    printf("x");\n}\n'),
                       "R03"),
    "server_may_exit": ("src/server/x.c", head("static void f(void)\n{\n    exit(1);\n}\n"), None),
    "library_mallocs": ("src/store/x.c", head("static void *f(void)\n{\n    return malloc(1);\n"
                                              "}\n"), "from the environment"),
    "heap_excused": ("src/store/x.c", head("static void f(void *x)\n{\n    free(x); "
                                           "/* tidy: jansson's */\n}\n"), None),
    "sleep_in_test": ("tests/bus/x.c", head("static void f(void)\n{\n    usleep(5);\n}\n"),
                      "wait on a condition"),
    "sleep_in_python": ("tests/x.py", "import time\ntime." + "sleep(1)\n", "never on time"),
    "sleep_in_shell": ("tests/x.sh", "#!/bin/sh\n" + "sleep 1\n", "never on time"),
    "sleep_excused": ("tests/x.py", "# tidy: polls a server\ntime." + "sleep(1)\n", None),
    "unfinished": ("docs/x.md", "TO" + "DO: write this\n", "into an issue"),
    "machine_path": ("docs/x.md", "see /ro" + "ot/notes\n", "path of one machine"),
    "a_folder_called_so_is_fine": ("docs/x.md", "see src/broker/wo" + "rk/queue.c\n", None),
    "registry_host": ("tests/package-lock.json", '{"resolved": "https://x"}\n', "registry"),
}


def check(files):
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        done = subprocess.run([sys.executable, "-B", str(ROOT / "tools/tidy"), folder],
                              stdout=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stdout.splitlines()


def planted_test(path, text, expected):
    def test():
        others = {"src/cli/table.h": "/* T. */\n#ifndef T\n#define T\n#endif\n"}
        code, lines = check({**GOOD, **others, path: text})
        if expected is None:
            assert code == 0 and not lines, lines
            return
        assert code == 1, lines
        assert len(lines) == 1 and lines[0].startswith(f"{path}:"), lines
        assert expected in lines[0], lines
    return test


def test_this_tree_is_tidy():
    done = subprocess.run([sys.executable, "-B", str(ROOT / "tools/tidy")],
                          stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, "\n" + done.stdout


def test_a_good_tree_is_tidy():
    code, lines = check(GOOD)
    assert code == 0 and not lines, lines


def test_fix_opens_up_comments():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "src/bus/x.c")
        file.parent.mkdir(parents=True)
        file.write_text("/* One\n * two. */\n\nint x; /* short */\n    /* " + "word " * 20 + "*/\n")
        subprocess.run([sys.executable, "-B", str(ROOT / "tools/tidy"), "--fix", folder],
                       stdout=subprocess.DEVNULL, check=False)
        wanted = ("/*\n * One\n * two.\n */\n\nint x; /* short */\n    /*\n     * "
                  + ("word " * 18).strip() + "\n     * word word\n     */\n")
        assert file.read_text() == wanted, file.read_text()


for planted_name, planted in PLANTED.items():
    globals()[f"test_tidy_{planted_name}"] = planted_test(*planted)

if __name__ == "__main__":
    tap.run(globals())
