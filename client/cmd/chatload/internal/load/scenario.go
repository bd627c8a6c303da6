package load

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"chatvault/client/cmd/chatload/internal/arrival"
	"chatvault/client/cmd/chatload/internal/measure"
)

// Scenario is a kind of load.
type Scenario struct {
	Name  string
	About string   // a sentence for people
	Ops   []string // what it measures, by name; what did not happen is in no result
	plan  func(e *Env) (plan, error)
}

// Scenarios are all there are.
func Scenarios() []Scenario { return slices.Clone(scenarios) }

var scenarios = []Scenario{
	{"connect", "Connections at a rate that grows from 0 to --rate over --duration, at most --connections; each is held until the end.", ofHeld(opConnect), planConnect},
	{"idle", "--connections opened at --rate, then held, silent but for pings, for --duration.", ofHeld(opConnect), planIdle},
	{"echo", "--connections with a vault session each; STATUS requests through relay and vault at --rate.", []string{opAuthorise, opEcho}, planEcho},
	{"register", "Registrations of new accounts at --rate.", []string{opRegister}, planRegister},
	{"recover", "Accounts are registered first; then new phones recover their keys at --rate.", []string{opRecover}, planRecover},
	{"wrong", "Accounts are registered first; then wrong passwords at --rate until their keys are destroyed, and the right one, which must not open any more.", []string{opWrongPassword, opAfterDestruction}, planWrong},
	{"storm", "--connections opened at --rate; then, every --every for --duration, all are cut at once and come back at once.", ofHeld(opConnect, opReconnect), planStorm},
	{Drain, "--connections opened at --rate, then held for --duration, in which the relay drains: told to by --drain-pid, or by you. How they are told and come back, and how that is spread over time.", ofHeld(opConnect, OpTold), planDrain},
	{"slow", "--connections opened at --rate that ask for 3 KB forty times a second and never read, for --duration; a probe echoes beside.", withProbe(opSlow), planSlow},
	{"slowloris", "Connections at --rate, at most --connections, that send their request, or their AUTH, a byte at a time; a probe echoes beside.", withProbe(opSlowloris), planSlowloris},
	{"half-open", "Sockets at --rate, at most --connections, that fall silent after TCP, in the request, after the upgrade, or after READY; a probe echoes beside.", withProbe(opHalfOpen), planHalfOpen},
	{"garbage", "Connections at --rate that send what nobody should; a probe echoes beside.", withProbe(opGarbage), planGarbage},
	{"ping-flood", "Connections at --rate, at most --connections, that ping as fast as they can until they are cut; a probe echoes beside.", withProbe(opPingFlood), planPingFlood},
	{"sessions", "One account that makes connections at --rate, at most --connections, and opens eight vault sessions on each; a probe echoes beside.", withProbe(opSessions), planSessions},
}

// Operation is something that scenarios measure.
type Operation struct{ Name, About string }

// Operations are all there are.
func Operations() []Operation { return slices.Clone(operations) }

var operations = []Operation{
	{opConnect, "TCP, TLS, upgrade, HELLO, AUTH, READY."},
	{opPing, "A ping of a held connection, to its pong."},
	{opHold, "The end of a held connection that the relay ended; good when a GOAWAY asked for it."},
	{opComeback, "From such an end until the phone is connected again, on any relay."},
	{opReconnect, "From a storm's cut until the phone is connected again."},
	{OpTold, "From the beginning of a drain until a connection is told to leave."},
	{opAuthorise, "Connect, open a vault session, and AUTHORISE in it."},
	{opEcho, "STATUS in an open vault session, there and back."},
	{opProbe, "The same, by a good client beside abuse."},
	{opRegister, "A new account: all from the connection to the receipt."},
	{opRecover, "A new phone gets the key back: all from the fleet's bundle to the key."},
	{opWrongPassword, "An attempt that must fail, and say how many are left."},
	{opAfterDestruction, "The right password, when ten wrong ones have destroyed the key."},
	{opSlow, "Until the relay cuts one who does not read; without a duration when it bears with him."},
	{opSlowloris, "Until the relay cuts one who sends a byte at a time."},
	{opHalfOpen, "Until the relay cuts one who says no more."},
	{opGarbage, "Until the relay has refused it, or closed."},
	{opPingFlood, "Until the relay cuts one who pings without end."},
	{opSessions, "A connection of one account that opens eight vault sessions."},
}

// ofHeld is what a scenario measures that holds connections.
func ofHeld(ops ...string) []string { return append(ops, opPing, opHold, opComeback) }

// withProbe is what a scenario of abuse measures.
func withProbe(op string) []string { return []string{op, opProbe, opAuthorise} }

// Find returns the scenario of that name.
func Find(name string) (Scenario, error) {
	for _, s := range scenarios {
		if s.Name == name {
			return s, nil
		}
	}
	return Scenario{}, fmt.Errorf("no scenario %q; \"chatload scenarios\" lists them", name)
}

// Holds says whether a scenario of that name makes a connection for each of
// Config.Connections, and keeps it.
func Holds(name string) bool {
	return slices.Contains([]string{"connect", "idle", "echo", "storm", Drain, "slow", "slowloris", "half-open", "ping-flood", "sessions"}, name)
}

// The bounds of a run.
const (
	maxRate        = 100_000
	maxDuration    = 24 * time.Hour
	maxConnections = 200_000
	maxInFlight    = 100_000
)

// Check says what is wrong with a configuration, or returns nil.
func (cfg Config) Check() error {
	switch {
	case len(cfg.URLs) == 0:
		return errors.New("--url is missing")
	case !(cfg.Rate > 0) || cfg.Rate > maxRate:
		return fmt.Errorf("--rate: more than 0, at most %d a second", maxRate)
	case cfg.Duration <= 0 || cfg.Duration > maxDuration:
		return fmt.Errorf("--duration: more than 0, at most %v", maxDuration)
	case cfg.Connections < 1 || cfg.Connections > maxConnections:
		return fmt.Errorf("--connections: 1 to %d", maxConnections)
	case cfg.MaxInFlight < 1 || cfg.MaxInFlight > maxInFlight:
		return fmt.Errorf("--max-in-flight: 1 to %d", maxInFlight)
	case cfg.Timeout <= 0 || cfg.CutWithin <= 0 || cfg.Every <= 0:
		return errors.New("--timeout, --cut-within and --every: more than 0")
	case !(cfg.ProbeRate >= 0) || cfg.ProbeRate > maxRate || cfg.Accounts < 0:
		return errors.New("--probe-rate and --accounts: not negative")
	}
	if err := cfg.KSF.Check(); err != nil {
		return fmt.Errorf("--ksf: %w", err)
	}
	for _, u := range cfg.URLs {
		if err := validURL(u); err != nil {
			return fmt.Errorf("--url %s: %w", u, err)
		}
	}
	return nil
}

func (e *Env) steady() arrival.Schedule {
	return arrival.Steady{Rate: e.cfg.Rate, For: e.cfg.Duration}
}

// opening is a schedule that opens all connections at the rate, however long
// that takes.
func (e *Env) opening() arrival.Schedule {
	n := e.cfg.Connections
	// One more arrival than wanted, so that rounding never takes one away.
	long := time.Duration(math.Ceil(float64(n+1) / e.cfg.Rate * float64(time.Second)))
	return arrival.First{Schedule: arrival.Steady{Rate: e.cfg.Rate, For: long}, Max: n}
}

// timed measures something that nobody scheduled.
func (e *Env) timed(name string, f func() measure.Outcome) {
	op, now := e.run.Op(name), time.Now()
	op.Begin(now)
	out := f()
	op.End(now, now, time.Now(), out)
}

func planConnect(e *Env) (plan, error) {
	ramp := arrival.First{Schedule: arrival.Ramp{To: e.cfg.Rate, For: e.cfg.Duration}, Max: e.cfg.Connections}
	c := newCrowd(e)
	c.places(ramp.Count())
	return plan{settle: c.settle, close: c.close, stages: []stage{
		{streams: []stream{{opConnect, ramp, e.cfg.MaxInFlight, c.open}}},
	}}, nil
}

func planIdle(e *Env) (plan, error) {
	c := newCrowd(e)
	c.places(e.cfg.Connections)
	return plan{settle: c.settle, close: c.close, stages: []stage{
		{streams: []stream{{opConnect, e.opening(), e.cfg.MaxInFlight, c.open}}},
		{atLeast: e.cfg.Duration},
	}}, nil
}

func planStorm(e *Env) (plan, error) {
	c := newCrowd(e)
	c.places(e.cfg.Connections)
	storms := arrival.Bursts{Size: e.cfg.Connections, Every: e.cfg.Every, For: e.cfg.Duration}
	return plan{settle: c.settle, close: c.close, stages: []stage{
		{streams: []stream{{opConnect, e.opening(), e.cfg.MaxInFlight, c.open}}},
		// Room for all: nobody waits for the others to come back.
		{streams: []stream{{opReconnect, storms, e.cfg.Connections, c.again}}},
	}}, nil
}

func planEcho(e *Env) (plan, error) {
	es := newEchoes(e, e.cfg.Connections)
	return plan{close: es.close, stages: []stage{
		{streams: []stream{{opAuthorise, e.opening(), e.cfg.MaxInFlight, es.open}}},
		{streams: []stream{{opEcho, e.steady(), e.cfg.MaxInFlight, es.do}}},
	}}, nil
}

func planRegister(e *Env) (plan, error) {
	return plan{stages: []stage{{streams: []stream{{opRegister, e.steady(), e.cfg.MaxInFlight, e.doRegister}}}}}, nil
}

// recoveriesPerAccount is how many recoveries of one account a default relay
// lets through a minute, with some to spare.
const recoveriesPerAccount = 20

// recoveriesPerHour is how many a default vault does, with some to spare.
const recoveriesPerHour = 50

func planRecover(e *Env) (plan, error) {
	n := e.cfg.Accounts
	if n == 0 {
		n = min(e.steady().Count(), max(16, int(math.Ceil(e.cfg.Rate*60/recoveriesPerAccount)), (e.steady().Count()+recoveriesPerHour-1)/recoveriesPerHour))
	}
	as := &accounts{e: e}
	return plan{prepare: as.registerAll(n), close: as.close, stages: []stage{
		{streams: []stream{{opRecover, e.steady(), e.cfg.MaxInFlight, as.doRecover}}},
	}}, nil
}

func planWrong(e *Env) (plan, error) {
	// Ten attempts each.
	tries := e.steady().Count()
	n := (tries + attempts - 1) / attempts
	as := &accounts{e: e}
	return plan{prepare: as.registerAll(max(n, e.cfg.Accounts)), close: as.close, stages: []stage{
		{streams: []stream{{opWrongPassword, e.steady(), e.cfg.MaxInFlight, as.doWrong}}},
	}}, nil
}

// abuse is a plan of abusers with a probe beside them.
func abuse(e *Env, s stream) (plan, error) {
	all, end := []stream{s}, func() {}
	if e.cfg.ProbeRate > 0 {
		es := newEchoes(e, probes)
		end = es.close
		all = append(all, stream{opProbe, arrival.Steady{Rate: e.cfg.ProbeRate, For: e.cfg.Duration}, e.cfg.MaxInFlight, es.do})
	}
	return plan{close: end, stages: []stage{{streams: all, atLeast: e.cfg.Duration}}}, nil
}

// probes is how many good clients share the probe's rate.
const probes = 4

func planSlow(e *Env) (plan, error) {
	return abuse(e, stream{opSlow, arrival.First{Schedule: e.steady(), Max: e.cfg.Connections}, e.cfg.Connections, e.doSlow})
}

func planHalfOpen(e *Env) (plan, error) {
	return abuse(e, stream{opHalfOpen, arrival.First{Schedule: e.steady(), Max: e.cfg.Connections}, e.cfg.Connections, e.doHalfOpen})
}

func planSlowloris(e *Env) (plan, error) {
	return abuse(e, stream{opSlowloris, arrival.First{Schedule: e.steady(), Max: e.cfg.Connections}, e.cfg.Connections, e.doSlowloris})
}

func planPingFlood(e *Env) (plan, error) {
	return abuse(e, stream{opPingFlood, arrival.First{Schedule: e.steady(), Max: e.cfg.Connections}, e.cfg.Connections, e.doPingFlood})
}

func planSessions(e *Env) (plan, error) {
	return abuse(e, stream{opSessions, arrival.First{Schedule: e.steady(), Max: e.cfg.Connections}, e.cfg.Connections, newHog(e).do})
}

func planGarbage(e *Env) (plan, error) {
	return abuse(e, stream{opGarbage, e.steady(), e.cfg.MaxInFlight, e.doGarbage})
}
