# native/nbdkit: a plugin that the nbdkit program loads, with no library of its own to be found there.
file(GLOB nbdkit_sources CONFIGURE_DEPENDS native/nbdkit/*.cc)
add_library(hypertwin_nbdkit MODULE ${nbdkit_sources})
set_target_properties(hypertwin_nbdkit PROPERTIES PREFIX "" OUTPUT_NAME "hypertwin" SUFFIX ".so"
  LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/nbdkit" LIBRARY_OUTPUT_DIRECTORY_RELEASE "${CMAKE_BINARY_DIR}/nbdkit")
target_include_directories(hypertwin_nbdkit PRIVATE native/nbdkit)
target_include_directories(hypertwin_nbdkit SYSTEM PRIVATE "${NBDKIT_INCLUDE}")
target_link_libraries(hypertwin_nbdkit PRIVATE hypertwin_core)
# nbdkit's own functions are in the program that loads it.
target_link_options(hypertwin_nbdkit PRIVATE -static-libstdc++ -static-libgcc)
