package main

import (
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // Registers client metrics, as the released program does.
	"k8s.io/kubectl/pkg/cmd"
)

func kubectl() int {
	return cli.Run(cmd.NewDefaultKubectlCommand())
}
