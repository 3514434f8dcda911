/*
 * Any bytes as a configuration: they load, or their mistakes are told in words that can be printed
 * and hold no secret; and what was loaded loads again, the same, when it is given value by value.
 */
#include <fanfare/config.h>

#include "config/key.h"
#include "event/text.h"

#include <stdlib.h>
#include <string.h>

#define SECRET "5up3r-53cr3t"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void must_be_printable(const char *text)
{
    must(fan__utf8_valid(text, strlen(text)));
    must(strstr(text, SECRET) == NULL);
    for (; *text; text++)
        must((unsigned char)*text >= 0x20);
}

static void hear(void *context, const struct fan_config_problem *problem)
{
    unsigned *count = context;
    ++*count;
    must(*problem->message != '\0');
    must_be_printable(problem->place);
    must_be_printable(problem->key);
    must_be_printable(problem->message);
    must((problem->line == 0) == (problem->column == 0));
}

static struct fan_config_value get(const struct fan_config *config, size_t key)
{
    struct fan_config_value value = { .size = FAN_CONFIG_VALUE_SIZE };
    must(fan_config_get(config, fan__keys[key].path, &value) == FAN_OK);
    return value;
}

/* The same values, each given as a setting. */
static void load_again(const struct fan_config *config, struct fan_config_options *options)
{
    struct fan_config_setting *settings = calloc(fan__key_count, sizeof(*settings));
    struct fan_config *again = NULL;
    must(settings != NULL);
    for (size_t i = 0; i < fan__key_count; i++) {
        struct fan_config_value value = get(config, i);
        if (value.source == FAN_CONFIG_FILE)
            settings[options->setting_count++] = (struct fan_config_setting){
                .key = fan__keys[i].path, .name = "a setting", .value = value.text
            };
    }
    options->text = "";
    options->settings = settings;
    must(fan_config_load(options, &again, NULL) == FAN_OK);
    for (size_t i = 0; i < fan__key_count; i++) {
        struct fan_config_value one = get(config, i);
        struct fan_config_value two = get(again, i);
        must(one.number == two.number && one.factor == two.factor);
        must(strcmp(one.shown, two.shown) == 0);
    }
    fan_config_free(again);
    free(settings);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const environment[] = { "TOKEN=" SECRET, "A=1", NULL };
    unsigned count = 0;
    struct fan_config *config = NULL;
    struct fan_config_options options = FAN_CONFIG_OPTIONS_INIT;
    struct fan_error error = FAN_ERROR_INIT;
    char *text = malloc(size + 1);
    must(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    /* Only what a variable holds is a secret: not what stands in the text itself. */
    for (char *at = text; (at = strstr(at, SECRET));)
        *at = '-';
    options.text = text;
    options.environment = environment;
    options.problem = hear;
    options.context = &count;
    enum fan_status status = fan_config_load(&options, &config, &error);
    must((status == FAN_OK) == (count == 0));
    if (status == FAN_OK)
        load_again(config, &options);
    else
        must_be_printable(error.message);
    fan_config_free(config);
    free(text);
    return 0;
}
