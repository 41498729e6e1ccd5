# The CUDA part of the library: every kernel of csrc/cuda/kernels.inc compiled for each of its targets, the images
# (one target each, compressed) embedded by .incbin. Nothing of CUDA is linked: csrc/cuda/driver.cpp opens the driver when a tensor needs it.
# Without nvcc (or with MBU_SKIP_CUDA=1) the library carries the kernel sources alone, for NVRTC to compile.
option(MBU_SKIP_CUDA "leave the compiled CUDA kernels out" "$ENV{MBU_SKIP_CUDA}")

set(MBU_CUDA_BUILD ${Python_EXECUTABLE} ${CSRC}/cuda/build.py)
set(MBU_CUDA_IMAGES ${CMAKE_CURRENT_BINARY_DIR}/cuda)
set(MBU_CUDA_TABLE ${CMAKE_CURRENT_BINARY_DIR}/cuda_images.cpp)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
  ${CSRC}/cuda/kernels.inc ${CSRC}/cuda/build.py ${CSRC}/cuda/generate.py)

find_program(MBU_NVCC nvcc PATHS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
set(MBU_CUDA_OPTIONS "")
set(MBU_CUDA_FILES "")
if(MBU_SKIP_CUDA)
  message(STATUS "CUDA kernels: left out, MBU_SKIP_CUDA is set")
elseif(NOT MBU_NVCC)
  message(STATUS "CUDA kernels: sources only, no nvcc found; NVRTC compiles them on first use")
else()
  # The products of CUTLASS, where its wheel is installed.
  set(MBU_CUDA_GENERATED ${CMAKE_CURRENT_BINARY_DIR}/generated)
  execute_process(COMMAND ${MBU_CUDA_BUILD} generated OUTPUT_VARIABLE MBU_GENERATED OUTPUT_STRIP_TRAILING_WHITESPACE)
  separate_arguments(MBU_GENERATED)
  execute_process(COMMAND ${Python_EXECUTABLE} ${CSRC}/cuda/generate.py ${MBU_CUDA_GENERATED} ${MBU_GENERATED}
    OUTPUT_VARIABLE MBU_CUTLASS OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_VARIABLE MBU_CUDA_ERROR RESULT_VARIABLE MBU_CUDA_RESULT)
  if(NOT MBU_CUDA_RESULT EQUAL 0)
    message(FATAL_ERROR "${MBU_CUDA_ERROR}")
  elseif(MBU_CUTLASS)
    set(MBU_CUDA_PARTS --cutlass)
  else()
    message(STATUS "CUTLASS products: left out, no cutlass_library found (pip install --no-deps nvidia-cutlass)")
  endif()
  execute_process(COMMAND ${MBU_CUDA_BUILD} list ${MBU_CUDA_PARTS}
    OUTPUT_VARIABLE MBU_CUDA_LIST OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_VARIABLE MBU_CUDA_ERROR RESULT_VARIABLE MBU_CUDA_RESULT)
  if(NOT MBU_CUDA_RESULT EQUAL 0)
    message(FATAL_ERROR "${MBU_CUDA_ERROR}")
  endif()
  string(REPLACE ";" "," MBU_CUDA_LIST "${MBU_CUDA_LIST}")
  string(REPLACE "\n" ";" MBU_CUDA_LIST "${MBU_CUDA_LIST}")
  file(MAKE_DIRECTORY ${MBU_CUDA_IMAGES})
  # Images are code of the card; their host side, which nothing keeps, is for the machine that builds.
  if(NOT CMAKE_CROSSCOMPILING)
    set(MBU_CUDA_HOST -ccbin ${CMAKE_CXX_COMPILER})
  endif()
  foreach(LINE IN LISTS MBU_CUDA_LIST)
    string(REPLACE "," ";" LINE "${LINE}")
    list(GET LINE 0 IMAGE)
    list(GET LINE 1 SOURCE)
    list(GET LINE 2 ARCH)
    set(FILE ${MBU_CUDA_IMAGES}/${IMAGE})
    set(OPTIONS "")
    if(EXISTS ${CSRC}/cuda/${SOURCE})
      set(SOURCE ${CSRC}/cuda/${SOURCE})
    else()
      set(SOURCE ${MBU_CUDA_GENERATED}/${SOURCE})
      # CUTLASS calls constexpr functions of the standard library from device code.
      set(OPTIONS -I${MBU_CUTLASS} -diag-suppress=20013,20015)
    endif()
    string(REPLACE "compute_" "" NUMBER ${ARCH})
    string(REPLACE "sm_" "" NUMBER ${NUMBER})
    add_custom_command(OUTPUT ${FILE}
      COMMAND ${MBU_NVCC} -fatbin -gencode=arch=compute_${NUMBER},code=${ARCH} -Xfatbin=-compress-all -O3 -std=c++17 -Xptxas=-warn-spills
              -I${CSRC} -I${CSRC}/include ${OPTIONS} ${MBU_CUDA_HOST}
              -MD -MF ${FILE}.d -MT ${FILE} -o ${FILE} ${SOURCE}
      DEPENDS ${SOURCE} DEPFILE ${FILE}.d
      COMMENT "CUDA ${IMAGE}" VERBATIM)
    list(APPEND MBU_CUDA_FILES ${FILE})
  endforeach()
  set(MBU_CUDA_OPTIONS --images ${MBU_CUDA_IMAGES} ${MBU_CUDA_PARTS})
  list(LENGTH MBU_CUDA_FILES MBU_CUDA_COUNT)
  message(STATUS "CUDA kernels: ${MBU_CUDA_COUNT} images by ${MBU_NVCC}")
endif()

file(GLOB_RECURSE MBU_CUDA_SOURCES CONFIGURE_DEPENDS ${CSRC}/cuda/*.cu ${CSRC}/cuda/*.cuh ${CSRC}/cuda/*.h)
add_custom_command(OUTPUT ${MBU_CUDA_TABLE}
  COMMAND ${MBU_CUDA_BUILD} table ${MBU_CUDA_OPTIONS} --output ${MBU_CUDA_TABLE}
  DEPENDS ${CSRC}/cuda/build.py ${CSRC}/cuda/kernels.inc ${MBU_CUDA_SOURCES}
  COMMENT "CUDA table of images")
# The assembler reads the images, so the object depends on them.
set_source_files_properties(${MBU_CUDA_TABLE} PROPERTIES OBJECT_DEPENDS "${MBU_CUDA_FILES}")
set(MBU_CUDA_CPP cache choose doctor driver launch nvrtc plan plan_flat plan_gemm search select weight)
list(TRANSFORM MBU_CUDA_CPP PREPEND ${CSRC}/cuda/)
list(TRANSFORM MBU_CUDA_CPP APPEND .cpp)
target_sources(_C PRIVATE ${MBU_CUDA_TABLE} ${MBU_CUDA_CPP} ${CSRC}/torch/context.cpp)
target_link_libraries(_C PRIVATE ${CMAKE_DL_LIBS})
