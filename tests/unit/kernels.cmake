unfold_test(NAME op_suite_test LABEL unit TIMEOUT 600
  SOURCES unit/op_suite_test.cc unit/op_attention_test.cc unit/op_route_test.cc unit/op_bits_test.cc
          unit/op_errors_test.cc
  LIBS unfold_kernels)
