#!/bin/sh
# Builds Helm, which only tests use, once: ${FAIRLEAD_CACHE:-$HOME/.cache/fairlead}/tools/helm.
# Does nothing when the built file is newer than every source beside this script; prints the folder it built into.
set -eu

helm=$(sed -n 's|.*helm.sh/helm/v4 v\([0-9.]*\).*|\1|p' "$(dirname "$0")/go.mod")
here=$(cd "$(dirname "$0")" && pwd)
out="${FAIRLEAD_CACHE:-$HOME/.cache/fairlead}/tools"

if [ -x "$out/helm" ] && [ -z "$(find "$here" -type f -newer "$out/helm")" ]; then
    echo "$out"
    exit 0
fi

if ! command -v go >/dev/null 2>&1; then
    echo "build.sh: go is not installed: './x test' brings it, or install Go 1.26 or later" >&2
    exit 1
fi

mkdir -p "$out"
version="helm.sh/helm/v4/internal/version"
echo "build.sh: building helm $helm into $out; the first time takes a minute" >&2
cd "$here"
# Written beside and renamed, so that a build that was interrupted leaves no half file that looks new.
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X $version.version=v$helm" -o "$out/helm.new" helm.sh/helm/v4/cmd/helm
mv "$out/helm.new" "$out/helm"
echo "$out"
