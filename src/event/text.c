/* Checks and conversions of text that several parts of the event share. Links libc only. */
#include "event/text.h"

#include "base/env.h"
#include "base/status.h"

#include <fanfare/event.h>

#include <string.h>

/*
 * Gives the size of the valid character at `at`, 0 when it is none. Table 3-7 of the Unicode
 * standard.
 */
static size_t utf8_size(const unsigned char *at, size_t left)
{
    unsigned char lead = at[0];
    if (lead < 0x80)
        return 1;
    size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || left < size)
        return 0;
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < size; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    return size;
}

size_t fan__utf8_size(const char *text, size_t size)
{
    return size > 0 ? utf8_size((const unsigned char *)text, size) : 0;
}

bool fan__utf8_valid(const char *text, size_t size)
{
    const unsigned char *at = (const unsigned char *)text;
    const unsigned char *end = at + size;
    while (at < end) {
        uint64_t word;
        if ((size_t)(end - at) >= sizeof(word)) {
            memcpy(&word, at, sizeof(word));
            if ((word & UINT64_C(0x8080808080808080)) == 0) {
                at += sizeof(word);
                continue;
            }
        }
        size_t step = utf8_size(at, (size_t)(end - at));
        if (step == 0)
            return false;
        at += step;
    }
    return true;
}

bool fan__segment_valid(const char *segment, size_t size)
{
    if (size == 0 || !fan__utf8_valid(segment, size))
        return false;
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)segment[i];
        if (byte <= ' ' || byte == 0x7f || byte == '.' || byte == '*' || byte == '>')
            return false;
        /* U+0080 to U+009F are control characters too. */
        if (byte == 0xc2 && (unsigned char)segment[i + 1] < 0xa0)
            return false;
    }
    return true;
}

enum fan_status fan__type_check(const char *type, const char *field, struct fan_error *ret_error)
{
    if (!type || type[0] == '\0')
        return fan__fail(ret_error, FAN_INVALID, field,
                         "is missing; expected schema.entity.operation");
    size_t size = strnlen(type, FAN_TEXT_SIZE_MAX + 1);
    if (size > FAN_TEXT_SIZE_MAX)
        return fan__fail(ret_error, FAN_INVALID, field, "is longer than %d bytes",
                         FAN_TEXT_SIZE_MAX);
    const char *segment = type;
    for (unsigned number = 1;; number++) {
        const char *end = strchrnul(segment, '.');
        if (end == segment)
            return fan__fail(ret_error, FAN_INVALID, field, "has an empty segment (number %u)",
                             number);
        if (!fan__segment_valid(segment, (size_t)(end - segment)))
            return fan__fail(ret_error, FAN_INVALID, field,
                             "has an illegal segment (number %u): expected UTF-8 without spaces, "
                             "control characters, '*' and '>'",
                             number);
        if (*end == '\0')
            return FAN_OK;
        segment = end + 1;
    }
}

/* Days since 1970-01-01 of a date in the Gregorian calendar; Howard Hinnant's days_from_civil. */
static int64_t days_of(int64_t year, unsigned month, unsigned day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    unsigned year_of_era = (unsigned)(year - era * 400);
    unsigned day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    unsigned day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + (int64_t)day_of_era - 719468;
}

/* Its inverse, civil_from_days. */
static void date_of(int64_t days, unsigned *ret_year, unsigned *ret_month, unsigned *ret_day)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    unsigned day_of_era = (unsigned)(days - era * 146097);
    unsigned year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned month = (5 * day_of_year + 2) / 153;
    *ret_day = day_of_year - (153 * month + 2) / 5 + 1;
    *ret_month = month < 10 ? month + 3 : month - 9;
    *ret_year = (unsigned)(year_of_era + era * 400) + (*ret_month <= 2);
}

static void put_digits(char *text, size_t count, uint64_t value)
{
    for (size_t i = count; i > 0; i--) {
        text[i - 1] = (char)('0' + value % 10);
        value /= 10;
    }
}

#define US_PER_DAY (INT64_C(86400) * FAN__US_PER_S)

void fan__time_format(int64_t time_us, char text[FAN__TIME_TEXT_SIZE])
{
    int64_t days = time_us / US_PER_DAY;
    int64_t of_day = time_us % US_PER_DAY;
    if (of_day < 0) {
        of_day += US_PER_DAY;
        days--;
    }
    unsigned year;
    unsigned month;
    unsigned day;
    date_of(days, &year, &month, &day);
    uint64_t seconds = (uint64_t)(of_day / FAN__US_PER_S);
    memcpy(text, "0000-00-00T00:00:00.000000Z", FAN__TIME_TEXT_SIZE);
    put_digits(text, 4, year);
    put_digits(text + 5, 2, month);
    put_digits(text + 8, 2, day);
    put_digits(text + 11, 2, seconds / 3600);
    put_digits(text + 14, 2, seconds / 60 % 60);
    put_digits(text + 17, 2, seconds % 60);
    put_digits(text + 20, 6, (uint64_t)(of_day % FAN__US_PER_S));
}

/* Reads exactly `count` digits; `left` is what there is. */
static bool take_digits(const char **at, const char *end, size_t count, unsigned *ret_value)
{
    if ((size_t)(end - *at) < count)
        return false;
    unsigned value = 0;
    for (size_t i = 0; i < count; i++) {
        char digit = (*at)[i];
        if (digit < '0' || digit > '9')
            return false;
        value = value * 10 + (unsigned)(digit - '0');
    }
    *at += count;
    *ret_value = value;
    return true;
}

static bool take_char(const char **at, const char *end, char lower)
{
    if (*at == end || (**at | (lower >= 'a' ? 0x20 : 0)) != lower)
        return false;
    (*at)++;
    return true;
}

static unsigned days_in_month(unsigned year, unsigned month)
{
    static const unsigned char days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return month == 2 && leap ? 29 : days[month - 1];
}

static bool take_date(const char **at, const char *end, int64_t *ret_days)
{
    unsigned year;
    unsigned month;
    unsigned day;
    if (!take_digits(at, end, 4, &year) || !take_char(at, end, '-') ||
        !take_digits(at, end, 2, &month) || !take_char(at, end, '-') ||
        !take_digits(at, end, 2, &day))
        return false;
    if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month))
        return false;
    *ret_days = days_of(year, month, day);
    return true;
}

static bool take_fraction(const char **at, const char *end, int64_t *ret_us)
{
    *ret_us = 0;
    if (!take_char(at, end, '.'))
        return true;
    const char *first = *at;
    int64_t scale = 100000;
    for (; *at < end && **at >= '0' && **at <= '9'; (*at)++, scale /= 10)
        *ret_us += (**at - '0') * scale;
    return *at > first;
}

static bool take_offset(const char **at, const char *end, int64_t *ret_seconds)
{
    *ret_seconds = 0;
    if (take_char(at, end, 'z'))
        return true;
    bool west = take_char(at, end, '-');
    unsigned hours;
    unsigned minutes;
    if ((!west && !take_char(at, end, '+')) || !take_digits(at, end, 2, &hours) ||
        !take_char(at, end, ':') || !take_digits(at, end, 2, &minutes) || hours > 23 ||
        minutes > 59)
        return false;
    *ret_seconds = (int64_t)(hours * 3600 + minutes * 60) * (west ? -1 : 1);
    return true;
}

bool fan__time_parse(const char *text, size_t size, int64_t *ret_time_us)
{
    const char *at = text;
    const char *end = text + size;
    int64_t days;
    unsigned hour;
    unsigned minute;
    unsigned second;
    int64_t fraction_us;
    int64_t offset;
    if (!take_date(&at, end, &days) || !take_char(&at, end, 't') ||
        !take_digits(&at, end, 2, &hour) || !take_char(&at, end, ':') ||
        !take_digits(&at, end, 2, &minute) || !take_char(&at, end, ':') ||
        !take_digits(&at, end, 2, &second) || !take_fraction(&at, end, &fraction_us) ||
        !take_offset(&at, end, &offset) || at != end)
        return false;
    if (hour > 23 || minute > 59 || second > 60)
        return false;
    int64_t seconds = days * 86400 + (int64_t)(hour * 3600 + minute * 60 + second) - offset;
    if (second == 60) {
        /* Leap seconds are inserted at the end of a UTC day only. */
        if (seconds % 86400 != 0)
            return false;
        fraction_us = 0;
    }
    int64_t time_us = seconds * FAN__US_PER_S + fraction_us;
    if (time_us < FAN__TIME_US_MIN || time_us > FAN__TIME_US_MAX)
        return false;
    *ret_time_us = time_us;
    return true;
}
