# libharmonic_cuda.so, beside the program: kernels for Hopper cards, and code that newer ones compile when they load
# it. It needs cuBLASLt; the CUDA runtime is a part of it.
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
# CMake before 3.26 does not know that this nvcc speaks C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()

file(GLOB cuda_sources CONFIGURE_DEPENDS harmonic/ops/*_cuda.cu)
add_library(harmonic_cuda MODULE ${cuda_sources} harmonic/ops/cuda_device.cu harmonic/ops/cuda_recorder.cu
            harmonic/ops/cuda_backend.cc
            harmonic/tensor/arena.cc)
set_target_properties(harmonic_cuda PROPERTIES
  CUDA_ARCHITECTURES "90a-real;90-virtual"
  POSITION_INDEPENDENT_CODE ON LIBRARY_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}
  BUILD_RPATH "$ORIGIN" INSTALL_RPATH "$ORIGIN")
target_include_directories(harmonic_cuda PRIVATE ${PROJECT_SOURCE_DIR})
# nvcc 13 and fmt 9: what the one leaves of constant expressions does not suffice for the other's checks.
target_compile_definitions(harmonic_cuda PRIVATE HARMONIC_VERSION="${PROJECT_VERSION}"
  $<$<COMPILE_LANGUAGE:CUDA>:FMT_CONSTEVAL=> $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
target_compile_options(harmonic_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--extended-lambda>)
target_link_libraries(harmonic_cuda PRIVATE CUDA::cudart_static CUDA::cublasLt fmt::fmt)
