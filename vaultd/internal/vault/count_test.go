package vault_test

import (
	"sync"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/vault"
)

func TestWhatOperatorsCount(t *testing.T) {
	var mu sync.Mutex
	counted := map[vault.Event]int{}
	w := newWorld(t, func(c *vault.Config) {
		c.Count = func(e vault.Event) {
			mu.Lock()
			defer mu.Unlock()
			counted[e]++
		}
	})
	is := func(what string, charged, restored, destroyed int) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if counted[vault.Charged] != charged || counted[vault.Restored] != restored || counted[vault.Destroyed] != destroyed {
			t.Errorf("%s: counted %v; want %d charged, %d restored, %d destroyed", what, counted, charged, restored, destroyed)
		}
	}
	p := w.phone("anna")
	want(t, "register", p.register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
	is("registered", 0, 0, 0)
	want(t, "wrong", p.recover("0000"), frame.WrongPassword, 9)
	is("a wrong password", 1, 0, 0)
	a := p.try("1234")
	a.ke1()
	a.ke1() // the same element goes on
	m, _ := a.ke3(a.ke1())
	want(t, "right", p.send(m), frame.OK, 10)
	is("the right one, after two lost replies", 2, 1, 0)
	for left := 9; left > 0; left-- {
		want(t, "wrong", p.recover("0000"), frame.WrongPassword, left)
	}
	want(t, "the tenth", p.recover("0000"), frame.Destroyed, 0)
	is("ten wrong passwords", 12, 1, 1)
	want(t, "destroyed", p.recover("1234"), frame.Destroyed, 0)
	is("and then the right one", 12, 1, 1)

	p = w.phone("bert")
	want(t, "register", p.register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
	for range 10 { // attempts that nobody finishes
		p.try("0000").ke1()
	}
	is("ten open attempts", 22, 1, 1)
	w.pass(25 * time.Hour)
	if n, err := w.vault.Sweep(t.Context()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	is("the sweep", 22, 1, 2)
}
