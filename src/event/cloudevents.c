/*
 * The rules for context attributes, and the id: version 8 of RFC 9562 over the SHA-256 of the two
 * SHA-256 of source and id. Hashing each apart makes ("a", "bc") and ("ab", "c") differ.
 */
#include "event/cloudevents.h"

#include "base/status.h"
#include "event/json.h"
#include "event/text.h"

#include <openssl/evp.h>
#include <string.h>

static const char *const names[FAN__CE_NAME_COUNT] = {
    [FAN__CE_SPECVERSION] = "specversion",
    [FAN__CE_ID] = "id",
    [FAN__CE_SOURCE] = "source",
    [FAN__CE_TYPE] = "type",
    [FAN__CE_TIME] = "time",
    [FAN__CE_SUBJECT] = "subject",
    [FAN__CE_DATACONTENTTYPE] = "datacontenttype",
    [FAN__CE_DATASCHEMA] = "dataschema",
    [FAN__CE_TRACEPARENT] = "traceparent",
    [FAN__CE_SEQUENCE] = "sequence",
    [FAN__CE_FANSOURCE] = "fansource",
    [FAN__CE_FANSCHEMA] = "fanschema",
    [FAN__CE_FANENTITY] = "fanentity",
    [FAN__CE_FANOPERATION] = "fanoperation",
    [FAN__CE_FANUSERID] = "fanuserid",
    [FAN__CE_FANSESSIONID] = "fansessionid",
    [FAN__CE_FANDELIVERAT] = "fandeliverat",
    [FAN__CE_FANMETADATA] = "fanmetadata",
    [FAN__CE_FANCONTENTTYPE] = "fancontenttype",
};

const char *fan__ce_name_text(enum fan__ce_name name)
{
    return names[name];
}

const char *fan__ce_data_text(enum fan__ce_data data)
{
    static const char *const texts[FAN__CE_DATA_COUNT] = {
        [FAN__CE_DATA_NONE] = "none",
        [FAN__CE_DATA_JSON] = "json",
        [FAN__CE_DATA_TEXT] = "text",
        [FAN__CE_DATA_BASE64] = "base64",
    };
    return texts[data];
}

#define NAME_SIZE_MAX 63

static bool name_valid(const char *name)
{
    size_t size = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789");
    /* "data" would be taken for the data themselves. */
    return size > 0 && size <= NAME_SIZE_MAX && name[size] == '\0' && strcmp(name, "data") != 0;
}

enum fan_status fan__ce_take(struct fan__ce_attributes *attributes, const char *name,
                             const char *text, struct fan_str raw, struct fan_error *ret_error)
{
    if (!name_valid(name))
        return fan__fail(ret_error, FAN_INVALID, name,
                         "is no attribute name; expected 1 to %d of a-z and 0-9", NAME_SIZE_MAX);
    unsigned known = 0;
    while (known < FAN__CE_NAME_COUNT && strcmp(names[known], name) != 0)
        known++;
    if (known <= FAN__CE_DATASCHEMA && (!text || text[0] == '\0'))
        return fan__fail(ret_error, FAN_INVALID, name, "is not a string of 1 or more characters");
    if (known < FAN__CE_NAME_COUNT)
        attributes->known[known] = text;
    if (known == FAN__CE_NAME_COUNT || known == FAN__CE_DATASCHEMA || !text)
        attributes->foreign = true;
    struct fan__buffer *json = &attributes->json;
    fan__buffer_add_text(json, json->size > 0 ? ",\"" : "\"");
    fan__buffer_add_text(json, name);
    fan__buffer_add_text(json, "\":");
    fan__json_add_raw(json, raw, 0);
    return FAN_OK;
}

enum fan_status fan__ce_take_json(struct fan__ce_attributes *attributes, const char *name,
                                  const json_t *value, struct fan_str raw,
                                  struct fan_error *ret_error)
{
    if (json_is_null(value))
        return FAN_OK;
    if (json_is_object(value) || json_is_array(value))
        return fan__fail(ret_error, FAN_INVALID, name, "is not a string, a number or a boolean");
    return fan__ce_take(attributes, name, json_string_value(value), raw, ret_error);
}

enum fan_status fan__ce_check(const struct fan__ce_attributes *attributes,
                              struct fan_error *ret_error)
{
    for (unsigned i = FAN__CE_SPECVERSION; i <= FAN__CE_TYPE; i++)
        if (!attributes->known[i])
            return fan__fail(ret_error, FAN_INVALID, names[i], "is missing");
    if (strcmp(attributes->known[FAN__CE_SPECVERSION], "1.0") != 0)
        return fan__fail(ret_error, FAN_INVALID, "specversion", "is not 1.0");
    for (const char *at = attributes->known[FAN__CE_SOURCE]; *at; at++)
        if ((unsigned char)*at <= ' ' || *at == 0x7f)
            return fan__fail(ret_error, FAN_INVALID, "source", "is no URI reference");
    return FAN_OK;
}

enum fan_status fan__ce_id(const char *source, const char *id, char ret_text[FAN__UUID_TEXT_SIZE])
{
    enum { DIGEST_SIZE = 32 };
    unsigned char parts[2 * DIGEST_SIZE];
    unsigned char digest[DIGEST_SIZE];
    if (!EVP_Digest(source, strlen(source), parts, NULL, EVP_sha256(), NULL) ||
        !EVP_Digest(id, strlen(id), parts + DIGEST_SIZE, NULL, EVP_sha256(), NULL) ||
        !EVP_Digest(parts, sizeof(parts), digest, NULL, EVP_sha256(), NULL))
        return FAN_NO_MEMORY;
    fan__uuid_v8(digest);
    fan__uuid_format(digest, ret_text);
    return FAN_OK;
}
