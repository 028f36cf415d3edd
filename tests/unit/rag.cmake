# The retrieval layer: what needs no whole engine; and a model directory opened as a whole.
unfold_test(NAME rag_test LABEL unit
  SOURCES unit/sampler_test.cc unit/text_stream_test.cc unit/prepared_document_test.cc
  LIBS unfold_rag tiny_model)
unfold_test(NAME loaded_model_test LABEL unit SOURCES unit/loaded_model_test.cc LIBS unfold_engine tiny_model)
