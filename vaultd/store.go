package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"chatvault/protocol/cmdline"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/etcdstore"
	"chatvault/vaultd/internal/recordstore/memstore"
	"chatvault/vaultd/internal/recordstore/pebblestore"
	"chatvault/vaultd/internal/recordstore/pgstore"
	"chatvault/vaultd/internal/recordstore/remote"
)

// storeFlags name the record store. Every vault of a fleet that shares a cluster
// names the same one; Pebble belongs to one process.
type storeFlags struct {
	Store       string `default:"pebble:/var/lib/vaultd" placeholder:"STORE" help:"pebble:DIR, on this machine; etcd:HOST:PORT,…[/PREFIX], 3 or 5 members; postgres:USER@HOST:PORT,…/DB[?schema=X], proven on PostgreSQL only; or \"mem\" with --insecure-dev."`
	CreateStore bool   `name:"create-store" help:"Make the record store if there is none: for the first start. Without it a disk that is not mounted, or an emptied cluster, is an error and not an empty vault."`

	StoreCA           string        `name:"store-ca" placeholder:"FILE" help:"CA of the cluster, or \"system\". Without it only loopback is dialled."`
	StoreCert         string        `name:"store-cert" placeholder:"FILE" help:"Client certificate for the cluster, with --store-key."`
	StoreKey          string        `name:"store-key" placeholder:"FILE" help:"Its private key."`
	StoreUser         string        `name:"store-user" help:"User of etcd; that of PostgreSQL stands in --store."`
	StorePasswordFile string        `name:"store-password-file" placeholder:"FILE" help:"File with the user's password, mode 0600."`
	StoreTimeout      time.Duration `name:"store-timeout" default:"5s" help:"How long a cluster may take for one call; then the request is refused."`
	StorePlaintext    bool          `name:"store-plaintext" help:"Allow a cluster off loopback without TLS: who stands between can acknowledge charges that were never stored."`
}

// check says what cannot be meant.
func (f storeFlags) check(insecureDev bool) error {
	kind, _, _ := strings.Cut(f.Store, ":")
	var err error
	switch {
	case f.Store == "mem":
		if !insecureDev {
			err = errors.New("mem loses every record at exit: only with --insecure-dev")
		}
	case kind == "pebble" && len(f.Store) > len("pebble:"):
	case kind == "etcd":
		_, err = etcdstore.Parse(f.Store)
	case kind == "postgres":
		_, err = pgstore.Parse(f.Store)
	default:
		err = errors.New("want pebble:DIR, etcd:… or postgres:…")
	}
	switch {
	case err != nil:
		return fmt.Errorf("--store: %w", err)
	case f.StoreUser != "" && kind != "etcd":
		return errors.New("--store-user is for etcd: PostgreSQL's user stands in --store")
	case f.StoreTimeout <= 0:
		return errors.New("--store-timeout: more than 0")
	}
	return nil
}

func (f storeFlags) openStore(ctx context.Context, log *slog.Logger) (recordstore.Store, error) {
	store, err := f.open(ctx, log)
	switch {
	case err == nil:
		return store, nil
	case errors.Is(err, pebblestore.ErrNoStore), errors.Is(err, etcdstore.ErrNoStore), errors.Is(err, pgstore.ErrNoStore):
		err = fmt.Errorf("%w: if this fleet has never run, start once with --create-store; else look for its disk or cluster", err)
	case errors.Is(err, remote.ErrPlaintext), errors.Is(err, remote.ErrSpec):
		err = cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	return nil, err
}

func (f storeFlags) open(ctx context.Context, log *slog.Logger) (recordstore.Store, error) {
	tls := remote.TLS{CA: f.StoreCA, Cert: f.StoreCert, Key: f.StoreKey, Plaintext: f.StorePlaintext}
	kind, dir, _ := strings.Cut(f.Store, ":")
	switch kind {
	case "mem":
		return memstore.New(), nil
	case "etcd":
		spec, err := etcdstore.Parse(f.Store)
		if err != nil {
			return nil, err
		}
		return orNil(etcdstore.Open(ctx, etcdstore.Options{Spec: spec, Create: f.CreateStore, TLS: tls,
			User: f.StoreUser, PasswordFile: f.StorePasswordFile, Timeout: f.StoreTimeout, Log: log}))
	case "postgres":
		spec, err := pgstore.Parse(f.Store)
		if err != nil {
			return nil, err
		}
		return orNil(pgstore.Open(ctx, pgstore.Options{Spec: spec, Create: f.CreateStore, TLS: tls,
			PasswordFile: f.StorePasswordFile, Timeout: f.StoreTimeout, Log: log}))
	}
	return orNil(pebblestore.Open(dir, pebblestore.Options{Create: f.CreateStore, Log: log}))
}

// orNil keeps a nil pointer out of the interface.
func orNil[S recordstore.Store](s S, err error) (recordstore.Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}
