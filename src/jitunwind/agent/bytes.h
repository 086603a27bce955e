/* Appending to what debuggers and unwinders read. All of these return where the next byte goes. */

#ifndef JITUNWIND_BYTES_H
#define JITUNWIND_BYTES_H

#include <stdint.h>
#include <string.h>

enum { LONGEST_LEB128 = 10 };

static inline unsigned char *put(unsigned char *at, const void *data, size_t size)
{
    if (size)
        memcpy(at, data, size);
    return at + size;
}

static inline unsigned char *unsigned_leb128(unsigned char *at, uint64_t value)
{
    for (; value > 0x7f; value >>= 7)
        *at++ = (unsigned char)(value | 0x80);
    *at++ = (unsigned char)value;
    return at;
}

static inline unsigned char *signed_leb128(unsigned char *at, int64_t value)
{
    for (; value < -0x40 || value > 0x3f; value >>= 7)
        *at++ = (unsigned char)(value | 0x80);
    *at++ = value & 0x7f;
    return at;
}

#endif
