# The retrieval layer: what needs no whole engine; and a model directory opened as a whole.
unfold_test(NAME rag_test LABEL unit
  SOURCES unit/sampler_test.cc unit/text_stream_test.cc unit/prepared_document_test.cc
          unit/random_model_test.cc
  LIBS unfold_rag tiny_model)
unfold_test(NAME kv_recorder_test LABEL unit SOURCES unit/kv_recorder_test.cc LIBS unfold_rag tiny_model
            ARGS --gtest_filter=Cpu*)
if(UNFOLD_WITH_CUDA)
  unfold_test(NAME kv_recorder_cuda_test LABEL cuda SOURCES unit/kv_recorder_test.cc LIBS unfold_rag tiny_model
              ARGS --gtest_filter=Cuda*)
endif()
unfold_test(NAME scheduler_test LABEL unit SOURCES unit/scheduler_test.cc LIBS unfold_engine)
unfold_test(NAME loaded_model_test LABEL unit SOURCES unit/loaded_model_test.cc LIBS unfold_engine tiny_model)

# Not a test: answers scripts that compare models. Build it by name.
add_executable(model_probe EXCLUDE_FROM_ALL bench/model_probe.cc)
target_link_libraries(model_probe PRIVATE unfold_rag)
