# From the Rust crate to one relocatable object, ${TERN_OBJECT}, in which only tern_* is visible.
#
# Three steps, and why each:
#  1. `cargo rustc --crate-type staticlib`. The crate itself is only a "lib": several crate types at
#     once would switch link-time optimisation off. No linker for the target is needed.
#  2. `ld -r --gc-sections`: all of it in one object, without what no tern_* function needs. Section
#     groups are dissolved: another archive has groups of the same names, of which a linker keeps one.
#  3. `objcopy --keep-global-symbols`: everything else is hidden, so that a program can link libtern.a
#     beside another archive that was made by Rust; both hold the Rust standard library. The bitcode
#     in std's own objects goes: tools that look into such sections stumble over merged ones.
# cmake/tern.sym names the functions; the header, the map and the tests are compared with it.

set(TERN_OBJECT "${CMAKE_CURRENT_BINARY_DIR}/tern.o")
set(TERN_SYM "${CMAKE_CURRENT_SOURCE_DIR}/cmake/tern.sym")
set(TERN_MAP "${CMAKE_CURRENT_SOURCE_DIR}/cmake/tern.map")

# --- the compiler ---------------------------------------------------------------------------------

set(_cargo "${TERN_CARGO}")
set(_rustc "${TERN_RUSTC}")
if(NOT _cargo)
  execute_process(COMMAND sh -c ". toolchains/env.sh; command -v cargo; command -v rustc"
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" OUTPUT_VARIABLE _found ERROR_QUIET)
  string(REGEX MATCHALL "[^\n]+" _found "${_found}")
  list(LENGTH _found _n)
  if(NOT _n EQUAL 2)
    message(FATAL_ERROR "no cargo found. Run toolchains/install.sh, or set TERN_CARGO")
  endif()
  list(GET _found 0 _cargo)
  if(NOT _rustc)
    list(GET _found 1 _rustc)
  endif()
endif()
if(NOT _rustc)
  set(_rustc rustc)
endif()
execute_process(COMMAND ${_rustc} -vV OUTPUT_VARIABLE _vv ERROR_VARIABLE _error RESULT_VARIABLE _rc)
string(REGEX MATCH "release: ([0-9.]+)" _ "${_vv}")
set(_rust_version "${CMAKE_MATCH_1}")
string(REGEX MATCH "host: ([^\n]+)" _ "${_vv}")
set(_rust_host "${CMAKE_MATCH_1}")
file(STRINGS Cargo.toml _msrv REGEX "^rust-version *= *\"" LIMIT_COUNT 1)
string(REGEX MATCH "[0-9]+\\.[0-9.]+" _msrv "${_msrv}")
if(NOT _rc EQUAL 0 OR _rust_version VERSION_LESS _msrv)
  message(FATAL_ERROR
    "tern needs Rust ${_msrv} or later; ${_rustc} says: ${_vv}${_error}\nRun toolchains/install.sh")
endif()
set(_target "${TERN_RUST_TARGET}")
if(NOT _target AND CMAKE_CROSSCOMPILING)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(_target aarch64-unknown-linux-gnu)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    set(_target x86_64-unknown-linux-gnu)
  else()
    message(FATAL_ERROR "set TERN_RUST_TARGET for ${CMAKE_SYSTEM_PROCESSOR}")
  endif()
elseif(NOT _target)
  set(_target "${_rust_host}") # always said, so that the output folder does not depend on settings
endif()
get_filename_component(_triple "${_target}" NAME_WE) # a target may be a .json file

set(_profile "${TERN_CARGO_PROFILE}")
if(NOT _profile)
  if(CMAKE_BUILD_TYPE STREQUAL "Debug")
    set(_profile dev)
  else()
    set(_profile release) # also where no build type is given, as Yocto does
  endif()
endif()
set(_folder "${_profile}")
if(_folder STREQUAL "dev")
  set(_folder debug)
endif()
set(TERN_RUSTC_SAYS "${_vv}")
set(TERN_TRIPLE "${_triple}")
set(TERN_PROFILE "${_profile}")
message(STATUS "Rust ${_rust_version}, target ${_triple}, profile ${_profile}")

# --- the same bytes everywhere ----------------------------------------------------------------------
# What is built depends on the sources, the compilers and the options, and not on where it is built:
# in debug information and in the places that panics name, the folders of this machine are called
# /tern, /tern/build and /tern/deps/NAME-VERSION. Said by a script in the place of rustc: flags in
# the environment would hide those of the user's cargo configuration, and those of `cargo rustc` are
# part of what cargo makes the names of symbols from. tests/run.sh reproducible builds twice.

if(TERN_SIGNED_MODELS)
  list(APPEND TERN_CARGO_FEATURES signed)
  list(REMOVE_DUPLICATES TERN_CARGO_FEATURES)
endif()
set(_features)
if(TERN_CARGO_FEATURES)
  list(JOIN TERN_CARGO_FEATURES "," _features)
  set(_features --features "${_features}")
endif()
# What cargo knows of the crates: where their sources lie, and for the bills of materials.
function(tern_metadata file)
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -E env "RUSTC=${_rustc}" ${_cargo} metadata --format-version 1
      --filter-platform "${_target}" ${ARGN} ${_features} ${TERN_CARGO_FLAGS}
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    OUTPUT_FILE "${file}" ERROR_VARIABLE error RESULT_VARIABLE rc)
  if(NOT rc EQUAL 0)
    message(FATAL_ERROR "cargo metadata: ${error}")
  endif()
endfunction()
set(TERN_METADATA "${CMAKE_CURRENT_BINARY_DIR}/cargo-metadata.json")
set(TERN_COMMAND_METADATA "${CMAKE_CURRENT_BINARY_DIR}/cargo-metadata-command.json")
tern_metadata("${TERN_METADATA}" --no-default-features)
tern_metadata("${TERN_COMMAND_METADATA}")
string(REGEX MATCH "commit-hash: ([0-9a-f]+)" _ "${_vv}")
set(_std "${CMAKE_MATCH_1}")
execute_process(COMMAND ${_rustc} --print sysroot OUTPUT_VARIABLE _sysroot OUTPUT_STRIP_TRAILING_WHITESPACE)
# The last that fits wins.
set(_remap "${CMAKE_CURRENT_SOURCE_DIR}=/tern" "${CMAKE_CURRENT_BINARY_DIR}=/tern/build")
if(_std)
  list(APPEND _remap "${_sysroot}/lib/rustlib/src/rust=/rustc/${_std}")
endif()
file(READ "${TERN_COMMAND_METADATA}" _json)
string(JSON _n LENGTH "${_json}" packages)
math(EXPR _last "${_n} - 1")
foreach(i RANGE ${_last})
  string(JSON _package GET "${_json}" packages ${i})
  string(JSON _source GET "${_package}" source)
  if(_source) # not tern itself, of which it is null
    string(JSON _name GET "${_package}" name)
    string(JSON _version GET "${_package}" version)
    string(JSON _manifest GET "${_package}" manifest_path)
    get_filename_component(_folder_of "${_manifest}" DIRECTORY)
    list(APPEND _remap "${_folder_of}=/tern/deps/${_name}-${_version}")
  endif()
endforeach()
set(_script "#!/bin/sh\n# Made by cmake/cargo.cmake, which says why.\nset --")
foreach(word IN LISTS _rustc)
  string(APPEND _script " '${word}'")
endforeach()
string(APPEND _script " \"$@\"")
foreach(word IN LISTS _remap)
  string(APPEND _script " \\\n  '--remap-path-prefix=${word}'")
endforeach()
# Only the archive of all crates is asked what it needs.
string(APPEND _script "
case \" $* \" in *\" staticlib \"*)
  exec \"$@\" '--print=native-static-libs=${CMAKE_CURRENT_BINARY_DIR}/native-static-libs.txt' ;;
esac
exec \"$@\"
")
set(_wrapper "${CMAKE_CURRENT_BINARY_DIR}/rustc.sh")
file(GENERATE OUTPUT "${_wrapper}" CONTENT "${_script}"
  FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(_cargo "${CMAKE_COMMAND}" -E env "RUSTC=${_wrapper}" ${_cargo})
# An archive holds no times and no users.
set(CMAKE_C_ARCHIVE_CREATE "<CMAKE_AR> qcD <TARGET> <LINK_FLAGS> <OBJECTS>")
set(CMAKE_C_ARCHIVE_FINISH "<CMAKE_RANLIB> -D <TARGET>")

# --- the object -----------------------------------------------------------------------------------

set(_target_dir "${CMAKE_CURRENT_BINARY_DIR}/cargo")
set(_out "${_target_dir}/${_triple}/${_folder}")
set(_common --profile ${_profile} --target ${_target}
  --manifest-path "${CMAKE_CURRENT_SOURCE_DIR}/Cargo.toml" ${TERN_CARGO_FLAGS})

file(STRINGS "${TERN_SYM}" _symbols REGEX "^tern_")
list(TRANSFORM _symbols PREPEND "--undefined=")
list(JOIN _symbols "\n" _symbols)
file(GENERATE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/tern.ld-args" CONTENT "${_symbols}\n")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${TERN_SYM}" Cargo.toml Cargo.lock)

# CONFIGURE_DEPENDS looks again at every build, so that a new file is seen.
file(GLOB_RECURSE _sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/src/*")
list(APPEND _sources "${CMAKE_CURRENT_SOURCE_DIR}/Cargo.toml" "${CMAKE_CURRENT_SOURCE_DIR}/Cargo.lock")

add_custom_command(OUTPUT "${TERN_OBJECT}"
  BYPRODUCTS "${_out}/libtern.a" "${CMAKE_CURRENT_BINARY_DIR}/native-static-libs.txt"
  COMMAND ${_cargo} rustc --lib --crate-type staticlib --no-default-features ${_features} ${_common}
    --target-dir "${_target_dir}"
  COMMAND "${CMAKE_LINKER}" -r --gc-sections --force-group-allocation
    "@${CMAKE_CURRENT_BINARY_DIR}/tern.ld-args" -o "${TERN_OBJECT}" "${_out}/libtern.a"
  COMMAND "${CMAKE_OBJCOPY}" "--keep-global-symbols=${TERN_SYM}"
    --remove-section=.llvmbc --remove-section=.llvmcmd "${TERN_OBJECT}"
  DEPENDS ${_sources} "${TERN_SYM}"
  WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" # where cargo looks for .cargo/config.toml
  COMMENT "tern.o: cargo, partial link, hide" VERBATIM USES_TERMINAL)
set_source_files_properties("${TERN_OBJECT}" PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
add_custom_target(tern_object DEPENDS "${TERN_OBJECT}")

# --- the command ----------------------------------------------------------------------------------

if(TERN_BUILD_COMMAND)
  # In a folder of its own, and not on the terminal, of which there is one: whole-program
  # optimisation uses one processor, and so the command is compiled beside the library. Where there
  # is no memory for both (2 GB with the profile release): cmake --build DIR -j 1.
  # A program needs a linker: the C compiler, by the variable that cargo has for it.
  string(TOUPPER "CARGO_TARGET_${_triple}_LINKER" _linker)
  string(REPLACE "-" "_" _linker "${_linker}")
  set(TERN_COMMAND "${_target_dir}-command/${_triple}/${_folder}/tern")
  add_custom_command(OUTPUT "${TERN_COMMAND}"
    COMMAND ${CMAKE_COMMAND} -E env "${_linker}=${CMAKE_C_COMPILER}"
      ${_cargo} build --bin tern ${_features} ${_common} --target-dir "${_target_dir}-command"
    COMMAND ${CMAKE_COMMAND} -E touch "${TERN_COMMAND}"
    DEPENDS ${_sources}
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    COMMENT "bin/tern: cargo" VERBATIM)
  add_custom_target(tern_command ALL DEPENDS "${TERN_COMMAND}")
endif()
