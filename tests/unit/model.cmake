# The model layer, gist sequences and prompts. tiny_model writes a small seeded checkpoint for any test.
add_library(tiny_model STATIC unit/tiny_model.cc)
target_link_libraries(tiny_model PUBLIC unfold_model)
target_include_directories(tiny_model PUBLIC ${CMAKE_CURRENT_LIST_DIR})
unfold_test(NAME gist_sequence_test LABEL property SOURCES property/gist_sequence_test.cc LIBS unfold_model)
unfold_test(NAME model_errors_test LABEL unit SOURCES unit/model_errors_test.cc LIBS tiny_model)
unfold_test(NAME safetensors_test LABEL unit SOURCES unit/safetensors_test.cc unit/checkpoint_test.cc LIBS tiny_model)
unfold_test(NAME model_forward_test LABEL unit SOURCES unit/model_forward_test.cc LIBS tiny_model)
unfold_test(NAME prompt_test LABEL unit SOURCES unit/prompt_test.cc unit/chat_prompt_test.cc LIBS tiny_model)
