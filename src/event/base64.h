/* Base64 (RFC 4648, section 4), strict: padded, no white space, no stray bits at the end. */
#ifndef FAN_EVENT_BASE64_H
#define FAN_EVENT_BASE64_H

#include <stdbool.h>
#include <stddef.h>

/* Without the NUL that fan__base64_encode writes behind it. */
size_t fan__base64_size(size_t size);
void fan__base64_encode(const void *bytes, size_t size, char *ret_text);

/* `ret_bytes` has room for size / 4 * 3 bytes. False for what is no base64. */
bool fan__base64_decode(const char *text, size_t size, void *ret_bytes, size_t *ret_size);

#endif
