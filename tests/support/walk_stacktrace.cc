/* A walker for walker.c: std::stacktrace of libstdc++.

   The header needs libstdc++_libbacktrace (gcc 12, 13) or libstdc++exp (14 and later). Debian 12 has neither: there
   OWN_BACKEND is defined, and the one function that taking a stack needs is here. As libbacktrace's own does, it asks
   libgcc's unwinder. */

#ifdef OWN_BACKEND
#include <cstdint>
#include <unwind.h>
#define _GLIBCXX_HAVE_STACKTRACE 1
#endif
#include <stacktrace>

#include "walker.h"

#ifdef OWN_BACKEND
struct Taking {
    int skip;
    int (*each)(void *, uintptr_t);
    void *data;
};

static _Unwind_Reason_Code
take(_Unwind_Context *context, void *argument)
{
    auto *taking = static_cast<Taking *>(argument);
    if (taking->skip-- > 0) {
        return _URC_NO_REASON;
    }
    int exact = 0;
    uintptr_t pc = _Unwind_GetIPInfo(context, &exact);
    return taking->each(taking->data, exact ? pc : pc - 1) ? _URC_END_OF_STACK : _URC_NO_REASON;
}

extern "C" {

static char state;

__glibcxx_backtrace_state *
__glibcxx_backtrace_create_state(const char *, int, void (*)(void *, const char *, int), void *)
{
    return reinterpret_cast<__glibcxx_backtrace_state *>(&state);
}

int
__glibcxx_backtrace_simple(__glibcxx_backtrace_state *, int skip, int (*each)(void *, uintptr_t),
                           void (*)(void *, const char *, int), void *data)
{
    Taking taking{skip + 1, each, data};
    _Unwind_Backtrace(take, &taking);
    return 0;
}
}
#endif

/* libbacktrace gives the address before the one that is returned to; that is undone here. An entry that is false
   stands for the end of the stack. */
int
walk(uintptr_t *pcs, int most)
{
    int count = 0;
    for (const auto &entry : std::stacktrace::current()) {
        if (entry && count < most) {
            pcs[count++] = entry.native_handle() + 1;
        }
    }
    return count;
}
