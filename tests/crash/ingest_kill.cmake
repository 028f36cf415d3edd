# The program killed, its store damaged, its disk full. UNFOLD_CRASH_FULL=1 kills at 200 moments, which takes minutes.
unfold_test(NAME ingest_kill_test LABEL crash TIMEOUT 3600
            SOURCES crash/ingest_kill_test.cc crash/killed_ingest.cc unit/process.cc LIBS unfold_engine unfold_cli)
add_dependencies(ingest_kill_test unfold)

unfold_test(NAME damage_cli_test LABEL crash TIMEOUT 300
            SOURCES crash/damage_cli_test.cc unit/process.cc LIBS unfold_cli)
unfold_test(NAME refusal_cli_test LABEL crash TIMEOUT 300
            SOURCES crash/refusal_cli_test.cc unit/process.cc LIBS unfold_cli)
add_library(full_disk MODULE crash/full_disk.cc)
target_compile_options(full_disk PRIVATE -Wall -Wextra -Werror)
target_compile_definitions(refusal_cli_test PRIVATE UNFOLD_FULL_DISK="$<TARGET_FILE:full_disk>")
add_dependencies(refusal_cli_test unfold full_disk)
add_dependencies(damage_cli_test unfold)
