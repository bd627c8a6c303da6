// Command chatd is the relay: it holds the clients' WebSockets, checks their
// tickets, limits them, and carries frames that it cannot read to the vaults.
package main

import (
	"context"
	"os"

	"chatvault/protocol/cmdline"
)

// grammar is the command line.
type grammar struct {
	Serve       serveCmd           `cmd:"" help:"Serve clients until SIGTERM or SIGINT; then drain."`
	CheckConfig checkCmd           `cmd:"" help:"Check the configuration and the files that it names; open nothing."`
	Limits      limitsCmd          `cmd:"" help:"Check a file of limits, explain it, or print one to start from."`
	Version     cmdline.VersionCmd `cmd:"" help:"Print the version."`
}

var app = cmdline.App{
	Name:        "chatd",
	Description: "The relay of chatvault: between the clients' WebSockets and the vaults.",
}

func main() {
	os.Exit(app.Run(context.Background(), new(grammar), os.Args[1:], arguments(os.Args[1:])))
}
