/* Runs a fuzz target over the files of a folder, as TAP: libFuzzer's main where there is none. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Exactly as large as the file, so that AddressSanitizer sees a read behind it. */
static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        return -1;
    long size = ftell(file);
    rewind(file);
    uint8_t *data = size >= 0 ? malloc(size > 0 ? (size_t)size : 1) : NULL;
    int result = -1;
    if (data && fread(data, 1, (size_t)size, file) == (size_t)size)
        result = LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    fclose(file);
    return result;
}

static int is_input(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

int main(int argc, char **argv)
{
    struct dirent **entries = NULL;
    int count = argc == 2 ? scandir(argv[1], &entries, is_input, alphasort) : -1;
    if (count <= 0) {
        printf("1..1\nnot ok 1 - a corpus\n");
        return 1;
    }
    int failures = 0;
    printf("1..%d\n", count);
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", argv[1], entries[i]->d_name);
        /* Said before it runs: a crash ends the program, and the last line tells by what. */
        printf("# %s\n", entries[i]->d_name);
        fflush(stdout);
        int failed = run_file(path) != 0;
        failures += failed;
        printf("%sok %d - %s\n", failed ? "not " : "", i + 1, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return failures > 0;
}
