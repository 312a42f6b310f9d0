# Toolchain for release builds: zig's clang and libraries, for the tuple HYPERTWIN_TUPLE (<arch>-<libc>), with the
# oldest libc that is served. libc++ is linked in.
set(HYPERTWIN_TUPLE "" CACHE STRING "x64-glibc, x64-musl, arm64-glibc or arm64-musl")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES HYPERTWIN_TUPLE)

set(zig_arch_x64 x86_64)
set(zig_arch_arm64 aarch64)
set(zig_libc_glibc gnu.2.28)
set(zig_libc_musl musl)
string(REPLACE "-" ";" tuple "${HYPERTWIN_TUPLE}")
list(GET tuple 0 arch)
list(GET tuple 1 libc)
set(target "${zig_arch_${arch}}-linux-${zig_libc_${libc}}")

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${zig_arch_${arch}})
find_program(ZIG zig HINTS "${CMAKE_CURRENT_LIST_DIR}/../node_modules/.bin" REQUIRED)
set(CMAKE_C_COMPILER "${ZIG}" cc -target ${target})
set(CMAKE_CXX_COMPILER "${ZIG}" c++ -target ${target})
# CMake wants a program of its own for each of these.
foreach(tool ar ranlib)
  file(WRITE "${CMAKE_BINARY_DIR}/zig-${tool}" "#!/bin/sh\nexec '${ZIG}' ${tool} \"$@\"\n")
  file(CHMOD "${CMAKE_BINARY_DIR}/zig-${tool}" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
  string(TOUPPER ${tool} variable)
  set(CMAKE_${variable} "${CMAKE_BINARY_DIR}/zig-${tool}")
endforeach()
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
