# native/nbdkit: a plugin that the nbdkit program loads, with no library of its own to be found there.
file(GLOB nbdkit_sources CONFIGURE_DEPENDS native/nbdkit/*.cc)
add_library(hypertwin_nbdkit MODULE ${nbdkit_sources})
set_target_properties(hypertwin_nbdkit PROPERTIES PREFIX "" OUTPUT_NAME "hypertwin" SUFFIX ".so"
  LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/nbdkit" LIBRARY_OUTPUT_DIRECTORY_RELEASE "${CMAKE_BINARY_DIR}/nbdkit")
target_include_directories(hypertwin_nbdkit PRIVATE native/nbdkit)
# As xxhash.h: a cross build must not see the rest of that folder.
file(GLOB nbdkit_headers "${NBDKIT_INCLUDE}/nbdkit-*.h")
file(COPY ${nbdkit_headers} DESTINATION "${CMAKE_BINARY_DIR}/include")
target_link_libraries(hypertwin_nbdkit PRIVATE hypertwin_core)
# nbdkit's own functions are in the program that loads it.
target_link_options(hypertwin_nbdkit PRIVATE -Wl,-z,undefs)
# Sanitizers want to see the C++ library; zig's is in it anyway.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT SANITIZE)
  target_link_options(hypertwin_nbdkit PRIVATE -static-libstdc++ -static-libgcc)
endif()
if(NOT SANITIZE)
  target_link_options(hypertwin_nbdkit PRIVATE $<$<CONFIG:Release>:-s>)
endif()
