/* libgcc, to which a JIT tells its tables by __register_frame. */

#include <unwind.h>

#include "program.h"

const int tells_registers = 1, in_child = 1;

void __register_frame(void *);

void
tell(const struct slot *slot)
{
    __register_frame((void *)slot->table);
}

static _Unwind_Reason_Code
each(struct _Unwind_Context *context, void *argument)
{
    (void)argument;
    uint64_t sp = _Unwind_GetCFA(context), rbx = _Unwind_GetGR(context, 3);
    return frame(_Unwind_GetIP(context), &sp, &rbx) ? _URC_NO_REASON : _URC_END_OF_STACK;
}

void
ask(void)
{
    _Unwind_Reason_Code code = _Unwind_Backtrace(each, NULL);
    ended(code == _URC_END_OF_STACK ? 0 : (long)code);
}
