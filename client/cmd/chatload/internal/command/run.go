package command

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/chatload/internal/load"
	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/client/cmd/chatload/internal/result"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/opaque"
)

// The lag of the generator itself beyond which its results say more about it
// than about the relay, in ms.
const maxLag = 20.0

type runCmd struct {
	Scenario string `arg:"" help:"Which; \"chatload scenarios\" lists them."`

	URL        []string `name:"url" placeholder:"URL" required:"" group:"Target" help:"The relay, as wss://relay.example.com/v1/ws. Several are used in turn."`
	Fleet      string   `placeholder:"FILE" required:"" group:"Target" help:"Pins of the fleet (JSON)."`
	TLSCA      string   `name:"tls-ca" placeholder:"FILE" group:"Target" help:"PEM of a private CA for wss. Default: the system's CAs."`
	LocalAddrs string   `placeholder:"ADDRS" group:"Target" help:"Source addresses in turn, as 127.0.0.2-127.0.0.9,127.0.1.1."`

	issuerFlags
	Tickets string `placeholder:"FILE" group:"Tickets" help:"Phones that \"chatload tickets\" made, instead of --issuer-key."`

	Rate        float64       `default:"10" group:"Load" help:"Arrivals a second (${default})."`
	Duration    time.Duration `default:"30s" group:"Load" help:"Over which they arrive (${default})."`
	Connections int           `default:"100" group:"Load" help:"Connections that a scenario holds, at most (${default})."`
	MaxInFlight int           `default:"1000" group:"Load" help:"Operations at a time; arrivals beyond wait, and their time counts (${default})."`
	Timeout     time.Duration `default:"10s" group:"Load" help:"Of one operation, and for what is in flight at the end (${default})."`
	Accounts    int           `group:"Load" help:"Accounts registered before recover and wrong. Default: as many as a relay with its default limits needs."`
	Every       time.Duration `default:"10s" group:"Load" help:"Time between two storms (${default})."`
	ProbeRate   float64       `default:"5" group:"Load" help:"Echoes a second of good clients beside slow, half-open and garbage; 0: none (${default})."`
	CutWithin   time.Duration `default:"2m" group:"Load" help:"The longest that a relay may leave a half-open socket (${default})."`
	KSF         string        `name:"ksf" default:"cheap" placeholder:"KSF" group:"Load" help:"Of registrations: cheap (19 MiB, 2, 1: the least that is allowed, so that Argon2 does not slow the generator), default (64 MiB, 3, 4: what phones use), or MIB,TIME,LANES (${default})."`

	Out    string   `short:"o" placeholder:"DIR" group:"Results" help:"Folder for result.json, report.html and .hgrm files."`
	SLO    []string `name:"slo" sep:"none" placeholder:"OBJECTIVE" group:"Results" help:"As recover.p99<800ms, echo.service.p99.9<5ms, register.errors<1%, connect.rate>=90. May be given again. Missed: exit code 99."`
	JSON   bool     `name:"json" group:"Results" help:"Print the result as JSON on standard output, instead of the summary."`
	Server []string `placeholder:"NAME=PID" group:"Results" help:"A process of the other side on this machine (Linux): its memory before and after, and CPU."`
	Quiet  bool     `short:"q" group:"Results" help:"No live view, no remarks."`
}

// Run runs a scenario. Ctrl-C ends it early, with a report of what there is.
func (c runCmd) Run(ctx context.Context, app cmdline.App, io cmdline.IO) error {
	slos, err := parseSLOs(c.SLO)
	if err != nil {
		return err
	}
	scenario, err := load.Find(c.Scenario)
	if err != nil {
		return usage(err)
	}
	servers, err := parseServers(c.Server)
	if err != nil {
		return err
	}
	cfg, err := c.config(io)
	if err != nil {
		return err
	}
	prepared, err := load.Prepare(ctx, scenario, cfg)
	if err != nil {
		return err
	}
	before := sample(servers)
	run := measure.New(time.Now(), prepared.Length())
	stop := watch(io.Err, run, prepared.Length(), c.Quiet)
	whole := prepared.Run(ctx, run)
	after := sample(servers) // with the connections that are held
	prepared.Close()
	stop()
	r := &result.Result{
		Version: result.Version, Scenario: scenario.Name, Targets: cfg.URLs, Started: run.Start().UTC(),
		Seconds: time.Since(run.Start()).Seconds(), Interrupted: !whole, Settings: c.settings(cfg),
		Ops: run.Results(), Servers: compareSamples(servers, before, after),
	}
	lag99, lagMax := run.LagMillis()
	r.Machines = []result.Machine{machine(cmdline.VersionOf(app.Name).String(), lag99, lagMax)}
	warn(r, run.Waits(), lag99)
	kept := judge(r, slos)
	if c.Out != "" {
		if err := writeAll(c.Out, r); err != nil {
			return err
		}
	}
	if c.JSON {
		err = r.Write(io.Out)
	} else {
		err = summary(io.Out, r)
	}
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(r.Ops, func(op *result.Op) bool { return op.Good() > 0 }) {
		return fmt.Errorf("nothing ended well")
	}
	return verdict(kept)
}

// config makes ready what the flags say.
func (c runCmd) config(io cmdline.IO) (cfg load.Config, err error) {
	cfg = load.Config{
		URLs: c.URL, Dialer: &phones.Dialer{}, Rate: c.Rate, Duration: c.Duration, MaxInFlight: c.MaxInFlight,
		Timeout: c.Timeout, Connections: c.Connections, Accounts: c.Accounts, Every: c.Every,
		ProbeRate: c.ProbeRate, CutWithin: c.CutWithin,
		Say: func(format string, args ...any) {
			if !c.Quiet {
				fmt.Fprintf(io.Err, format+"\n", args...)
			}
		},
	}
	if cfg.KSF, err = parseKSF(c.KSF); err != nil {
		return cfg, err
	}
	if err := cfg.Check(); err != nil {
		return cfg, usage(err)
	}
	if cfg.Pins, err = readPins(c.Fleet); err != nil {
		return cfg, err
	}
	if c.LocalAddrs != "" {
		if cfg.Dialer.Addresses, err = phones.ParseAddresses(c.LocalAddrs); err != nil {
			return cfg, cmdline.Usagef("--local-addrs: %w", err)
		}
	}
	if c.TLSCA != "" {
		if cfg.TLS, err = readCA(c.TLSCA); err != nil {
			return cfg, err
		}
	}
	cfg.Phones, err = c.phones(cfg.Pins.Fleet)
	return cfg, err
}

func (c runCmd) phones(fleetID string) (phones.Source, error) {
	switch {
	case (c.IssuerKey == "") == (c.Tickets == ""):
		return nil, cmdline.Usagef("say where tickets come from: --issuer-key FILE --iss ISS, or --tickets FILE")
	case c.Tickets == "":
		return c.issuer(fleetID)
	}
	f, err := os.Open(c.Tickets)
	if err != nil {
		return nil, usage(err)
	}
	defer f.Close()
	source, err := phones.Read(f)
	if err != nil {
		return nil, cmdline.Usagef("%s: %w", c.Tickets, err)
	}
	return source, nil
}

func readCA(file string) (*tls.Config, error) {
	b, err := readBounded(file, 1<<20)
	if err != nil {
		return nil, usage(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, cmdline.Usagef("%s: no certificate in it", file)
	}
	return &tls.Config{RootCAs: pool}, nil
}

func parseKSF(text string) (client.KSF, error) {
	switch text {
	case "default":
		return opaque.DefaultArgon2id, nil
	case "cheap":
		return client.KSF{MemoryKiB: opaque.MinMemoryKiB, Time: opaque.MinTime, Parallelism: opaque.MinParallelism}, nil
	}
	parts := strings.Split(text, ",")
	var n [3]uint64
	if len(parts) != len(n) {
		return client.KSF{}, cmdline.Usagef("--ksf: cheap, default, or MIB,TIME,LANES")
	}
	for i, p := range parts {
		var err error
		if n[i], err = strconv.ParseUint(p, 10, 8+2); err != nil {
			return client.KSF{}, cmdline.Usagef("--ksf: cheap, default, or MIB,TIME,LANES")
		}
	}
	return client.KSF{MemoryKiB: uint32(n[0]) << 10, Time: uint32(n[1]), Parallelism: uint8(min(n[2], 255))}, nil
}

// settings are those of the load, for the report.
func (c runCmd) settings(cfg load.Config) map[string]string {
	return map[string]string{
		"rate": strconv.FormatFloat(c.Rate, 'g', -1, 64), "duration": c.Duration.String(),
		"connections": strconv.Itoa(c.Connections), "max-in-flight": strconv.Itoa(c.MaxInFlight),
		"timeout": c.Timeout.String(), "every": c.Every.String(), "probe-rate": strconv.FormatFloat(c.ProbeRate, 'g', -1, 64),
		"ksf":         fmt.Sprintf("Argon2id m=%d KiB t=%d p=%d", cfg.KSF.MemoryKiB, cfg.KSF.Time, cfg.KSF.Parallelism),
		"local-addrs": c.LocalAddrs,
	}
}

// warn says when the generator, not the relay, set the numbers.
func warn(r *result.Result, waits int64, lag99 float64) {
	if lag99 > maxLag {
		r.Warn("the generator is itself the bottleneck: it started operations late (99th percentile %.0f ms); lower --rate, or spread the load over machines and merge", lag99)
	}
	if waits > 0 {
		r.Warn("%d arrivals waited because --max-in-flight operations, or all that the scenario has, were busy; the waiting counts by schedule", waits)
	}
	codes := map[string]string{
		load.CodeNoDescriptors: "the generator ran out of descriptors: raise its limit (ulimit -n)",
		load.CodeNoPorts:       "the generator ran out of ports: give it more source addresses (--local-addrs)",
		load.CodeNoPhones:      "the file of tickets ran out of phones: make more (chatload tickets --count)",
	}
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		if slices.ContainsFunc(r.Ops, func(op *result.Op) bool { return op.Errors[code] > 0 }) {
			r.Warn("%s", codes[code])
		}
	}
	if r.Interrupted {
		r.Warn("interrupted: the numbers are of what was done until then")
	}
}
