// Command backupctl keeps encrypted backups, and their key in a vault that a
// password opens.
package main

import (
	"context"
	"os"

	"chatvault/client/cmd/backupctl/internal/command"
	"chatvault/protocol/cmdline"
)

func main() {
	ctx, stop := cmdline.Signals(context.Background())
	code := command.Main(ctx, cmdline.IO{}, os.Args[1:])
	stop()
	os.Exit(code)
}
