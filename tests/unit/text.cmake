unfold_test(NAME tokenizer_test LABEL unit TIMEOUT 300
  SOURCES unit/tokenizer_test.cc unit/tokenizer_families_test.cc unit/tokenizer_errors_test.cc unit/utf8_test.cc unit/regex_test.cc
  LIBS unfold_text)

unfold_test(NAME document_parts_test LABEL unit TIMEOUT 600
  SOURCES unit/document_parts_test.cc
  LIBS unfold_text)

unfold_test(NAME html_reader_test LABEL unit TIMEOUT 300 SOURCES unit/html_reader_test.cc LIBS unfold_text)
