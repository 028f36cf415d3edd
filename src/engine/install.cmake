# What `cmake --install` gives: the public headers, one shared library with the package `unfold`, and the program.
# The library exports the public API alone. What it is made of (RocksDB, JSON, PCRE2) stays inside: a consumer needs
# neither their headers nor their packages.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# All objects of the engine, which pull in what they need of the layers below.
add_library(unfold_shared SHARED $<TARGET_OBJECTS:unfold_engine>)
target_link_libraries(unfold_shared PRIVATE unfold_rag)
set_target_properties(unfold_shared PROPERTIES
  OUTPUT_NAME unfold EXPORT_NAME unfold
  # Before 1.0 a new minor version may change the API.
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
set(UNFOLD_EXPORTS ${PROJECT_SOURCE_DIR}/src/engine/exports.map)
target_link_options(unfold_shared PRIVATE LINKER:--version-script=${UNFOLD_EXPORTS})
set_target_properties(unfold_shared PROPERTIES LINK_DEPENDS ${UNFOLD_EXPORTS})
target_include_directories(unfold_shared INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(unfold_shared INTERFACE cxx_std_20)

set(UNFOLD_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/unfold)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/unfoldConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(TARGETS unfold_shared EXPORT unfold LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
# The list of targets is the whole configuration: there are no dependencies to find.
install(EXPORT unfold NAMESPACE unfold:: FILE unfoldConfig.cmake DESTINATION ${UNFOLD_PACKAGE_DIR})
install(FILES ${PROJECT_BINARY_DIR}/unfoldConfigVersion.cmake DESTINATION ${UNFOLD_PACKAGE_DIR})
# For what does not use CMake. The prefix is found from where the file lies.
set(UNFOLD_PKGCONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH UNFOLD_PC_PREFIX /prefix/${UNFOLD_PKGCONFIG_DIR} /prefix)
string(REGEX REPLACE "/$" "" UNFOLD_PC_PREFIX "${UNFOLD_PC_PREFIX}")
configure_file(${PROJECT_SOURCE_DIR}/src/engine/unfold.pc.in ${PROJECT_BINARY_DIR}/unfold.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/unfold.pc DESTINATION ${UNFOLD_PKGCONFIG_DIR})
install(TARGETS unfold RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/unfold DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
