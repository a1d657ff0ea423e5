# CMake toolchain file: Linux on aarch64 with glibc, by Debian's or Ubuntu's cross compiler.
#
#   cmake --workflow --preset aarch64-linux-gnu
#   cmake -S . -B build/a64 --toolchain toolchains/aarch64-linux-gnu.cmake
#
# Rust needs no linker here: it is only asked for a static archive, and this C compiler links.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)

# Runs the tests of a cross build. Where libc6:arm64 is installed, its loader is /lib/ld-linux-aarch64.so.1
# and finds its own libraries. Giving -L then would mix two builds of glibc, whose private layouts
# differ: programs hang in their first pthread_create. Without libc6:arm64 both come from -L.
find_program(TERN_QEMU NAMES qemu-aarch64-static qemu-aarch64)
if(TERN_QEMU)
  if(EXISTS /lib/ld-linux-aarch64.so.1)
    set(CMAKE_CROSSCOMPILING_EMULATOR ${TERN_QEMU})
  else()
    set(CMAKE_CROSSCOMPILING_EMULATOR
      ${TERN_QEMU} -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=/usr/aarch64-linux-gnu/lib)
  endif()
endif()
