/* What a scenario counts in this process, for the daemon's test: `counters async|sync|stepped`. */
#include "../broker/counters.h"

int main(int argc, char **argv)
{
    static const char *const modes[] = { "async", "sync", "stepped" };
    for (int mode = 0; mode < 3 && argc == 2; mode++) {
        if (strcmp(argv[1], modes[mode]) != 0)
            continue;
        char *text = counters_of("memory:", (enum counters_mode)mode);
        fputs(text + 1, stdout);
        free(text);
        return 0;
    }
    return 2;
}
