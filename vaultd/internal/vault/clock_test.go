package vault_test

import (
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/vault"
)

// jumpingWorld has a clock that can be set, beside one that cannot.
func jumpingWorld(t *testing.T, change ...func(*vault.Config)) (w *world, jump func(time.Duration)) {
	var set time.Duration
	start := time.Unix(1_800_000_000, 0)
	w = newWorld(t, append(change, func(c *vault.Config) {
		now := c.Now
		c.Elapsed = func() time.Duration { return now().Sub(start) - set }
	})...)
	return w, func(d time.Duration) {
		set += d
		w.pass(d)
	}
}

// locked uses up anna's attempts; the last of them is right, and has no verdict yet.
func locked(t *testing.T, w *world) *try {
	t.Helper()
	for range 9 {
		w.phone("anna").recover("0000")
	}
	right := w.phone("anna").try("1234")
	want(t, "the tenth", right.ke1(), frame.OK, 0)
	return right
}

// TestAJumpOfTheClockDestroysNoKey: an NTP server is wrong by a day, or a month.
func TestAJumpOfTheClockDestroysNoKey(t *testing.T) {
	for name, steps := range map[string][]time.Duration{
		"a day": {24 * time.Hour}, "a month": {30 * 24 * time.Hour},
		"a day and back and again": {24 * time.Hour, -24 * time.Hour, 24 * time.Hour},
		"a day in small steps":     smallSteps(),
	} {
		t.Run(name, func(t *testing.T) {
			w, jump := jumpingWorld(t)
			want(t, "register", w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
			right := locked(t, w)
			for _, d := range steps {
				jump(d)
				if n, err := w.vault.Sweep(t.Context()); n != 0 || err != nil {
					t.Fatalf("a sweep destroyed %d (%v)", n, err)
				}
			}
			right.p.session()
			m, _ := right.ke3(right.ke1())
			want(t, "the right password goes on", right.p.send(m), frame.OK, 10)

			locked(t, w)
			w.pass(24*time.Hour - time.Second)
			if n, _ := w.vault.Sweep(t.Context()); n != 0 {
				t.Error("destroyed before a day had passed")
			}
			w.pass(72 * time.Hour)
			if n, _ := w.vault.Sweep(t.Context()); n != 1 {
				t.Error("not destroyed when the jump was believed")
			}
		})
	}
}

func smallSteps() (steps []time.Duration) {
	for range 30 * 60 {
		steps = append(steps, 59*time.Second)
	}
	return steps
}

// TestAJumpOfTheClockRipensNoClaim.
func TestAJumpOfTheClockRipensNoClaim(t *testing.T) {
	w, jump := jumpingWorld(t)
	owner, thief := w.phone("anna"), w.phone("anna")
	want(t, "register", owner.register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
	want(t, "claim", thief.send(vaultmsg.Claim{What: vaultmsg.ClaimReplace, Generation: 1}), frame.OK, 10)
	jump(73 * time.Hour)
	thief.session()
	want(t, "after a jump", thief.register(vaultmsg.PurposeReplace, 1, "x"), frame.Pending, 10)
	w.pass(71 * time.Hour)
	thief.session()
	want(t, "before its time", thief.register(vaultmsg.PurposeReplace, 1, "x"), frame.Pending, 10)
	w.pass(2 * time.Hour)
	thief.session()
	want(t, "when it has really passed", thief.register(vaultmsg.PurposeReplace, 1, "x"), frame.OK, 10)
}

// TestAfterAJumpPacedIsUntilATimeToCome: the caps go by the time that is believed,
// the phones by the other.
func TestAfterAJumpPacedIsUntilATimeToCome(t *testing.T) {
	w, jump := jumpingWorld(t, func(c *vault.Config) { c.MaxCharges = 2 })
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	want(t, "the first permit", w.phone("anna").recover("0000"), frame.WrongPassword, 9)
	jump(10*time.Hour + 20*time.Minute)
	want(t, "the second", w.phone("anna").recover("0000"), frame.WrongPassword, 8)
	r := w.phone("anna").try("1234").ke1()
	now := uint64(w.clock().Unix())
	if r.Status != frame.Paced || r.Until <= now || r.Until > now+3600 {
		t.Fatalf("%s until %d s from now", r.Status, int64(r.Until)-int64(now))
	}
	w.pass(time.Duration(r.Until-now) * time.Second)
	want(t, "then", w.phone("anna").recover("1234"), frame.OK, 10)
}
