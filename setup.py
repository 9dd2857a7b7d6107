"""The optional compiled part, `moco/images/fused_views.cpp`; everything else is in pyproject.toml.

Without a C++ compiler or libjpeg-turbo's header the installation continues without it, and the
loader uses its plain libraries.
"""

from setuptools import Extension, setup

# No contraction: the same bytes on every processor. The rest lets loops over floats be vectorized;
# no value is infinite or NaN, which is checked where they come in.
FLOATS = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffinite-math-only"]

setup(
    ext_modules=[
        Extension(
            "moco.images._fused_views",  # no Python module: ctypes loads it
            sources=["moco/images/fused_views.cpp"],
            depends=["moco/images/fused_colors.h", "moco/images/fused_filters.h"],
            libraries=["jpeg"],
            language="c++",
            optional=True,
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-fno-strict-aliasing", *FLOATS],
        )
    ]
)
