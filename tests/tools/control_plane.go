package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"         // The programs' JSON log format, as released.
	_ "k8s.io/component-base/metrics/prometheus/version" // The version metric, as released.
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func kubeAPIServer() int {
	return cli.Run(apiserver.NewAPIServerCommand())
}

func kubeControllerManager() int {
	return cli.Run(controllermanager.NewControllerManagerCommand())
}

// etcd parses the arguments it is given and ends the process itself when it fails.
func etcd() int {
	etcdmain.Main(os.Args)
	return 0
}
