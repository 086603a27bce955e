/* The list that debuggers read: the process's own where it has one, else that of descriptor.so.

   CPython 3.15 keeps its entries in such a list under a lock of its own, and changes it only with a GIL held. So
   where the list is not ours, the GIL is taken before our lock. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "agent.h"
#include "arch.h"
#include "python.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct jit_descriptor *descriptor;
static void (*announce)(void);
static bool shared; /* with CPython */

static bool found_in(void *object)
{
    void *data = dlsym(object, "__jit_debug_descriptor");
    void *function = dlsym(object, "__jit_debug_register_code");
    if (!data || !function)
        return false;
    descriptor = data;
    memcpy(&announce, &function, sizeof announce);
    return true;
}

/* In any object that is loaded: those of dlopen, too, whose symbols are not global. It stays loaded then. */
static bool found_anywhere(void)
{
    void *program = dlopen(NULL, RTLD_LAZY);
    struct link_map *map = NULL;
    if (!program)
        return false;
    bool found = found_in(program);
    if (!found && !dlinfo(program, RTLD_DI_LINKMAP, &map))
        for (; map && !found; map = map->l_next) {
            void *object = *map->l_name ? dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD) : NULL;
            if (object) {
                found = found_in(object);
                if (!found)
                    dlclose(object);
            }
        }
    dlclose(program);
    return found;
}

/* Load descriptor.so, which lies beside the agent; it stays for good. */
static bool found_beside(void)
{
    static const char file[] = "descriptor.so";
    char path[4096];
    Dl_info here;
    if (!dladdr((void *)&lock, &here) || strlen(here.dli_fname) + sizeof file >= sizeof path)
        return false;
    strcpy(path, here.dli_fname);
    char *slash = strrchr(path, '/');
    strcpy(slash ? slash + 1 : path, file);
    void *object = dlopen(path, RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
    return object && found_in(object);
}

static void find(void)
{
    if (found_anywhere())
        shared = Py_IsInitialized && PyGILState_Check && PyGILState_Ensure && PyGILState_Release;
    else
        found_beside();
}

bool debugger_find(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
    return descriptor != NULL;
}

/* A child of fork has whole lists: nobody changes them while it is made. */
static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void guard_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork);
}

enum { NO_GIL = -1 };

void debugger_lock(int *state)
{
    *state = shared && Py_IsInitialized() && !PyGILState_Check() ? PyGILState_Ensure() : NO_GIL;
    pthread_mutex_lock(&lock);
}

void debugger_unlock(int state)
{
    pthread_mutex_unlock(&lock);
    if (state != NO_GIL)
        PyGILState_Release(state);
}

/* A debugger may stop the process between any two instructions, and walk the list. */
static void in_this_order(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

static void tell(enum jit_action action, struct jit_code_entry *entry)
{
    descriptor->relevant = entry;
    descriptor->action = action;
    announce();
    descriptor->action = JIT_NO_ACTION;
    descriptor->relevant = NULL;
}

static void debugger_register(struct jit_code_entry *entry)
{
    entry->prev = NULL;
    entry->next = descriptor->first;
    in_this_order();
    if (entry->next)
        entry->next->prev = entry;
    descriptor->first = entry;
    tell(JIT_REGISTER, entry);
}

void debugger_unregister(struct jit_code_entry *entry)
{
    if (entry->prev)
        entry->prev->next = entry->next;
    else
        descriptor->first = entry->next;
    if (entry->next)
        entry->next->prev = entry->prev;
    tell(JIT_UNREGISTER, entry);
}

/* Whether a debugger has put a breakpoint where it is told of changes: without one, none listens. */
static bool has_breakpoint(void)
{
    static const unsigned char breakpoint[] = BREAKPOINT;
    void *function;
    memcpy(&function, &announce, sizeof function);
    return !memcmp(function, breakpoint, sizeof breakpoint);
}

/* Whether the process is being traced by LLDB. */
static bool is_lldb_attached(void)
{
    char line[256], path[64], name[8] = "";
    unsigned tracer = 0;
    FILE *status = fopen("/proc/self/status", "re");
    while (status && !tracer && fgets(line, sizeof line, status))
        sscanf(line, "TracerPid: %u", &tracer);
    if (status)
        fclose(status);
    snprintf(path, sizeof path, "/proc/%u/comm", tracer);
    FILE *comm = tracer ? fopen(path, "re") : NULL;
    if (comm) {
        if (!fgets(name, sizeof name, comm))
            name[0] = 0;
        fclose(comm);
    }
    return !strncmp(name, "lldb", 4);
}

/* GDB may report a signal between two announcements, and should know then all that it knew: so the new one comes
   first. But when LLDB lets go of a file, it forgets what lies at the same addresses in others. */
void debugger_replace(struct jit_code_entry *old, struct jit_code_entry *new)
{
    if (old && new && has_breakpoint() && is_lldb_attached()) {
        debugger_unregister(old);
        old = NULL;
    }
    if (new)
        debugger_register(new);
    if (old)
        debugger_unregister(old);
}
