/* OpenSSL does the work; what it forgives is refused before it sees it. */
#include "event/base64.h"

#include <openssl/evp.h>
#include <string.h>

/* EVP counts in int; a multiple of 3 and of 4, so that pieces join without padding. */
#define PIECE_SIZE ((size_t)12 << 20)

size_t fan__base64_size(size_t size)
{
    return (size + 2) / 3 * 4;
}

void fan__base64_encode(const void *bytes, size_t size, char *ret_text)
{
    const unsigned char *at = bytes;
    unsigned char *text = (unsigned char *)ret_text;
    *text = '\0';
    while (size > 0) {
        size_t piece = size < PIECE_SIZE ? size : PIECE_SIZE;
        text += EVP_EncodeBlock(text, at, (int)piece);
        at += piece;
        size -= piece;
    }
}

static int digit_value(char digit)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *place = digit ? strchr(digits, digit) : NULL;
    return place ? (int)(place - digits) : -1;
}

static bool text_valid(const char *text, size_t size, size_t padding)
{
    if (size % 4 != 0)
        return false;
    size_t digits = size - padding;
    for (size_t i = 0; i < digits; i++)
        if (digit_value(text[i]) < 0)
            return false;
    /* The last digit carries 2 or 4 bits that no byte takes: they must be 0. */
    int stray = padding == 2 ? 0xf : padding == 1 ? 0x3 : 0;
    return padding == 0 || (digit_value(text[digits - 1]) & stray) == 0;
}

bool fan__base64_decode(const char *text, size_t size, void *ret_bytes, size_t *ret_size)
{
    size_t padding = 0;
    while (padding < 2 && padding < size && text[size - 1 - padding] == '=')
        padding++;
    if (!text_valid(text, size, padding))
        return false;
    unsigned char *bytes = ret_bytes;
    for (size_t done = 0; done < size;) {
        size_t piece = size - done < PIECE_SIZE ? size - done : PIECE_SIZE;
        int written = EVP_DecodeBlock(bytes, (const unsigned char *)text + done, (int)piece);
        if (written < 0)
            return false;
        bytes += written;
        done += piece;
    }
    *ret_size = size / 4 * 3 - padding;
    return true;
}
