/* Walks the stack from C by glibc's backtrace() where it is told to: tests/live/programs/second.py. */

#include <execinfo.h>

int
look(void **buffer, int most, const int *on)
{
    return *on ? backtrace(buffer, most) : 0;
}
