# Installs the build and uses the package from outside the tree.
add_test(NAME install_test COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/install_test.sh ${CMAKE_BINARY_DIR}
         ${PROJECT_SOURCE_DIR} ${CMAKE_COMMAND} ${CMAKE_CXX_COMPILER} ${CMAKE_C_COMPILER} "${CMAKE_GENERATOR}"
         "${UNFOLD_SANITIZE}")
set_tests_properties(install_test PROPERTIES LABELS install TIMEOUT 180)
