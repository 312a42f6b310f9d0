# The Node-API addon: native/addon over hypertwin_core. Under cmake-js the include folders come from it; a
# plain cmake asks node where the two header packages are.
set(addon_includes ${CMAKE_JS_INC})
foreach(package node-api-headers node-addon-api)
  execute_process(
    COMMAND node -p "const m = require('${package}'); m.include_dir.startsWith('/') ? m.include_dir : require('path').resolve(m.include_dir)"
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
    OUTPUT_VARIABLE include
    OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE result
    ERROR_QUIET)
  if(result EQUAL 0)
    list(APPEND addon_includes "${include}")
  else()
    message(FATAL_ERROR "The addon needs the npm package ${package}: run `npm ci`, or configure with -DBUILD_ADDON=OFF")
  endif()
endforeach()

file(GLOB addon_sources CONFIGURE_DEPENDS native/addon/*.cc)
add_library(hypertwin MODULE ${addon_sources})
set_target_properties(hypertwin PROPERTIES PREFIX "" SUFFIX ".node"
  LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/addon" LIBRARY_OUTPUT_DIRECTORY_RELEASE "${CMAKE_BINARY_DIR}/addon"
  LINK_DEPENDS "${CMAKE_SOURCE_DIR}/cmake/exports.map")
target_include_directories(hypertwin PRIVATE native/addon)
target_include_directories(hypertwin SYSTEM PRIVATE ${addon_includes})
# Without the last one, ending a worker with thread-safe calls pending aborts the process.
target_compile_definitions(hypertwin PRIVATE NAPI_VERSION=8 NAPI_CPP_EXCEPTIONS NODE_ADDON_API_DISABLE_DEPRECATED
                                             NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS)
target_link_libraries(hypertwin PRIVATE hypertwin_core)
# Threads of libvirt's part run on when the worker that loaded the addon first, and with it the addon, would go.
target_link_options(hypertwin PRIVATE "-Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/exports.map" "-Wl,-z,nodelete")
if(NOT SANITIZE)
  target_link_options(hypertwin PRIVATE $<$<CONFIG:Release>:-s>)
endif()
