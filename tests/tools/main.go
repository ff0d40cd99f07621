// Command tools is every Kubernetes program that the tests need, in one file: it dispatches on the name it is called by.
//
// The build script links each name to the one built file, as busybox does, so that the Kubernetes libraries are compiled
// and stored once. A program is added by one entry in `programs` and one name in build.sh.
package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// programs maps the name a program is called by to its entry point, which returns the exit code.
var programs = map[string]func() int{
	"etcd":                    etcd,
	"kube-apiserver":          kubeAPIServer,
	"kube-controller-manager": kubeControllerManager,
	"kubectl":                 kubectl,
}

// endWithStdin names the variable that ties a server to the test that started it.
const endWithStdin = "TOOLS_END_WITH_STDIN"

func main() {
	name := filepath.Base(os.Args[0])
	program, known := programs[name]
	if !known && len(os.Args) > 1 {
		// Called by the name of the built file: `tools kubectl get pods`.
		name = os.Args[1]
		program, known = programs[name]
		os.Args = os.Args[1:]
	}
	if !known {
		names := slices.Sorted(maps.Keys(programs))
		fmt.Fprintf(os.Stderr, "tools: no program %q; known: %s\n", name, strings.Join(names, ", "))
		os.Exit(2)
	}
	if os.Getenv(endWithStdin) != "" {
		// A test that is killed cleans nothing up, but its end of the pipe closes: no server outlives it.
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(3)
		}()
	}
	os.Exit(program())
}
