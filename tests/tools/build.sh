#!/bin/sh
# Builds the test-only tools once: ${FAIRLEAD_CACHE:-$HOME/.cache/fairlead}/tools/{tools,kubectl}.
# Does nothing when the built file is newer than every source beside this script; prints the folder it built into.
set -eu

kubernetes=1.36.3
programs="kubectl"

here=$(cd "$(dirname "$0")" && pwd)
out="${FAIRLEAD_CACHE:-$HOME/.cache/fairlead}/tools"

link_all() {
    for program in $programs; do
        ln -sf tools "$out/$program"
    done
}

if [ -x "$out/tools" ] && [ -z "$(find "$here" -type f -newer "$out/tools")" ]; then
    link_all
    echo "$out"
    exit 0
fi

if ! command -v go >/dev/null 2>&1; then
    echo "build.sh: go is not installed: './x test' brings it, or install Go 1.26 or later" >&2
    exit 1
fi

mkdir -p "$out"
version="k8s.io/component-base/version"
echo "build.sh: building $programs (Kubernetes $kubernetes) into $out; the first time takes minutes" >&2
cd "$here"
# Written beside and renamed, so that a build that was interrupted leaves no half file that looks new.
CGO_ENABLED=0 go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X $version.gitVersion=v$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=36 -X $version.gitTreeState=clean" \
    -o "$out/tools.new" .
mv "$out/tools.new" "$out/tools"
link_all
echo "$out"
