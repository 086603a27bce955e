/* A program that embeds CPython, for tests: it runs a script, or with -c a text, as PyRun_SimpleFile does. So it has no
 * main program, and knows no option of Python's. HOME is where its libraries are. */
#include <Python.h>
#include <stdio.h>
#include <string.h>

static int
run(int count, char **arguments)
{
    int first = count > 1 && strcmp(arguments[1], "-I") == 0 ? 2 : 1;
    if (count > first + 1 && strcmp(arguments[first], "-c") == 0) {
        return PyRun_SimpleString(arguments[first + 1]);
    }
    FILE *script = count > first ? fopen(arguments[first], "r") : NULL;
    return script == NULL ? 2 : PyRun_SimpleFileEx(script, arguments[first], 1);
}

int
main(int count, char **arguments)
{
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    PyStatus status = PyConfig_SetBytesString(&config, &config.home, HOME);
    if (!PyStatus_Exception(status)) {
        status = PyConfig_SetBytesString(&config, &config.executable, PROGRAM);
    }
    if (!PyStatus_Exception(status)) {
        status = PyConfig_SetBytesArgv(&config, count, arguments);
    }
    if (!PyStatus_Exception(status)) {
        status = Py_InitializeFromConfig(&config);
    }
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) {
        Py_ExitStatusException(status);
    }
    int result = run(count, arguments);
    return Py_FinalizeEx() < 0 ? 120 : result != 0;
}
