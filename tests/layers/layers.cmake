unfold_test(NAME layers_test LABEL layers SOURCES layers/layers_test.cc layers/layer_rules.cc LIBS unfold_settings)
if(UNFOLD_SANITIZE)
  # GCC 12 with -fsanitize=address takes std::regex's own states for uninitialised (GCC PR 105562).
  target_compile_options(layers_test PRIVATE -Wno-maybe-uninitialized)
endif()
unfold_test(NAME sample_test LABEL layers SOURCES layers/sample_test.cc LIBS unfold_base)

# Every public header compiles alone: one source a header, nothing on the include path but include/.
file(GLOB public_headers CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/include
     ${PROJECT_SOURCE_DIR}/include/unfold/*.h)
set(alone_sources)
foreach(header ${public_headers})
  string(MAKE_C_IDENTIFIER ${header} name)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/alone/${name}.cc)
  # Twice, so that a missing guard shows.
  file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${header}\"\n#include \"${header}\"\n")
  list(APPEND alone_sources ${source})
endforeach()
# The C interface, as C too.
file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/alone/unfold.c CONTENT "#include <unfold/unfold.h>\n")
add_library(public_headers_alone OBJECT ${alone_sources} ${CMAKE_CURRENT_BINARY_DIR}/alone/unfold.c)
target_include_directories(public_headers_alone PRIVATE ${PROJECT_SOURCE_DIR}/include)
target_compile_options(public_headers_alone PRIVATE -Wall -Wextra -Werror $<$<COMPILE_LANGUAGE:C>:-std=c99 -pedantic>)
add_dependencies(layers_test public_headers_alone)
