# The C interface as a C99 program sees it: the shared library and nothing else of ours.
unfold_test(NAME c_interface_test PLAIN LABEL unit TIMEOUT 300 SOURCES unit/c_interface_test.c
            LIBS unfold_shared unfold_settings Threads::Threads m)
target_compile_options(c_interface_test PRIVATE -pedantic)
set_target_properties(c_interface_test PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
