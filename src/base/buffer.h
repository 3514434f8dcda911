/*
 * A growable run of bytes. A failed growth leaves it as it was and marks it, so that a writer may
 * append many times and ask once at the end.
 */
#ifndef FAN_BASE_BUFFER_H
#define FAN_BASE_BUFFER_H

#include <fanfare/env.h>

#include <stdbool.h>
#include <stddef.h>

struct fan__buffer {
    const struct fan_env *env;
    char *data;
    size_t size;
    size_t capacity;
    bool failed;
};

void fan__buffer_init(struct fan__buffer *buffer, const struct fan_env *env);
void fan__buffer_deinit(struct fan__buffer *buffer);

/* Empties it, keeps its memory, forgets a failure. */
void fan__buffer_clear(struct fan__buffer *buffer);

/*
 * Makes room for `size` more bytes and gives their place, NULL without memory; size is unchanged.
 */
void *fan__buffer_reserve(struct fan__buffer *buffer, size_t size);

void fan__buffer_add(struct fan__buffer *buffer, const void *bytes, size_t size);
void fan__buffer_add_text(struct fan__buffer *buffer, const char *text);
__attribute__((format(printf, 2, 3))) void fan__buffer_add_format(struct fan__buffer *buffer,
                                                                  const char *format, ...);

/*
 * Hands the bytes over, with a NUL behind them, and empties the buffer; NULL when a growth failed.
 */
char *fan__buffer_take(struct fan__buffer *buffer, size_t *ret_size);

#endif
