/* elfutils' libdw, to which a tool reports an ELF file for the JIT code. It tells program counters alone (registers
   from 0.191 on). The walk begins at the registers that this thread has here. */

#define _GNU_SOURCE
#include <elfutils/libdwfl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#include "program.h"

const int tells_registers = 0, in_child = 1;

static ucontext_t here;
static const struct slot *told;

void
tell(const struct slot *slot)
{
    told = slot;
}

static pid_t
next_thread(Dwfl *dwfl, void *argument, void **thread)
{
    (void)dwfl;
    if (*thread) {
        return 0;
    }
    *thread = argument;
    return (pid_t)syscall(SYS_gettid);
}

static bool
read_memory(Dwfl *dwfl, Dwarf_Addr address, Dwarf_Word *result, void *argument)
{
    (void)dwfl, (void)argument;
    struct iovec into = {result, sizeof *result}, from = {(void *)address, sizeof *result};
    return process_vm_readv(getpid(), &into, 1, &from, 1, 0) == (ssize_t)sizeof *result;
}

static bool
set_registers(Dwfl_Thread *thread, void *argument)
{
    (void)argument;
    static const int by_dwarf[] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8,
                                   REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    Dwarf_Word values[17];
    for (int i = 0; i < 17; i++) {
        values[i] = (Dwarf_Word)here.uc_mcontext.gregs[by_dwarf[i]];
    }
    return dwfl_thread_state_registers(thread, 0, 17, values);
}

static int
take(Dwfl_Frame *state, void *argument)
{
    (void)argument;
    Dwarf_Addr pc;
    if (!dwfl_frame_pc(state, &pc, NULL)) {
        return DWARF_CB_ABORT;
    }
    return frame(pc, NULL, NULL) ? DWARF_CB_OK : DWARF_CB_ABORT;
}

void
ask(void)
{
    static char *no_path = "";
    static const Dwfl_Callbacks callbacks = {.find_elf = dwfl_linux_proc_find_elf,
                                             .find_debuginfo = dwfl_standard_find_debuginfo,
                                             .debuginfo_path = &no_path};
    static const Dwfl_Thread_Callbacks threads = {
        .next_thread = next_thread, .memory_read = read_memory, .set_initial_registers = set_registers};
    int file = memfd_create("jit", 0);
    if (write(file, (void *)told->image, told->image_size) != (ssize_t)told->image_size) {
        perror("memfd");
        return;
    }
    Dwfl *dwfl = dwfl_begin(&callbacks);
    dwfl_report_begin(dwfl);
    if (!dwfl_report_elf(dwfl, "jit", "jit", file, 0, true)) {
        printf("note %s\n", dwfl_errmsg(-1));
    }
    dwfl_linux_proc_report(dwfl, getpid());
    dwfl_report_end(dwfl, NULL, NULL);
    dwfl_attach_state(dwfl, NULL, getpid(), &threads, &here);
    getcontext(&here);
    int result = dwfl_getthread_frames(dwfl, (pid_t)syscall(SYS_gettid), take, NULL);
    if (result < 0) {
        printf("note %s\n", dwfl_errmsg(-1));
    }
    ended(result);
    dwfl_end(dwfl);
}
