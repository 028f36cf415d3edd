# The REST endpoint: its API as functions, the server over sockets, the program with real clients.
add_library(http_client STATIC http/http_client.cc)
target_include_directories(http_client PUBLIC ${PROJECT_SOURCE_DIR})
target_link_libraries(http_client PUBLIC unfold_settings nlohmann_json::nlohmann_json)
unfold_test(NAME http_api_test LABEL http SOURCES http/http_api_test.cc LIBS unfold_http)
unfold_test(NAME http_jobs_test LABEL http SOURCES http/http_jobs_test.cc LIBS unfold_http)
unfold_test(NAME http_server_test LABEL http SOURCES http/http_server_test.cc LIBS unfold_http http_client)

# Real clients, in the virtual environment that `./dev test` makes from requirements.txt, and the console in Chromium.
foreach(name clients console)
  add_test(NAME http_${name}_test
           COMMAND ${PROJECT_SOURCE_DIR}/build/clients/bin/python ${CMAKE_CURRENT_LIST_DIR}/${name}_test.py
                   $<TARGET_FILE:unfold> ${PROJECT_SOURCE_DIR}/datasets/gist-mini ${PROJECT_SOURCE_DIR}/datasets/handbook)
  set_tests_properties(http_${name}_test PROPERTIES LABELS http TIMEOUT 300)
endforeach()
