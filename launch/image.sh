#!/usr/bin/env bash
# Build the image with buildah: no Docker engine, no daemon.
#
#   launch/image.sh TARGET NAME [buildah flags]     (TARGET: cpu or cuda)
#
# BASE=localhost/debian:12 makes the base itself with debootstrap, where no registry is at hand.
# PIP_CONF=FILE is used by pip during the build (a mirror, say) and is not kept in the image.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$1 name=$2
shift 2
local_base=localhost/debian:12

make_base() {
    local root container
    root=$(mktemp --directory)
    trap 'rm --recursive --force "$root"' RETURN
    debootstrap --variant=minbase bookworm "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
    container=$(buildah from scratch)
    buildah copy --quiet "$container" "$root" /
    buildah commit --quiet --rm "$container" "$local_base"
}

if [[ ${BASE:-} == "$local_base" ]] && ! buildah inspect --type image "$local_base" &>/dev/null; then
    make_base
fi

flags=(--layers --target "$target" --tag "$name")
[[ -n ${BASE:-} ]] && flags+=(--build-arg "BASE=$BASE")
[[ -n ${PIP_CONF:-} ]] && flags+=(--secret "id=pip.conf,src=$PIP_CONF")
revision=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
buildah bud "${flags[@]}" --build-arg "REVISION=$revision" "$@" .
