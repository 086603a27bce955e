/* Has libgcc walk from within each function of signed.S, and prints whether it finds what has called that. */

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unwind.h>

extern char call_signed_return[];
void call_signed(void (*function)(void), void (*ask)(void));
void signed_plainly(void), signed_restored(void), unsigned_restored(void), signed_thrice(void), signed_untold(void);

static int found;

static _Unwind_Reason_Code
each(struct _Unwind_Context *context, void *argument)
{
    (void)argument;
    found |= _Unwind_GetIP(context) == (_Unwind_Ptr)call_signed_return;
    return _URC_NO_REASON;
}

static void
ask(void)
{
    found = 0;
    _Unwind_Backtrace(each, NULL);
}

/* In a process of its own: libgcc reads what lies at an address that it takes for code. */
static void
report(const char *name, void (*function)(void))
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        call_signed(function, ask);
        _exit(!found);
    }
    waitpid(child, &status, 0);
    printf("%s %s\n", name, status == 0 ? "found" : "lost");
    fflush(stdout);
}

#define ASK(name) report(#name, name)

int
main(void)
{
    ASK(signed_plainly);
    ASK(signed_restored);
    ASK(unsigned_restored);
    ASK(signed_thrice);
    ASK(signed_untold);
    return 0;
}
