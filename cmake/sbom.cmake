# Bills of materials: what is linked into the library and into the command, as CycloneDX.
# cmake/sbom.py says what is in them; docs/security.md says how to read them. Made from what cargo
# knows and from the linked object, so after linking; nothing is downloaded.

find_package(Python3 COMPONENTS Interpreter)
if(NOT Python3_Interpreter_FOUND)
  message(FATAL_ERROR "Bills of materials need Python 3. Without them: -DTERN_BUILD_SBOM=OFF")
endif()

file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/rustc-version.txt" "${TERN_RUSTC_SAYS}")
function(tern_sbom name kind metadata object features)
  set(output "${CMAKE_CURRENT_BINARY_DIR}/${name}.cdx.json")
  add_custom_command(OUTPUT "${output}"
    COMMAND Python3::Interpreter "${PROJECT_SOURCE_DIR}/cmake/sbom.py" --metadata "${metadata}"
      --lock "${PROJECT_SOURCE_DIR}/Cargo.lock" --object "${object}"
      --rustc "${CMAKE_CURRENT_BINARY_DIR}/rustc-version.txt" --target "${TERN_TRIPLE}"
      --profile "${TERN_PROFILE}" --features "${features}" --kind ${kind}
      --compiler "${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION}" --output "${output}"
    DEPENDS "${object}" "${metadata}" "${PROJECT_SOURCE_DIR}/cmake/sbom.py"
      "${PROJECT_SOURCE_DIR}/Cargo.lock" "${CMAKE_CURRENT_BINARY_DIR}/rustc-version.txt"
    COMMENT "${name}.cdx.json: bill of materials" VERBATIM)
  add_custom_target(${name}_sbom ALL DEPENDS "${output}")
endfunction()

list(JOIN TERN_CARGO_FEATURES "," _listed)
tern_sbom(libtern library "${TERN_METADATA}" "${TERN_OBJECT}" "${_listed}")
add_dependencies(libtern_sbom tern_object)
if(TERN_BUILD_COMMAND)
  set(_listed cli signed ${TERN_CARGO_FEATURES}) # the first two by default
  list(REMOVE_DUPLICATES _listed)
  list(JOIN _listed "," _listed)
  tern_sbom(tern application "${TERN_COMMAND_METADATA}" "${TERN_COMMAND}" "${_listed}")
  add_dependencies(tern_sbom tern_command)
endif()
