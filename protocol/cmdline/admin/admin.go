// Package admin is a daemon's listener for operators: whether it lives, whether
// it is ready, its metrics, which build it is and, if asked for, profiles. No
// client ever reaches it.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// AdminFlags are a daemon's flags for the listener, for embedding.
type AdminFlags struct {
	// Admin is where it listens, without any login. Nobody but operators must
	// reach it. None if empty.
	Admin string `placeholder:"HOST:PORT" help:"Where /livez, /readyz and /metrics are served, to operators only; none if empty."`
	// AdminPprof adds /debug/pprof/ to it; only on loopback.
	AdminPprof bool `help:"Serve profiles at /debug/pprof/ on the admin listener, which must be on loopback."`
}

// Check says what is wrong with the flags.
func (f AdminFlags) Check() error {
	if f.Admin == "" {
		if f.AdminPprof {
			return errors.New("admin-pprof: wants admin")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(f.Admin)
	if err != nil {
		return fmt.Errorf("admin: want HOST:PORT or :PORT: %w", err)
	}
	if ip := net.ParseIP(host); f.AdminPprof && host != "localhost" && !ip.IsLoopback() {
		return fmt.Errorf("admin-pprof: profiles hold memory of this process, and %s is not on loopback", f.Admin)
	}
	return nil
}

// Start opens the listener, if there is to be one, and logs where.
func (f AdminFlags) Start(ctx context.Context, log *slog.Logger, c Config) (stop func(), err error) {
	if f.Admin == "" {
		return func() {}, nil
	}
	c.Profiles = f.AdminPprof
	at, stop, err := Start(ctx, f.Admin, c)
	if err != nil {
		return nil, err
	}
	log.Info("admin", "address", at.String())
	return stop, nil
}

// Config of the listener.
type Config struct {
	// Ready says whether the daemon can do its work: /readyz.
	Ready func() bool
	// Metrics are what /metrics shows.
	Metrics prometheus.Gatherer
	// Profiles adds /debug/pprof/. A profile may hold memory of this process:
	// for loopback only.
	Profiles bool
}

// Handler serves the endpoints.
func Handler(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !c.Ready() {
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, "not ready\n")
			return
		}
		io.WriteString(w, "ok\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /buildinfo", buildInfo)
	if c.Profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	}
	return mux
}

func buildInfo(w http.ResponseWriter, _ *http.Request) {
	out := map[string]string{}
	if info, ok := debug.ReadBuildInfo(); ok {
		out["go"], out["version"] = info.GoVersion, info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" || s.Key == "vcs.time" || s.Key == "vcs.modified" {
				out[s.Key] = s.Value
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(out)
}

// Start listens on addr, host:port, and serves until stop is called.
func Start(ctx context.Context, addr string, c Config) (at net.Addr, stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, fmt.Errorf("the admin listener: %w", err)
	}
	server := &http.Server{
		Handler: Handler(c), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 8 << 10, ErrorLog: log.New(io.Discard, "", 0),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l) // ends with stop, and with nothing else
	}()
	return l.Addr(), func() {
		server.Close()
		<-done
	}, nil
}
