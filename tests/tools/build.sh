#!/bin/sh
# Builds Kubernetes' own programs, which only tests use, once per state of the sources beside this script:
# ${FAIRLEAD_CACHE:-$HOME/.cache/fairlead}/tools/tools-KEY, and a link for each program's name. Prints the folder.
set -eu

kubernetes=1.36.3
programs="etcd kube-apiserver kube-controller-manager kubectl"

here=$(cd "$(dirname "$0")" && pwd)
out="${FAIRLEAD_CACHE:-$HOME/.cache/fairlead}/tools"
cd "$here"
# By what is in the files and not by their times: a fresh checkout of the same sources builds nothing.
key=$(cat build.sh go.mod go.sum *.go | sha256sum | cut -c 1-16)
built="tools-$key"

if [ ! -x "$out/$built" ]; then
    if ! command -v go >/dev/null 2>&1; then
        echo "build.sh: go is not installed: './x test' brings it, or install Go 1.26 or later" >&2
        exit 1
    fi
    mkdir -p "$out"
    version="k8s.io/component-base/version"
    echo "build.sh: building $programs (Kubernetes $kubernetes) into $out; the first time takes about five minutes" >&2
    # Written beside and renamed, so that a build that was interrupted leaves no half file that looks whole.
    CGO_ENABLED=0 nice go build -trimpath -buildvcs=false \
        -ldflags "-s -w -X $version.gitVersion=v$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=36 -X $version.gitTreeState=clean" \
        -o "$out/$built.new.$$" .
    mv "$out/$built.new.$$" "$out/$built"
fi
for program in $programs; do
    ln -sfn "$built" "$out/$program"
done
# What earlier sources built: whoever still runs it keeps it open.
for old in "$out"/tools "$out"/tools-*; do
    case "$old" in
        "$out/$built" | *.new.*) ;;
        *) rm -f "$old" ;;
    esac
done
echo "$out"
