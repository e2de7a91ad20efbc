#!/bin/sh
# What the builder stage of docker/Dockerfile installs, one step a call:
#
#   install.sh tools                           uv and what builds this project, in /opt/tools
#   install.sh dependencies EXTRAS [INDEX]     the locked packages of some extras, in /opt/venv; PyTorch from INDEX
#   install.sh program                         this project, in /opt/venv
#
# What the index serves is taken by its hash: of docker/constraints/tools.txt, and of uv.lock. The one exception is
# PyTorch from an INDEX of its own, whose files are not those of the lock: its version is the lock's, and pip's trust in
# that index is all that vouches for it and for what only it needs.
set -eu

secret=/run/secrets/pip_cert
if [ -s "$secret" ]; then
    export SSL_CERT_FILE="$secret" PIP_CERT="$secret"
fi
export UV_PROJECT_ENVIRONMENT=/opt/venv UV_PYTHON=/usr/bin/python3 UV_PYTHON_DOWNLOADS=never
export UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
tools=/opt/tools/bin
uv=$tools/uv

dependencies() {
    options="--frozen --no-dev --no-install-project"
    for extra in $1; do
        options="$options --extra $extra"
    done
    if [ -z "$2" ]; then
        # shellcheck disable=SC2086  # several words on purpose
        $uv sync $options
        return
    fi
    # The lock's PyTorch brings CUDA: everything but PyTorch and what only it needs, then that version from the index.
    options=$(echo "$options" | sed 's/--no-install-project/--no-emit-project/')
    # shellcheck disable=SC2086
    $uv export --quiet $options --prune torch --output-file /tmp/locked.txt
    version=$(sed -n '/^name = "torch"$/{n;s/^version = "\(.*\)"$/\1/p;q;}' uv.lock)
    $uv venv --quiet --python "$UV_PYTHON" /opt/venv
    $uv pip install --python /opt/venv/bin/python --require-hashes --requirement /tmp/locked.txt
    $uv pip install --python /opt/venv/bin/python --index "$2" "torch==$version"
}

install_tools() {
    python3 -m venv /opt/tools
    $tools/pip install --quiet --require-hashes --requirement docker/constraints/tools.txt
}

program() { # without build isolation, which would fetch the builder anew
    $tools/hatchling build --target wheel --directory /tmp/wheel
    $uv pip install --python /opt/venv/bin/python --no-deps --no-index /tmp/wheel/*.whl
}

cd /build
case "$1" in
    tools) install_tools ;;
    dependencies) dependencies "$2" "${3-}" ;;
    program) program ;;
    *) echo "install.sh: unknown step $1" >&2 && exit 2 ;;
esac
