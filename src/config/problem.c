/* Telling mistakes. The words are put together here, so that every one has the same form. */
#include "config/problem.h"

#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PLACE_SIZE 512
#define MESSAGE_SIZE 512
#define PLACE_SHORT 96

void fan__place_format(const struct fan__place *place, char *text, size_t size)
{
    if (place->line > 0)
        snprintf(text, size, "%s:%u:%u", place->name, place->line, place->column);
    else
        snprintf(text, size, "%s", place->name);
}

/* "FILE:3:5: KEY: what is wrong"; a variable or a setting names its key by itself. */
static void keep_first(struct fan__problems *problems, enum fan_status status,
                       const struct fan_config_problem *problem)
{
    const char *place = problem->place;
    size_t length = strlen(place);
    /* Of a long path the end tells more, and the message must fit behind it. */
    const char *end = length > PLACE_SHORT ? place + length - PLACE_SHORT : place;
    while (((unsigned char)*end & 0xc0) == 0x80)
        end++;
    const char *key = problem->line > 0 ? problem->key : "";
    (void)fan__fail(&problems->first, status, problem->key, "%s%s%s%s%s%s",
                    end == place ? "" : "...", end, *end ? ": " : "", key, *key ? ": " : "",
                    problem->message);
}

void fan__problem(struct fan__problems *problems, const struct fan__place *place,
                  enum fan_status status, const char *key, const char *format, ...)
{
    if (++problems->count > FAN__PROBLEM_COUNT_MAX)
        return;
    char where[PLACE_SIZE];
    char message[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    fan__place_format(place, where, sizeof(where));
    struct fan_config_problem problem = { .size = sizeof(problem),
                                          .place = where,
                                          .line = place->line,
                                          .column = place->column,
                                          .key = key,
                                          .message = message };
    if (problems->count == 1)
        keep_first(problems, status, &problem);
    if (problems->call)
        problems->call(problems->context, &problem);
}

enum fan_status fan__problems_end(struct fan__problems *problems, struct fan_error *error)
{
    if (problems->count == 0)
        return FAN_OK;
    if (problems->count > FAN__PROBLEM_COUNT_MAX && problems->call) {
        char message[MESSAGE_SIZE];
        snprintf(message, sizeof(message), "and %u more mistakes",
                 problems->count - FAN__PROBLEM_COUNT_MAX);
        struct fan_config_problem problem = {
            .size = sizeof(problem), .place = "", .key = "", .message = message
        };
        problems->call(problems->context, &problem);
    }
    if (error)
        *error = problems->first;
    if (error && problems->count > 1) {
        size_t size = strlen(error->message);
        snprintf(error->message + size, sizeof(error->message) - size, " (and %u more)",
                 problems->count - 1);
    }
    return problems->first.status;
}
