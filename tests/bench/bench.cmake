# Not tests: `./dev bench` builds them by name; they print JSON lines.
if(UNFOLD_WITH_STORE)
  add_library(bench_common STATIC EXCLUDE_FROM_ALL bench/bench_common.cc)
  target_link_libraries(bench_common PUBLIC unfold_kernels)
  add_executable(speed_bench EXCLUDE_FROM_ALL bench/speed_bench.cc)
  target_link_libraries(speed_bench PRIVATE bench_common unfold_engine)
  add_executable(encode_curve EXCLUDE_FROM_ALL bench/encode_curve.cc)
  target_link_libraries(encode_curve PRIVATE bench_common unfold_rag)
endif()
