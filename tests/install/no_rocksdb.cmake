# The library as it is where RocksDB is left out. The engine with what then stands in the place of RocksDB's store: the
# linker takes the object, and so nothing of the archive's.
unfold_test(NAME no_rocksdb_engine_test LABEL unit
            SOURCES install/no_rocksdb_engine_test.cc ${PROJECT_SOURCE_DIR}/store/no_rocksdb_store.cc
            LIBS unfold_engine)
# And a configured tree on a machine that has no RocksDB: it knows the program and all that it is made of, and builds
# what differs.
if(NOT UNFOLD_SANITIZE)
  add_test(NAME no_rocksdb_build_test COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/no_rocksdb_build_test.sh
           ${PROJECT_SOURCE_DIR} ${CMAKE_BINARY_DIR}/no_rocksdb ${CMAKE_COMMAND} ${CMAKE_CXX_COMPILER} ${CMAKE_C_COMPILER}
           ${PKG_CONFIG_EXECUTABLE})
  set_tests_properties(no_rocksdb_build_test PROPERTIES LABELS install TIMEOUT 180)
endif()
