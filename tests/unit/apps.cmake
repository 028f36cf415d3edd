# Tests of the program: its parts, and the program itself as a process.
unfold_test(NAME cli_test LABEL unit SOURCES unit/cli_test.cc unit/cli_walker_test.cc LIBS unfold_cli)
unfold_test(NAME bench_cli_test LABEL unit TIMEOUT 300 SOURCES unit/bench_cli_test.cc unit/process.cc LIBS unfold_cli)
add_dependencies(bench_cli_test unfold)
if(UNFOLD_WITH_CUDA)
  unfold_test(NAME bench_cli_cuda_test LABEL cuda TIMEOUT 300 SOURCES unit/bench_cli_test.cc unit/process.cc
              LIBS unfold_cli ARGS --gtest_filter=-*Reference*)
  set_tests_properties(bench_cli_cuda_test PROPERTIES ENVIRONMENT UNFOLD_BACKEND=cuda)
  add_dependencies(bench_cli_cuda_test unfold)
endif()
if(UNFOLD_WITH_STORE)
  unfold_test(NAME cli_process_test LABEL unit TIMEOUT 600
              SOURCES unit/cli_process_test.cc unit/cli_ingest_test.cc unit/process.cc LIBS unfold_cli)
  add_dependencies(cli_process_test unfold)
endif()
