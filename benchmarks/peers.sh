# Peers into an environment that sees the project's packages and may not change them: peers.sh BENCH PROJECT_BIN
# A peer that does not install is left out, and the benchmarks name it as not run.
bench=$1
packages=$("$bench/bin/python" -c 'import site; print(site.getsitepackages()[0])')
"$2/python" -c 'import site; print(site.getsitepackages()[0])' >"$packages/project.pth"
install() {
    "$bench/bin/python" -m pip install --quiet --disable-pip-version-check --constraint requirements.lock "$@" ||
        echo "not installed: $*"
}
"$bench/bin/python" -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["bench"], sep="\n")' |
    while read -r peer; do install "$peer"; done
# SPDL decodes with FFmpeg's shared libraries, Debian's ffmpeg.
# FFCV is compiled here, with Debian's libopencv-dev, libturbojpeg0-dev and pkg-config; the OpenCV that it asks for would
# take the place of the project's.
install fastargs terminaltables assertpy
install --no-deps pytorch-pfn-extras ffcv
