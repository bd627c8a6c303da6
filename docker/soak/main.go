//go:build linux

// Command soak runs chatvault under mixed load for minutes or hours while its
// parts are killed, paused and cut off from each other: make soak. At the end,
// and between rounds, nothing may have grown: no goroutine, no descriptor, no
// memory; no session is stuck; and every account's attempts are those that its
// person was told of. Then it abuses chatd, and sees what good clients notice.
//
// It runs real processes, two chatd, two vaultd on one etcd, a redis-server and
// a SoftHSM token, and needs their programs in the folder of --bin, as "make
// build bin/etcd" puts them there. The exit code is 0 only if nothing was found.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	p := plan{rate: 12, people: 24, holders: 40, warmUp: 20 * time.Second}
	bin := flag.String("bin", "bin", "folder with chatd, vaultd, chatload and etcd")
	flag.DurationVar(&p.length, "for", 340*time.Second, "length of the load with faults; 0: none")
	flag.DurationVar(&p.round, "round", 85*time.Second, "length of a round, after which growth is measured")
	flag.Uint64Var(&p.seed, "seed", 0, "of people and faults; 0: a new one, which is printed")
	abused := flag.Bool("abuse", true, "abuse chatd afterwards, for a minute or two")
	keep := flag.Bool("keep", false, "keep the folder with logs and records, as after a failure")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if p.seed == 0 {
		p.seed = uint64(time.Now().UnixNano())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, p, *bin, *abused, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "\nsoak: FAILED: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// run does it all in a folder that it removes, unless it is to be kept, or
// something was found.
func run(ctx context.Context, p plan, bin string, abused, keep bool) (err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "chatvault-soak-")
	if err != nil {
		return err
	}
	defer func() {
		if keep || err != nil { // the logs of all processes are in it
			fmt.Println("kept:", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Printf("%5.0f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	if p.length > 0 {
		if err := inFolder(dir, "soak", func(dir string) error { return soakIn(ctx, p, dir, bin, say) }); err != nil {
			return err
		}
	}
	if abused {
		if err := inFolder(dir, "abuse", func(dir string) error { return abuseIn(ctx, dir, bin, say) }); err != nil {
			return err
		}
	}
	say("nothing was found")
	return nil
}

func inFolder(dir, name string, do func(dir string) error) error {
	dir = filepath.Join(dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return do(dir)
}

func soakIn(ctx context.Context, p plan, dir, bin string, say func(string, ...any)) (err error) {
	began := time.Now()
	s, err := startSite(ctx, dir, bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	k := &soak{site: s, plan: p, rec: newRecord(), say: say}
	k.say("two chatd, two vaultd on etcd, redis-server; seed %d", p.seed)
	err = k.run(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	k.summary(os.Stdout, time.Since(began))
	return errors.Join(err, k.rec.err())
}
