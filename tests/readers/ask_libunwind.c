/* nongnu libunwind, to which a JIT tells its tables by _U_dyn_register: the sorted table of an .eh_frame_hdr. */

#define UNW_LOCAL_ONLY
#include <libunwind.h>
#include <string.h>

#include "program.h"

const int tells_registers = 1, in_child = 1;

void
tell(const struct slot *slot)
{
    static unw_dyn_info_t info;
    uint32_t count;
    memcpy(&count, (char *)slot->header + 8, sizeof count);
    info = (unw_dyn_info_t){.start_ip = slot->code,
                            .end_ip = slot->code + slot->code_size,
                            .format = UNW_INFO_FORMAT_REMOTE_TABLE};
    info.u.rti.segbase = slot->header;
    info.u.rti.table_len = count * 8 / sizeof(unw_word_t);
    info.u.rti.table_data = slot->header + 12;
    _U_dyn_register(&info);
}

void
ask(void)
{
    unw_context_t context;
    unw_cursor_t cursor;
    unw_getcontext(&context);
    unw_init_local(&cursor, &context);
    for (;;) {
        unw_word_t pc = 0, sp = 0, rbx = 0;
        unw_get_reg(&cursor, UNW_REG_IP, &pc);
        unw_get_reg(&cursor, UNW_REG_SP, &sp);
        int known = !unw_get_reg(&cursor, UNW_X86_64_RBX, &rbx);
        if (!frame(pc, &sp, known ? &rbx : NULL)) {
            return;
        }
        int step = unw_step(&cursor);
        if (step <= 0) {
            ended(step);
            return;
        }
    }
}
