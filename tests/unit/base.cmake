unfold_test(NAME base_test LABEL unit SOURCES unit/base_test.cc LIBS unfold_base)
