// Command chatload puts load on a relay and the vault behind it, and measures.
package main

import (
	"context"
	"os"

	"chatvault/client/cmd/chatload/internal/command"
	"chatvault/protocol/cmdline"
)

func main() {
	ctx, stop := cmdline.Signals(context.Background())
	code := command.Main(ctx, cmdline.IO{}, os.Args[1:])
	stop()
	os.Exit(code)
}
