/* From keys to what a broker is opened with. */
#ifndef FAN_CONFIG_OPEN_H
#define FAN_CONFIG_OPEN_H

#include "config/value.h"

#include <fanfare/broker.h>
#include <fanfare/keep.h>

/*
 * Writes the URI of the provider. *ret_key: the key to blame when it cannot be opened.
 *
 * Returns: FAN_INVALID naming a key that is missing, or that this provider does not take.
 */
FAN_MUST_CHECK enum fan_status fan__config_provider(const struct fan_config *config,
                                                    struct fan__buffer *uri, const char **ret_key,
                                                    struct fan_error *error);

/*
 * Puts what the configuration says over `options`; what they point to is borrowed from it, and from
 * `retention`, which is filled where it sets a bound.
 */
void fan__config_apply(const struct fan_config *config, struct fan_broker_options *options,
                       struct fan_retention *retention);

/*
 * Puts the key and its place in front of what went wrong, and gives the status back: "FILE:3:5: "
 * for a file, "NAME: " for a variable or a setting, "KEY: " for a default.
 */
enum fan_status fan__config_blame(const struct fan_config *config, const char *key,
                                  enum fan_status status, const struct fan_error *reason,
                                  struct fan_error *ret_error);

#endif
