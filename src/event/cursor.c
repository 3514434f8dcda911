/*
 * The text of a cursor, read strictly: what a client sends back is what it was given, or refused.
 */
#include <fanfare/cursor.h>

#include "base/status.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

void fan_cursor_format(const struct fan_cursor *cursor, char *buffer)
{
    if (cursor->epoch == 0)
        snprintf(buffer, FAN_CURSOR_TEXT_SIZE, "%" PRIu64, cursor->seq);
    else
        snprintf(buffer, FAN_CURSOR_TEXT_SIZE, "%" PRIu64 "@%016" PRIx64, cursor->seq,
                 cursor->epoch);
}

/* Reads hexadecimal digits up to the end, exactly 16. */
static bool parse_epoch(const char *text, uint64_t *ret_epoch)
{
    uint64_t epoch = 0;
    for (int i = 0; i < 16; i++) {
        char digit = text[i];
        unsigned value;
        if (digit >= '0' && digit <= '9')
            value = (unsigned)(digit - '0');
        else if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f')
            value = (unsigned)((digit | 0x20) - 'a') + 10;
        else
            return false;
        epoch = epoch << 4 | value;
    }
    *ret_epoch = epoch;
    return text[16] == '\0';
}

enum fan_status fan_cursor_parse(const char *text, struct fan_cursor *ret_cursor,
                                 struct fan_error *ret_error)
{
    struct fan_cursor cursor = { 0, 0 };
    const char *at = text;
    if (!text || *at < '0' || *at > '9')
        return fan__fail(ret_error, FAN_INVALID, "cursor",
                         "does not start with a number; expected SEQ or SEQ@EPOCH");
    for (; *at >= '0' && *at <= '9'; at++) {
        unsigned digit = (unsigned)(*at - '0');
        if (cursor.seq > (FAN_SEQ_MAX - digit) / 10)
            return fan__fail(ret_error, FAN_INVALID, "cursor", "has a sequence above %" PRIu64,
                             FAN_SEQ_MAX);
        cursor.seq = cursor.seq * 10 + digit;
    }
    if (*at != '\0' && *at != '@')
        return fan__fail(ret_error, FAN_INVALID, "cursor",
                         "has something else behind the number; expected SEQ or SEQ@EPOCH");
    /* No log has the epoch 0, so a text that spells it out would only switch the check off. */
    if (*at == '@' && (!parse_epoch(at + 1, &cursor.epoch) || cursor.epoch == 0))
        return fan__fail(ret_error, FAN_INVALID, "cursor",
                         "has a bad epoch; expected 16 hexadecimal digits, not all 0");
    *ret_cursor = cursor;
    return FAN_OK;
}

const char *fan_gap_reason_text(enum fan_gap_reason reason)
{
    switch (reason) {
    case FAN_GAP_OVERFLOW:
        return "overflow";
    case FAN_GAP_RETENTION:
        return "retention";
    case FAN_GAP_EPOCH:
        return "epoch";
    }
    return "unknown";
}
