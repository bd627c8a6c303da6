// Command etcd is the etcd server that tests and benchmarks start; its module is
// apart so that nothing of the server gets into chatvault's own dependencies.
// Package etcdcluster builds it.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
