# What is installed, and where. Two components: `runtime` (libtern.so.0) and `devel` (the rest).
# The tree can be moved: neither tern-config.cmake nor tern.pc holds the prefix.
include(CMakePackageConfigHelpers)

set(_package "${CMAKE_INSTALL_LIBDIR}/cmake/tern")
foreach(kind IN ITEMS shared static)
  if(TARGET tern_${kind})
    install(TARGETS tern_${kind} EXPORT tern-${kind}
      LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT devel
      ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT devel)
    install(EXPORT tern-${kind} NAMESPACE tern:: FILE tern-${kind}-targets.cmake
      DESTINATION ${_package} COMPONENT devel)
  endif()
endforeach()
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT devel
  FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")
install(FILES LICENSE-APACHE LICENSE-MIT DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT devel)
if(TERN_BUILD_COMMAND)
  install(PROGRAMS "${TERN_COMMAND}" DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT command)
endif()
# Not with the runtime, whose packages for two architectures can be installed side by side.
if(TERN_BUILD_SBOM)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/libtern.cdx.json"
    DESTINATION ${CMAKE_INSTALL_DATADIR}/tern COMPONENT devel)
  if(TERN_BUILD_COMMAND)
    install(FILES "${CMAKE_CURRENT_BINARY_DIR}/tern.cdx.json"
      DESTINATION ${CMAKE_INSTALL_DATADIR}/tern COMPONENT command)
  endif()
endif()

configure_package_config_file(cmake/tern-config.cmake.in tern-config.cmake
  INSTALL_DESTINATION ${_package})
# Before 1.0 a minor version may break; from 1.0 on only a major one.
write_basic_package_version_file(tern-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/tern-config.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/tern-config-version.cmake"
  DESTINATION ${_package} COMPONENT devel)

if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  set(PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
  set(PC_LIBDIR "${CMAKE_INSTALL_LIBDIR}")
else()
  file(RELATIVE_PATH _up "/x/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/x")
  string(REGEX REPLACE "/$" "" _up "${_up}")
  set(PC_PREFIX "\${pcfiledir}/${_up}")
  set(PC_LIBDIR "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
endif()
if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(PC_INCLUDEDIR "${CMAKE_INSTALL_INCLUDEDIR}")
else()
  set(PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
list(TRANSFORM TERN_NATIVE_LIBS PREPEND "-l" OUTPUT_VARIABLE PC_LIBS_PRIVATE)
list(JOIN PC_LIBS_PRIVATE " " PC_LIBS_PRIVATE)
if(TARGET tern_shared)
  set(PC_LIBS "-L\${libdir} -ltern")
else() # only the archive: then everybody needs what it needs
  set(PC_LIBS "-L\${libdir} -ltern ${PC_LIBS_PRIVATE}")
  set(PC_LIBS_PRIVATE "")
endif()
configure_file(cmake/tern.pc.in tern.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/tern.pc"
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT devel)

# `cpack`, or the last step of the workflow presets: .deb packages and a .tar.gz.
if(PROJECT_IS_TOP_LEVEL)
  set(CPACK_PACKAGE_NAME tern)
  set(CPACK_PACKAGE_VENDOR "The tern authors")
  set(CPACK_PACKAGE_CONTACT "The tern authors")
  set(CPACK_RESOURCE_FILE_LICENSE "${CMAKE_CURRENT_SOURCE_DIR}/LICENSE-MIT")
  set(CPACK_GENERATOR TGZ)
  set(CPACK_PACKAGE_FILE_NAME "tern-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR}")
  set(CPACK_STRIP_FILES ON)
  set(CPACK_DEB_COMPONENT_INSTALL ON)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME libtern${PROJECT_VERSION_MAJOR})
  set(CPACK_DEBIAN_DEVEL_PACKAGE_NAME libtern-dev)
  set(CPACK_DEBIAN_COMMAND_PACKAGE_NAME tern)
  find_program(TERN_FILE file)
  find_program(TERN_SHLIBDEPS dpkg-shlibdeps)
  mark_as_advanced(TERN_FILE TERN_SHLIBDEPS)
  if(TERN_FILE AND TERN_SHLIBDEPS) # without them: packages that do not say what they need
    set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
    set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
  endif()
  set(CPACK_DEBIAN_DEVEL_PACKAGE_DEPENDS "libtern${PROJECT_VERSION_MAJOR} (= ${PROJECT_VERSION})")
  set(CPACK_COMPONENTS_ALL runtime devel)
  if(TERN_BUILD_COMMAND)
    list(APPEND CPACK_COMPONENTS_ALL command)
  endif()
  if(CMAKE_CROSSCOMPILING AND CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
    set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE arm64)
    set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS OFF) # would look for the build machine's libraries
  endif()
  include(CPack)
endif()
