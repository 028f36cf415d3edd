# Golden answers: the whole engine against the model's own reference.
add_library(reference_questions STATIC golden/reference_questions.cc golden/encoded_documents.cc)
target_link_libraries(reference_questions PUBLIC unfold_engine GTest::gtest)
target_include_directories(reference_questions PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(reference_questions PRIVATE UNFOLD_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                           UNFOLD_BINARY_DIR="${CMAKE_BINARY_DIR}")
unfold_test(NAME reference_test LABEL golden TIMEOUT 900 SOURCES golden/reference_test.cc LIBS reference_questions unfold_cli
            ARGS --gtest_filter=Reference.*)
if(UNFOLD_WITH_CUDA)
  unfold_test(NAME reference_cuda_test LABEL cuda TIMEOUT 900 SOURCES golden/reference_test.cc
              LIBS reference_questions unfold_cli
              ARGS --gtest_filter=ReferenceCuda.*)
endif()
unfold_test(NAME method_test LABEL golden TIMEOUT 600 SOURCES golden/method_test.cc LIBS reference_questions)
unfold_test(NAME kv_reuse_test LABEL property TIMEOUT 900 SOURCES property/kv_reuse_test.cc LIBS reference_questions)
unfold_test(NAME engine_test LABEL unit TIMEOUT 600 SOURCES unit/engine_test.cc LIBS reference_questions)
unfold_test(NAME families_test LABEL golden SOURCES golden/families_test.cc LIBS unfold_rag tiny_model)
