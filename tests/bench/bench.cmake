# Not tests: `./dev bench` builds them by name; they print JSON lines.
if(UNFOLD_WITH_STORE)
  add_executable(speed_bench EXCLUDE_FROM_ALL bench/bench_common.cc bench/speed_bench.cc)
  target_link_libraries(speed_bench PRIVATE unfold_engine)
endif()
