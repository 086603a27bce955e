// A process that cannot be stopped: the parent of a vfork is in an uninterruptible wait until the child ends.
#define _GNU_SOURCE
#include <unistd.h>

// Returns when a byte has come on `fd`, or its other end is closed.
void vfork_until(int fd)
{
    if (vfork() == 0) {
        char byte;
        (void)!read(fd, &byte, 1);
        _exit(0);
    }
}
