#!/usr/bin/env bash
# Builds the container image with whichever engine is there.
#   LOCK    serve (default), cloud (with the clients of object stores) or loadtest (with locust)
#   TAG     what the image is called; gearshift:VERSION, with -LOCK behind it for the other two
#   ENGINE  the engine's command with its own options; default: the first of docker, podman and buildah that answers
#   EXTRA   more options of the build, such as --build-arg BASE=... or --no-cache
set -euo pipefail
cd "$(dirname "$0")/.."

lock=${LOCK:-serve}
if [ ! -e "requirements/$lock.lock" ] || [[ ! $lock =~ ^(serve|cloud|loadtest)$ ]]; then
    echo "LOCK is serve, cloud or loadtest, not '$lock'" >&2
    exit 2
fi
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
tag=${TAG:-gearshift:$version$([ "$lock" = serve ] || echo "-$lock")}

# A docker command without its daemon is no engine.
find_engine() {
    if docker info >/dev/null 2>&1; then echo docker
    elif podman info >/dev/null 2>&1; then echo podman
    elif command -v buildah >/dev/null; then echo buildah
    fi
}
read -ra engine <<<"${ENGINE:-$(find_engine)}"
if [ ${#engine[@]} = 0 ]; then
    echo "no docker with a running daemon, no podman and no buildah: install one, or name one with ENGINE=" >&2
    exit 2
fi

arguments=(--build-arg "LOCK=$lock" --build-arg "VERSION=$version" --tag "$tag")
if git rev-parse HEAD >/dev/null 2>&1; then
    # The date of the commit and not of the build: the same sources make the same image.
    changed=$(git status --porcelain | head -c 1)
    arguments+=(--build-arg "REVISION=$(git rev-parse HEAD)${changed:+-changed}")
    arguments+=(--build-arg "CREATED=$(TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd)")
fi
# The OCI format has no place for the health check.
case $(basename "${engine[0]}") in
podman) arguments+=(--format docker) ;;
buildah) arguments+=(--format docker --layers) ;;
esac
read -ra extra <<<"${EXTRA:-}"

"${engine[@]}" build "${arguments[@]}" "${extra[@]}" .
echo "built $tag"
