"""Groups of `_Py_DebugOffsets` that are the same in several versions."""

INTERPRETER = """
    runtime_state: size finalizing interpreters_head
    interpreter_state: size id next threads_head threads_main gc imports_modules sysdict builtins ceval_gil
        gil_runtime_state gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder
        code_object_generation tlbc_generation
"""
FRAMES_AND_CODE = """
    interpreter_frame: size previous executable instr_ptr localsplus owner stackpointer tlbc_index
    code_object: size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds
        co_code_adaptive co_tlbc
    pyobject: size ob_type
"""
CONTAINERS = """
    tuple_object: size ob_item ob_size
    list_object: size ob_item ob_size
    set_object: size used table mask
    dict_object: size ma_keys ma_values
    float_object: size ob_fval
    long_object: size lv_tag ob_digit
    bytes_object: size ob_size ob_sval
"""
DEBUGGER = """
    gen_object: size gi_name gi_iframe gi_frame_state
    llist_node: next prev
    debugger_support: eval_breaker remote_debugger_support remote_debugging_enabled debugger_pending_call
        debugger_script_path debugger_script_path_size
"""
