set(op_suite unit/op_suite_test.cc unit/op_bf16_test.cc unit/op_attention_test.cc unit/op_route_test.cc unit/op_bits_test.cc
    unit/op_errors_test.cc unit/op_pages_test.cc unit/op_requests_test.cc)
unfold_test(NAME op_suite_test LABEL unit TIMEOUT 600 SOURCES ${op_suite} unit/op_cpu_test.cc LIBS unfold_kernels)
if(UNFOLD_WITH_CUDA)
  unfold_test(NAME op_suite_cuda_test LABEL cuda TIMEOUT 600 SOURCES ${op_suite} unit/op_cuda_test.cc
              LIBS unfold_kernels)
  # Kernels as code of the host, with other headers in the place of those that only a GPU can run.
  unfold_test(NAME kernels_on_host_test LABEL unit TIMEOUT 300
              SOURCES unit/on_host/few_rows_test.cc unit/on_host/several_rows_test.cc unit/on_host/select_test.cc
                      unit/on_host/merge_splits_test.cc LIBS unfold_base)
  target_include_directories(kernels_on_host_test BEFORE PRIVATE unit/on_host)
  target_include_directories(kernels_on_host_test SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(kernels_on_host_test PRIVATE -Wno-unknown-pragmas -fno-strict-aliasing)
endif()
