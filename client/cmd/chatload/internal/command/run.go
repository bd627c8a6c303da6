package command

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	goio "io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/chatload/internal/load"
	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/observe"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/client/cmd/chatload/internal/result"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/opaque"
)

// Beyond these the results say more about the generator than about the relay:
// its lag in ms, and the parts of the CPUs that it, or everybody, keeps busy.
const (
	maxLag  = 20.0
	maxCPU  = 0.8
	maxBusy = 0.97
)

// maxProcesses bounds --processes; reservedDescriptors are for other things
// than connections.
const (
	maxProcesses        = 64
	reservedDescriptors = 64
)

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

	Processes int `default:"1" group:"Load" help:"Generate from this many processes, which share rate, connections and accounts: when one has too few descriptors or CPUs (${default})."`
	DrainPID  int `name:"drain-pid" placeholder:"PID" group:"Load" help:"The relay's process on this machine, to which drain sends SIGTERM. Default: drain waits for you to do so."`

	Out     string   `short:"o" placeholder:"DIR" group:"Results" help:"Folder for result.json, report.html and .hgrm files."`
	SLO     []string `name:"slo" sep:"none" placeholder:"OBJECTIVE" group:"Results" help:"As recover.p99<800ms, echo.service.p99.9<5ms, register.errors<1%, connect.rate>=90. May be given again. Missed: exit code 99."`
	JSON    bool     `name:"json" group:"Results" help:"Print the result as JSON on standard output, instead of the summary."`
	Metrics []string `sep:"none" placeholder:"URL" group:"Results" help:"The other side's Prometheus metrics, as http://127.0.0.1:9090/metrics (chatd serve --admin), or NAME=URL: memory, CPU, connections, goroutines, and what it counted. May be given again."`
	Server  []string `placeholder:"NAME=PID" group:"Results" help:"A process of the other side on this machine (Linux): memory, CPU, descriptors."`
	Quiet   bool     `short:"q" group:"Results" help:"No live view, no remarks."`

	part part // of the load that this process generates
}

// Run runs a scenario. Ctrl-C ends it early, with a report of what there is.
func (c runCmd) Run(ctx context.Context, app cmdline.App, io cmdline.IO) error {
	scenario, err := load.Find(c.Scenario)
	if err != nil {
		return usage(err)
	}
	slos, err := parseSLOs(c.SLO, scenario)
	if err != nil {
		return err
	}
	targets, err := parseTargets(c.Server, c.Metrics)
	if err != nil {
		return err
	}
	cfg, err := c.config(io)
	if err != nil {
		return err
	}
	if c.Processes < 1 || c.Processes > maxProcesses || c.Processes > c.Connections {
		return cmdline.Usagef("--processes: 1 to %d, and no more than --connections", maxProcesses)
	}
	if err := c.mayDrain(); err != nil {
		return cmdline.Usagef("--drain-pid %d: %w", c.DrainPID, err)
	}
	if err := mayWrite(c.Out); err != nil {
		return cmdline.Usagef("--out: %w", err)
	}
	watching, err := observe.Start(ctx, targets, time.Second)
	if err != nil {
		return usage(fmt.Errorf("--metrics, --server: %w", err))
	}
	generate := c.generate
	if c.Processes > 1 {
		generate = c.lead
	}
	var servers []result.Server
	var lost []string
	r, err := generate(ctx, app, io, func() { servers, lost = watching.Stop(ctx) })
	if err != nil {
		return err
	}
	r.Settings, r.Servers = c.settings(cfg), servers
	warn(r)
	for _, name := range lost {
		r.Warn("%s did not answer all the time", name)
	}
	return c.finish(io, r, slos)
}

// generate runs the scenario in this process. seen is called while what the
// scenario holds is still there.
func (c runCmd) generate(ctx context.Context, app cmdline.App, io cmdline.IO, seen func()) (*result.Result, error) {
	cfg, err := c.config(io)
	if err != nil {
		return nil, err
	}
	prepared, err := prepare(ctx, c.Scenario, cfg)
	if err != nil {
		return nil, err
	}
	run := measure.New(time.Now(), prepared.Length())
	defer watch(io.Err, run.Glances, prepared.Length(), c.Quiet)()
	return runPrepared(ctx, c.Scenario, cfg, prepared, run, app, seen)
}

func prepare(ctx context.Context, scenario string, cfg load.Config) (*load.Prepared, error) {
	s, err := load.Find(scenario)
	if err != nil {
		return nil, err
	}
	return load.Prepare(ctx, s, cfg)
}

func runPrepared(ctx context.Context, scenario string, cfg load.Config, prepared *load.Prepared, run *measure.Run, app cmdline.App, seen func()) (*result.Result, error) {
	cost := beginEffort()
	whole, err := prepared.Run(ctx, run)
	seen()
	m := cost.machine(cmdline.VersionOf(app.Name).String(), run)
	prepared.Close()
	return &result.Result{
		Version: result.Version, Scenario: scenario, Targets: cfg.URLs, Started: run.Start().UTC(),
		Seconds: time.Since(run.Start()).Seconds(), Interrupted: !whole, Ops: run.Results(), Machines: []result.Machine{m},
	}, err
}

// finish judges a result, writes it, and says what came of it. What cannot be
// written to one place is still written to the other.
func (c runCmd) finish(io cmdline.IO, r *result.Result, slos []result.SLO) error {
	kept := judge(r, slos)
	show := summary
	if c.JSON {
		show = func(w goio.Writer, r *result.Result) error { return r.Write(w) }
	}
	var written error
	if c.Out != "" {
		written = writeAll(c.Out, r)
	}
	if err := errors.Join(written, show(io.Out, r)); err != nil {
		return err
	}
	if !slices.ContainsFunc(r.Ops, func(op *result.Op) bool { return op.Good() > 0 }) {
		return fmt.Errorf("nothing ended well")
	}
	return verdict(kept)
}

// parseTargets reads what is to be watched.
func parseTargets(processes, pages []string) (out []observe.Target, err error) {
	for _, text := range processes {
		t, err := observe.Process(text)
		if err != nil {
			return nil, cmdline.Usagef("--server %s: %w", text, err)
		}
		out = append(out, t)
	}
	for _, text := range pages {
		t, err := observe.Page(text)
		if err != nil {
			return nil, cmdline.Usagef("--metrics %s: %w", text, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// config makes ready what the flags say.
func (c runCmd) config(io cmdline.IO) (cfg load.Config, err error) {
	parts := float64(max(c.part.Of, 1))
	cfg = load.Config{
		URLs: c.URL, Dialer: &phones.Dialer{}, Rate: c.Rate / parts, Duration: c.Duration, MaxInFlight: max(1, c.part.share(c.MaxInFlight)),
		Timeout: c.Timeout, Connections: c.part.share(c.Connections), Accounts: c.part.share(c.Accounts), Every: c.Every,
		ProbeRate: c.ProbeRate / parts, CutWithin: c.CutWithin, Drain: c.drain(),
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
	if err := c.fits(cfg); err != nil {
		return cfg, err
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
	cfg.Dialer.Addresses = c.addresses(cfg.Dialer.Addresses)
	if cfg.Phones, err = c.phones(cfg.Pins.Fleet); err == nil && c.part.Of > 1 {
		cfg.Phones = phones.Share(cfg.Phones, c.part.Index, c.part.Of)
	}
	return cfg, err
}

func (c runCmd) phones(fleetID string) (phones.Source, error) {
	switch {
	case (c.IssuerKey == "") == (c.Tickets == ""):
		return nil, cmdline.Usagef("say where tickets come from: either --issuer-key FILE --iss ISS, or --tickets FILE")
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
		"local-addrs": c.LocalAddrs, "processes": strconv.Itoa(c.Processes),
	}
}

// warn says when the generator, not the relay, set the numbers.
func warn(r *result.Result) {
	var lag, used, busy float64
	var waits int64
	cpus := 0
	for _, m := range r.Machines {
		lag, used, busy, cpus = max(lag, m.LagP99), used+m.CPUsUsed, max(busy, m.Busy), max(cpus, m.CPUs)
		waits += m.Waits
	}
	full := used <= maxCPU*float64(cpus) && busy > maxBusy // and not by the generator
	if lag > maxLag && full {
		r.Warn("operations were started late (99th percentile %.0f ms), because others kept this machine's CPUs busy", lag)
	} else if lag > maxLag {
		r.Warn("the generator is itself the bottleneck: it started operations late (99th percentile %.0f ms); lower --rate, or spread the load over machines and merge", lag)
	}
	if full {
		r.Warn("this machine's CPUs were busy to %.0f %%: latencies tell of the machine as much as of the relay", 100*busy)
	} else if used > maxCPU*float64(cpus) {
		r.Warn("the generator is itself the bottleneck: it used %.1f of this machine's %d CPUs; lower --rate, or spread the load over machines and merge", used, cpus)
	}
	if waits > 0 {
		r.Warn("%d arrivals waited because --max-in-flight operations, or all that the scenario has, were busy; the waiting counts by schedule", waits)
	}
	codes := map[string]string{
		load.CodeNoDescriptors: "the generator ran out of descriptors: raise its limit (ulimit -n), or give it more --processes",
		load.CodeNoPorts:       "the generator ran out of ports: give it more source addresses (--local-addrs)",
		load.CodeNoPhones:      "the file of tickets ran out of phones: make more (chatload tickets --count)",
		load.CodeNotAuthorised: "tickets were not accepted: --iss, --issuer-key, --kid and the fleet must be as chatd and vaultd have them configured",
	}
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		if slices.ContainsFunc(r.Ops, func(op *result.Op) bool { return op.Errors[code] > 0 }) {
			r.Warn("%s", codes[code])
		}
	}
	if r.Scenario == load.Drain && r.Op(load.OpTold) == nil && !r.Interrupted {
		r.Warn("nobody was told to leave: the relay did not drain in this time")
	}
	if r.Interrupted {
		r.Warn("interrupted: the numbers are of what was done until then")
	}
}
