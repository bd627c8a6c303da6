package client_test

import (
	"errors"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// after makes the vault change its own replies.
func (f *fakeRelay) after(h func(vaultmsg.Request, *vaultmsg.Reply)) {
	f.vault.do(func() { f.vault.after = h })
}

func TestBundleAttacks(t *testing.T) {
	later := func() time.Time { return time.Now().Add(time.Hour).UTC().Truncate(time.Second) }
	bundle := func(f *fakeRelay) fleet.Bundle {
		return fleet.Bundle{Keys: f.vault.keys(testFleet), Epoch: 8, NotAfter: later()}
	}
	for _, c := range []struct {
		name   string
		signed func(t *testing.T, f *fakeRelay) []byte
		want   error
	}{
		{"one signature", func(_ *testing.T, f *fakeRelay) []byte {
			return f.vault.sign(bundle(f), f.vault.signers[0])
		}, fleet.ErrOneSignature},
		{"other signers", func(t *testing.T, f *fakeRelay) []byte {
			return f.vault.sign(bundle(f), newFakeVault(t).signers[:]...)
		}, fleet.ErrUnsigned},
		{"expired", func(_ *testing.T, f *fakeRelay) []byte {
			b := bundle(f)
			b.NotAfter = b.NotAfter.Add(-2 * time.Hour)
			return f.vault.sign(b, f.vault.signers[:]...)
		}, fleet.ErrExpired},
		{"another fleet", func(_ *testing.T, f *fakeRelay) []byte {
			b := bundle(f)
			b.Keys = f.vault.keys("other-fleet")
			return f.vault.sign(b, f.vault.signers[:]...)
		}, fleet.ErrFleet},
		{"not a note", func(*testing.T, *fakeRelay) []byte { return []byte("hello") }, fleet.ErrFormat},
		{"endless", func(*testing.T, *fakeRelay) []byte { return make([]byte, 1<<20) }, client.ErrBundle},
	} {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			f.setBundle(c.signed(t, f), 8)
			_, err := f.phone().Status(t.Context())
			if e := wantError(t, err, client.ErrBundle); !errors.Is(e, c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
			if n := f.count(&f.opens); n != 0 {
				t.Errorf("%s: %d vault sessions all the same", c.name, n)
			}
		})
	}
}

func TestEpochGoesForwardOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		status := func() error { _, err := p.Status(t.Context()); return err }
		if err := status(); err != nil {
			t.Fatal(err)
		}
		f.setBundle(f.vault.signedBundle(9, time.Now().Add(time.Hour)), 9)
		p.restart(t) // connects anew: HELLO names the epoch
		if err := status(); err != nil || f.count(&f.fetches) != 2 {
			t.Fatalf("%v, %d fetches", err, f.fetches)
		}
		if err := status(); err != nil || f.count(&f.fetches) != 2 {
			t.Errorf("a stored bundle was fetched again: %v, %d fetches", err, f.fetches)
		}
		// The relay announces a newer one and serves an older one: the one in
		// hand serves on, while it lasts.
		f.setBundle(f.vault.signedBundle(8, time.Now().Add(48*time.Hour)), 10)
		p.restart(t)
		if err := status(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		err := status()
		if wantError(t, err, client.ErrBundle); !errors.Is(err, fleet.ErrEpochBack) {
			t.Error(err)
		}
		f.setBundle(f.vault.signedBundle(10, time.Now().Add(time.Hour)), 10)
		if err := status(); err != nil {
			t.Errorf("with a newer bundle: %v", err)
		}
	})
}

func TestPreviousFleetOnlyRecoversAndDeletes(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "pw")
		b := fleet.Bundle{
			Keys: f.vault.keys("next-fleet"), Epoch: 8, NotAfter: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
			Previous: []fleet.Keys{f.vault.keys(testFleet)},
		}
		f.setBundle(f.vault.sign(b, f.vault.signers[:]...), 8)
		p.restart(t)
		_, err := p.Replace(t.Context(), []byte("new"), key, cheap)
		wantError(t, err, client.ErrPreviousFleet)
		if got, err := p.Recover(t.Context(), []byte("pw")); err != nil || !got.Key.Equal(key.Key) {
			t.Error(err)
		}
		if err := p.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A relay that routes to a vault without the fleet's key gets nothing (A9, A10).
func TestFakeVault(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		other := newFakeVault(t)
		p := f.phone()
		f.vault.do(func() { f.vault.noise = other.noise })
		_, err := p.Recover(t.Context(), []byte("pw"))
		wantError(t, err, client.ErrProtocol)
		if got := f.vault.kinds(); len(got) != 0 {
			t.Errorf("requests reached a fake vault: %v", got)
		}
	})
}

func TestKSFOutOfBoundsCostsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		p.register(t, "pw")
		for _, ksf := range []client.KSF{
			{MemoryKiB: 1 << 10, Time: 2, Parallelism: 1},
			{MemoryKiB: 4 << 20, Time: 2, Parallelism: 1},
			{MemoryKiB: 19 << 10, Time: 1, Parallelism: 1},
			{MemoryKiB: 19 << 10, Time: 1000, Parallelism: 1},
			{},
		} {
			f.after(func(_ vaultmsg.Request, r *vaultmsg.Reply) {
				if s, ok := r.Body.(vaultmsg.AccountStatus); ok {
					s.KSF = ksf
					r.Body = s
				}
			})
			f.vault.kinds()
			_, err := p.Recover(t.Context(), []byte("pw"))
			wantError(t, err, client.ErrProtocol)
			if got := f.vault.kinds(); !equalKinds(got, vaultmsg.KAuthorise) {
				t.Errorf("%+v: requests %v", ksf, got)
			}
		}
		// Other parameters with KE2 than with the status: nothing is computed
		// with them, and after a few sessions the client gives up.
		f.after(func(_ vaultmsg.Request, r *vaultmsg.Reply) {
			if s, ok := r.Body.(vaultmsg.RecoverStarted); ok {
				s.KSF.MemoryKiB = 20 << 10
				r.Body = s
			}
		})
		_, err := p.Recover(t.Context(), []byte("pw"))
		wantError(t, err, client.ErrConflict)
		if n := f.vault.charges(); n != 1 {
			t.Errorf("%d charges", n)
		}
	})
}

func TestTamperedKE2IsAWrongPassword(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		p.register(t, "pw")
		// masked response, server nonce, server MAC
		for i, at := range []int{33 + 32 + 5, 33 + 32 + 97 + 3, 258} {
			f.after(func(_ vaultmsg.Request, r *vaultmsg.Reply) {
				if s, ok := r.Body.(vaultmsg.RecoverStarted); ok {
					s.KE2[at] ^= 1
					r.Body = s
				}
			})
			f.vault.kinds()
			_, err := p.Recover(t.Context(), []byte("pw"))
			if e := wantError(t, err, client.ErrWrongPassword); e.AttemptsLeft != 9-i {
				t.Errorf("byte %d: %+v", at, e)
			}
			if got := f.vault.kinds(); !equalKinds(got, vaultmsg.KAuthorise, vaultmsg.KRecoverStart, vaultmsg.KAbort) {
				t.Errorf("byte %d: requests %v", at, got)
			}
		}
	})
}

func TestReflectedAndInvalidElements(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		p.register(t, "pw")
		for _, c := range []struct {
			name   string
			change func(ke1 [98]byte, ke2 []byte)
			want   error
		}{
			{"reflected", func(ke1 [98]byte, ke2 []byte) { copy(ke2[:33], ke1[:33]) }, client.ErrWrongPassword},
			{"identity", func(_ [98]byte, ke2 []byte) { clear(ke2[:33]) }, client.ErrProtocol},
			{"hybrid", func(_ [98]byte, ke2 []byte) { ke2[0] |= 4 }, client.ErrProtocol},
		} {
			f.after(func(req vaultmsg.Request, r *vaultmsg.Reply) {
				if s, ok := r.Body.(vaultmsg.RecoverStarted); ok {
					c.change(req.(vaultmsg.RecoverStart).KE1, s.KE2[:])
					r.Body = s
				}
			})
			_, err := p.Recover(t.Context(), []byte("pw"))
			wantError(t, err, c.want)
		}
	})
}

// A vault that swaps the released key for another wrap, or another generation's,
// is found out (A14).
func TestTamperedRelease(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		p.register(t, "pw")
		f.after(func(_ vaultmsg.Request, r *vaultmsg.Reply) {
			if s, ok := r.Body.(vaultmsg.Recovered); ok {
				s.Release[9] ^= 1
				r.Body = s
			}
		})
		_, err := p.Recover(t.Context(), []byte("pw"))
		wantError(t, err, client.ErrProtocol)
		f.after(nil)
		f.vault.do(func() { f.vault.rec.finish.Wrap[9] ^= 1 })
		_, err = p.Recover(t.Context(), []byte("pw"))
		wantError(t, err, client.ErrProtocol)
	})
}

func TestReceiptMustFit(t *testing.T) {
	type change struct {
		name  string
		f     func(*fakeVault, *vaultmsg.Receipt)
		want  error
		story client.Story
	}
	again := func(v *fakeVault, r vaultmsg.Receipt) vaultmsg.Receipt {
		return v.signReceipt(ticket.Account{Issuer: testIssuer, Subject: "alice"}, r)
	}
	for _, c := range []change{
		{"signature", func(_ *fakeVault, r *vaultmsg.Receipt) { r.Signature[3] ^= 1 }, client.ErrProtocol, 0},
		{"unsigned field", func(_ *fakeVault, r *vaultmsg.Receipt) { r.Time++ }, client.ErrProtocol, 0},
		{"another body", func(v *fakeVault, r *vaultmsg.Receipt) { r.BodyHash[0] ^= 1; *r = again(v, *r) }, client.ErrProtocol, 0},
		{"another owner", func(v *fakeVault, r *vaultmsg.Receipt) { r.Owner[0] ^= 1; *r = again(v, *r) }, client.ErrProtocol, 0},
		{"another account", func(v *fakeVault, r *vaultmsg.Receipt) {
			*r = v.signReceipt(ticket.Account{Issuer: testIssuer, Subject: "mallory"}, *r)
		}, client.ErrProtocol, 0},
		{"replaced nothing", func(v *fakeVault, r *vaultmsg.Receipt) { r.Replaced = 0; *r = again(v, *r) }, nil, client.StoryReplacedNothing},
	} {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			p := f.phone()
			key, _ := p.register(t, "pw")
			f.after(func(_ vaultmsg.Request, r *vaultmsg.Reply) {
				if s, ok := r.Body.(vaultmsg.Receipt); ok {
					c.f(f.vault, &s)
					r.Body = s
				}
			})
			r, err := p.Replace(t.Context(), []byte("new"), key, cheap)
			if c.want != nil {
				wantError(t, err, c.want)
				return
			}
			wantStory(t, err, c.story)
			if r.Generation != 2 {
				t.Errorf("%s: no receipt beside the story", c.name)
			}
		})
	}
}

func TestStoriesThatDoNotFit(t *testing.T) {
	status := func(f *fakeRelay, change func(*vaultmsg.AccountStatus)) {
		f.after(func(_ vaultmsg.Request, r *vaultmsg.Reply) {
			if s, ok := r.Body.(vaultmsg.AccountStatus); ok {
				change(&s)
				r.Body = s
			}
		})
	}
	for _, c := range []struct {
		name     string
		change   func(*vaultmsg.AccountStatus)
		story    client.Story
		anywhere bool // stops every operation
		replace  bool // stops a replacement
		final    bool // cannot be accepted
	}{
		{"issuer", func(s *vaultmsg.AccountStatus) { s.Issuer = "other" }, client.StoryAccount, true, true, true},
		{"generation", func(s *vaultmsg.AccountStatus) { s.Generation = 0 }, client.StoryGenerationFell, true, true, false},
		{"failures", func(s *vaultmsg.AccountStatus) { s.OtherFailure = 3 }, client.StoryOtherFailures, false, true, false},
		{"registration", func(s *vaultmsg.AccountStatus) { s.Registration[0] ^= 1 }, client.StoryReplaced, false, false, false},
		{"body", func(s *vaultmsg.AccountStatus) { s.BodyHash[0] ^= 1 }, client.StoryReplaced, false, false, false},
	} {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			p := f.phone()
			key, _ := p.register(t, "pw")
			status(f, c.change)
			_, err := p.CheckReceipt(t.Context())
			wantStory(t, err, c.story)
			if _, err := p.Status(t.Context()); (err != nil) != c.anywhere {
				t.Errorf("%s: status: %v", c.name, err)
			}
			if c.replace {
				f.vault.kinds()
				_, err := p.Replace(t.Context(), []byte("new"), key, cheap)
				wantStory(t, err, c.story)
				if got := f.vault.kinds(); !equalKinds(got, vaultmsg.KAuthorise) {
					t.Errorf("%s: went on with %v", c.name, got)
				}
			}
			_, err = p.CheckReceipt(t.Context(), c.story)
			if c.final {
				wantStory(t, err, c.story)
			} else if errors.Is(err, client.ErrStory) && c.story != client.StoryGenerationFell {
				t.Errorf("%s: accepted, and stopped all the same: %v", c.name, err)
			}
		})
	}
}

func TestAnotherAccountOnTheSameStore(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		p.register(t, "pw")
		q := f.phone(func(c *client.Config) {
			c.Store, c.Device = p.cfg.Store, p.cfg.Device
			c.Tickets = f.ticketsFor(c.Device, "bob")
		})
		_, err := q.Register(t.Context(), []byte("pw"), client.NewBackupKey(), cheap)
		wantStory(t, err, client.StoryAccount)
	})
}

// What the relay says of attempts is never believed.
func TestRefusalsOfTheRelay(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse frame.Refuse
		times  int
		want   error
		wait   time.Duration
	}{
		{"short", frame.Refuse{Status: frame.RateLimited, RetryMillis: 3000, Limit: "OpensPerAccount"}, 2, nil, 6 * time.Second},
		{"long", frame.Refuse{Status: frame.RateLimited, RetryMillis: 60_000, Limit: "OpensPerAccount"}, 1, client.ErrRateLimited, 0},
		{"lasting", frame.Refuse{Status: frame.NoVault}, 1000, client.ErrUnreachable, 0},
		{"locked", frame.Refuse{Status: frame.Locked}, 1, client.ErrLocked, 0},
		{"not authorised", frame.Refuse{Status: frame.NotAuthorised}, 1, client.ErrNotAuthorised, 0},
	} {
		for _, at := range []frame.Type{frame.TOpen, frame.TData} {
			inBubble(t, func(t *testing.T, f *fakeRelay) {
				p := f.phone()
				p.register(t, "pw")
				refused := 0
				f.hook(func(d direction, fr frame.Frame) fate {
					if d == up && fr.Type() == at && refused < c.times {
						refused++
						r := c.refuse
						r.Refused = at
						switch fr := fr.(type) {
						case frame.Open:
							r.Tag = fr.Tag
						case frame.Data:
							r.Session = fr.Session
						}
						f.broadcast(r)
						return drop
					}
					return pass
				})
				begin := time.Now()
				_, err := p.Recover(t.Context(), []byte("pw"))
				if c.want == nil {
					if err != nil || time.Since(begin) < c.wait {
						t.Errorf("%s: %v after %s", c.name, err, time.Since(begin))
					}
					return
				}
				e := wantError(t, err, c.want)
				if e.Charged || (e.AttemptsLeft != client.Unknown && e.AttemptsLeft != 10) {
					t.Errorf("%s: believed %+v", c.name, e)
				}
				if c.name == "long" && (e.RetryAfter != time.Minute || e.Limit != "OpensPerAccount" || time.Since(begin) > time.Second) {
					t.Errorf("%+v after %s", e, time.Since(begin))
				}
			})
		}
	}
}

func TestGarbageFromTheRelayIsIgnored(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "pw")
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == up {
				forged := data
				forged.Payload = make([]byte, 528)
				f.broadcast(forged) // the right session and number, no ciphertext
				forged.Session[0] ^= 1
				f.broadcast(forged)
				f.broadcast(frame.Refuse{Refused: frame.TData, Session: forged.Session, Status: frame.NotAuthorised})
				f.broadcast(frame.Close{Session: forged.Session, Status: frame.Malformed})
				f.broadcast(frame.Attach{Tag: 99, Session: forged.Session})
			}
			return pass
		})
		got, err := p.Recover(t.Context(), []byte("pw"))
		if err != nil || !got.Key.Equal(key.Key) {
			t.Fatal(err)
		}
	})
}
