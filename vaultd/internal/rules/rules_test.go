package rules_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/rules"
)

var (
	start = time.Unix(1_800_000_000, 0)
	owner = vaultmsg.Thumbprint{1}
	other = vaultmsg.Thumbprint{2}
)

func params() rules.Params {
	p := rules.Defaults()
	p.Pacing = false
	return p
}

func live() *record.Record {
	return &record.Record{State: record.Live, Generation: 1, Owner: owner, OPRFKey: [80]byte{1}, Wrap: [128]byte{1}}
}

func attempt(n int, device vaultmsg.Thumbprint) rules.Attempt {
	return rules.Attempt{ID: [32]byte{byte(n), byte(n >> 8), device[0]}, Device: device}
}

// oracle watches a record from outside and knows what was evaluated.
type oracle struct {
	t       *testing.T
	element map[[32]byte]uint64 // charge of every element that was evaluated
	success uint64              // the highest charge that succeeded
}

// evaluated is told of every attempt that a rule let through, and holds the
// promise: in charge order, at most ten distinct elements after the last success.
func (o *oracle) evaluated(a rules.Attempt, charge uint64) {
	o.element[a.ID] = max(o.element[a.ID], charge)
	n := 0
	for _, c := range o.element {
		if c > o.success {
			n++
		}
	}
	if n > record.MaxEntries {
		o.t.Fatalf("%d distinct elements after charge %d", n, o.success)
	}
}

// TestNoWalkBreaksThePromises walks at random through attempts, repeats, aborts,
// successes and time, with devices that know the password and devices that do
// not, and checks both promises at every step.
func TestNoWalkBreaksThePromises(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r, now, p := live(), start, params()
		p.Pacing = seed%3 == 0
		o := &oracle{t: t, element: map[[32]byte]uint64{}}
		type running struct {
			rules.Attempt
			charge uint64
			right  bool
		}
		var open []running
		for step := range 400 {
			switch rng.IntN(10) {
			case 0: // time
				now = now.Add(time.Duration(rng.IntN(30)) * time.Hour)
			case 1, 2, 3, 4: // a new attempt
				device := owner
				if rng.IntN(2) == 0 {
					device = other
				}
				a := attempt(step, device)
				before := r.Charges
				charge, v := rules.Charge(r, a, now, p)
				if v.Status == frame.OK {
					if r.Charges != before+1 || charge != r.Charges || !v.Write {
						t.Fatalf("seed %d: a new element went through uncharged", seed)
					}
					o.evaluated(a, charge)
					open = append(open, running{a, charge, rng.IntN(4) == 0})
				}
			case 5, 6: // the same element again
				if len(open) == 0 {
					continue
				}
				i := rng.IntN(len(open))
				charge, v := rules.Charge(r, open[i].Attempt, now, p)
				if v.Status == frame.OK {
					o.evaluated(open[i].Attempt, charge)
					open[i].charge = charge
				}
			case 7, 8: // a verdict
				if len(open) == 0 {
					continue
				}
				i := rng.IntN(len(open))
				a := open[i]
				open = slices.Delete(open, i, i+1)
				if !a.right {
					rules.Fail(r, a.Attempt, 1, vaultmsg.EventFailed, now, p)
					continue
				}
				if v := rules.Restore(r, a.Attempt, 1, a.charge, now); v.Status == frame.OK {
					o.success = max(o.success, a.charge)
				} else if r.State == record.Live {
					t.Fatalf("seed %d: a right password got %s on a live record", seed, v.Status)
				}
			case 9:
				rules.Settle(r, now, p)
			}
			if r.Left() < 0 || r.Left() > record.MaxEntries || len(r.Entries) > record.MaxEntries {
				t.Fatalf("seed %d: %d left, %d entries", seed, r.Left(), len(r.Entries))
			}
			if _, err := record.Decode(r.Encode()); err != nil {
				t.Fatalf("seed %d: the record does not decode: %v", seed, err)
			}
			if r.State == record.Destroyed {
				if r.Wrap != ([128]byte{}) || r.OPRFKey != ([80]byte{}) || r.Generation != 1 {
					t.Fatalf("seed %d: a tombstone with keys, or without its generation", seed)
				}
				break
			}
		}
	}
}

// TestAnOpenAttemptGoesOnWhateverHappens is the mirror promise: until it has a
// verdict, an attempt that was charged may always be finished.
func TestAnOpenAttemptGoesOnWhateverHappens(t *testing.T) {
	r, p := live(), params()
	right := attempt(0, other)
	charge, _ := rules.Charge(r, right, start, p)
	for n := 1; n <= 20; n++ { // others use up all that is left
		a := attempt(n, owner)
		if _, v := rules.Charge(r, a, start, p); v.Status == frame.OK {
			rules.Fail(r, a, 1, vaultmsg.EventFailed, start, p)
		}
		again, v := rules.Charge(r, right, start.Add(23*time.Hour), p)
		if v.Status != frame.OK || v.Write || again != charge {
			t.Fatalf("after %d others: %s, written %v", n, v.Status, v.Write)
		}
	}
	if v := rules.Restore(r, right, 1, charge, start); v.Status != frame.OK || r.Left() != 1 {
		t.Errorf("%s, %d left, want ok with 1: nine were charged after it", v.Status, r.Left())
	}
}

// The rules that this project once might have had, each of which loses a key or
// gives a guess away. The promises must catch them.
func TestTheWalkCatchesRestoringToTen(t *testing.T) {
	r, p := live(), params()
	o := &oracle{t: t, element: map[[32]byte]uint64{}}
	n := 0
	guess := func() (rules.Attempt, uint64) {
		n++
		a := attempt(n, other)
		c, v := rules.Charge(r, a, start, p)
		if v.Status == frame.OK {
			o.element[a.ID] = c
		}
		return a, c
	}
	right, charge := guess()
	for range 9 {
		guess()
	}
	rules.Restore(r, right, 1, charge, start)
	r.Base = r.Charges // the naive restore: back to ten
	o.success = charge
	for range 10 {
		guess()
	}
	after := 0
	for _, c := range o.element {
		if c > o.success {
			after++
		}
	}
	if after <= record.MaxEntries {
		t.Errorf("the naive rule let %d elements through: the oracle cannot tell it from ours", after)
	}
}

func TestSettle(t *testing.T) {
	p := params()
	cases := []struct {
		name string
		make func(r *record.Record)
		at   time.Duration
		dies bool
	}{
		{"attempts left", func(r *record.Record) { r.Charges = 9 }, 0, false},
		{"all closed", func(r *record.Record) { fill(r, 10, false) }, 0, true},
		{"one open and young", func(r *record.Record) { fill(r, 10, false); r.Entries[3].Open = true }, 24*time.Hour - time.Second, false},
		{"one open and old", func(r *record.Record) { fill(r, 10, false); r.Entries[3].Open = true }, 24 * time.Hour, true},
		{"a tombstone", func(r *record.Record) { fill(r, 10, false); r.State = record.Deleted }, 0, false},
	}
	for _, c := range cases {
		r := live()
		c.make(r)
		if got := rules.Settle(r, start.Add(c.at), p); got != c.dies {
			t.Errorf("%s: settled %v", c.name, got)
		}
	}
}

func fill(r *record.Record, n int, open bool) {
	for i := range n {
		r.Charges++
		r.Entries = append(r.Entries, record.Entry{Attempt: [32]byte{byte(i)}, Charge: r.Charges, Time: uint64(start.Unix()), Open: open})
	}
}

func TestAnotherGenerationsVerdictChangesNothing(t *testing.T) {
	r, p := live(), params()
	a := attempt(1, other)
	charge, _ := rules.Charge(r, a, start, p)
	r.Generation = 2
	before := fmt.Sprintf("%+v", *r)
	if v := rules.Restore(r, a, 1, charge, start); v.Status != frame.Conflict || v.Write {
		t.Errorf("restore: %+v", v)
	}
	if v := rules.Fail(r, a, 1, vaultmsg.EventFailed, start, p); v.Status != frame.Conflict || v.Write {
		t.Errorf("fail: %+v", v)
	}
	if fmt.Sprintf("%+v", *r) != before {
		t.Error("the record changed")
	}
}

func TestRegisterKeepsWhatMustSurvive(t *testing.T) {
	p := params()
	r := live()
	fill(r, 4, true)
	r.Claims = []record.Claim{{Device: other, What: vaultmsg.ClaimReplace, Made: uint64(start.Unix())}}
	g := rules.Registration{ID: vaultmsg.RegistrationID{9}, Device: owner, Purpose: vaultmsg.PurposeReplace, Generation: 2}
	auth, v := rules.MayRegister(r, g, start, p)
	if auth != rules.ByOwner || v.Status != frame.OK {
		t.Fatal(auth, v)
	}
	next := rules.Register(r, g, auth, record.Record{OPRFKey: [80]byte{2}}, start)
	if next.Generation != 2 || next.Replaced != 1 || next.ReplacedFailures != 4 || next.Left() != 10 ||
		len(next.Entries) != 0 || len(next.Claims) != 0 || next.Owner != owner || next.Replacements[0] == 0 {
		t.Errorf("%+v", next)
	}
	for _, bad := range []rules.Registration{
		{Device: owner, Purpose: vaultmsg.PurposeReplace, Generation: 1},
		{Device: owner, Purpose: vaultmsg.PurposeReplace, Generation: 3},
		{Device: owner, Purpose: vaultmsg.PurposeRegister, Generation: 2},
		{Device: owner, Purpose: vaultmsg.PurposeChange, Generation: 2},
		{Device: other, Purpose: vaultmsg.PurposeReplace, Generation: 2},
	} {
		if auth, v := rules.MayRegister(r, bad, start, p); auth != rules.NoAuthority || v.Status == frame.OK {
			t.Errorf("%+v: %v, %s", bad, auth, v.Status)
		}
	}
}

// TestDeletingIsNoWayAroundTheLimit: whatever the owner does, with however many
// devices, in any 24 hours without a KE3 at most three registrations replace a record
// or follow a deletion; and nobody is kept from deleting.
func TestDeletingIsNoWayAroundTheLimit(t *testing.T) {
	p := params()
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 7))
		r, now := live(), start
		var turns []time.Time
		refused := 0
		for range 60 {
			now = now.Add(time.Duration(rng.IntN(300)) * time.Minute)
			device := []vaultmsg.Thumbprint{owner, other}[rng.IntN(2)]
			if r.State == record.Live && rng.IntN(2) == 0 {
				if v := rules.Delete(r, r.Owner, r.Generation, now, p); v.Status != frame.OK {
					t.Fatalf("seed %d: delete: %s", seed, v.Status)
				}
				continue
			}
			g := rules.Registration{Device: device, Purpose: vaultmsg.PurposeRegister, Generation: r.Generation + 1}
			if r.State == record.Live {
				g.Device, g.Purpose = r.Owner, vaultmsg.PurposeReplace
			}
			auth, v := rules.MayRegister(r, g, now, p)
			if auth == rules.NoAuthority {
				if v.Status != frame.TooMany || v.Until <= uint64(now.Unix()) || v.Until > uint64(now.Add(24*time.Hour).Unix()) {
					t.Fatalf("seed %d: %+v", seed, v)
				}
				refused++
				continue
			}
			*r = rules.Register(r, g, auth, record.Record{OPRFKey: [80]byte{1}}, now)
			if turns = append(turns, now); len(turns) > 3 && now.Sub(turns[len(turns)-4]) < 24*time.Hour {
				t.Fatalf("seed %d: four registrations within %v", seed, now.Sub(turns[len(turns)-4]))
			}
		}
		if refused == 0 {
			t.Errorf("seed %d: nothing was refused", seed)
		}
	}
}

// TestADestroyedRecordMayBeRegisteredAtOnce: ten wrong passwords are not the owner's
// doing. What was counted before stays counted.
func TestADestroyedRecordMayBeRegisteredAtOnce(t *testing.T) {
	p := params()
	r := live()
	r.Replacements = [3]uint64{uint64(start.Unix()), uint64(start.Unix()), uint64(start.Unix())}
	fill(r, 10, false)
	if !rules.Settle(r, start, p) {
		t.Fatal("not destroyed")
	}
	g := rules.Registration{Device: other, Purpose: vaultmsg.PurposeRegister, Generation: 2}
	auth, v := rules.MayRegister(r, g, start, p)
	if auth != rules.OverNothing {
		t.Fatal(v.Status)
	}
	next := rules.Register(r, g, auth, record.Record{}, start)
	g = rules.Registration{Device: other, Purpose: vaultmsg.PurposeReplace, Generation: 3}
	if auth, v := rules.MayRegister(&next, g, start, p); auth != rules.NoAuthority || v.Status != frame.TooMany {
		t.Errorf("a fourth replacement: %v, %s", auth, v.Status)
	}
}
