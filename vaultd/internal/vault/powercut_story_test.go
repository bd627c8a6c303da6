package vault_test

import (
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/vault"
)

// story does everything to a record that a vault can do.
func (p *powerCuts) story() {
	first, second, third := p.w.phone("anna"), p.w.phone("anna"), p.w.phone("anna")
	p.attempts(first, second)
	p.turns(first, second, third)
	p.theEnd(third)
}

func (p *powerCuts) want(what string, r vaultmsg.Reply, status frame.Status, left int) {
	p.t.Helper()
	want(p.t, p.at+": "+what, r, status, left)
}

// right sends the KE3 of an attempt with the right password.
func (p *powerCuts) right(a *try, ke2 vaultmsg.Reply) vaultmsg.Reply {
	r, err := vault.Stored(fleet, p.w.store.Store, p.w.hsm.Module, ticket.Account{Issuer: "app", Subject: "anna"})
	if err != nil {
		p.t.Fatal(err)
	}
	p.base[r.Generation] = r.Charges
	m, _ := a.ke3(ke2)
	return a.p.send(m)
}

// attempts: charge, going on, abort, restore, and what a KE3 entitles to.
func (p *powerCuts) attempts(owner, phone *phone) {
	p.step("register", place{record.Live, 1}, func() {
		p.want("register", owner.register(vaultmsg.PurposeRegister, 0, password(1)), frame.OK, 10)
	})
	p.step("charge and abort", place{record.Live, 1}, func() {
		p.want("a wrong password", phone.recover("0000"), frame.WrongPassword, 9)
	})
	p.step("charge, go on, abort", place{record.Live, 1}, func() {
		a := phone.try("0000")
		p.want("KE1", a.ke1(), frame.OK, 8)
		phone.session()
		m, _ := a.ke3(a.ke1())
		p.want("abort", phone.send(m), frame.WrongPassword, 8)
	})
	p.step("charge, go on, restore", place{record.Live, 1}, func() {
		a := phone.try(password(1))
		p.want("KE1", a.ke1(), frame.OK, 7)
		phone.session()
		p.want("KE3", p.right(a, a.ke1()), frame.OK, 10)
	})
	p.step("change", place{record.Live, 2}, func() {
		p.want("change", phone.register(vaultmsg.PurposeChange, 1, password(2)), frame.OK, 10)
	})
}

// turns: replace, claim, cancel, delete, and registering over what was deleted.
func (p *powerCuts) turns(lost, owner, other *phone) {
	p.step("replace", place{record.Live, 3}, func() {
		finish, _ := owner.start(vaultmsg.PurposeReplace, 2, password(3))
		p.want("finish", owner.send(finish), frame.OK, 10)
		p.want("the same finish again", owner.send(finish), frame.OK, 10)
	})
	p.step("claim and cancel", place{record.Live, 3}, func() {
		r := lost.send(vaultmsg.Claim{What: vaultmsg.ClaimReplace, Generation: 3})
		p.want("claim", r, frame.OK, 10)
		p.want("cancel", owner.send(vaultmsg.Cancel{ID: r.Body.(vaultmsg.Claimed).ID}), frame.OK, 10)
	})
	p.step("replace by a claim", place{record.Live, 4}, func() {
		p.want("claim", lost.send(vaultmsg.Claim{What: vaultmsg.ClaimReplace, Generation: 3}), frame.OK, 10)
		p.w.pass(73 * time.Hour)
		lost.session()
		p.want("replace", lost.register(vaultmsg.PurposeReplace, 3, password(4)), frame.OK, 10)
	})
	p.step("delete by a claim", place{record.Deleted, 4}, func() {
		other.session()
		p.want("claim", other.send(vaultmsg.Claim{What: vaultmsg.ClaimDelete, Generation: 4}), frame.OK, 10)
		p.w.pass(73 * time.Hour)
		other.session()
		p.want("delete", other.send(vaultmsg.Delete{Generation: 4}), frame.OK, 0)
	})
	p.step("register over a deleted record", place{record.Live, 5}, func() {
		p.want("register", other.register(vaultmsg.PurposeRegister, 4, password(5)), frame.OK, 10)
	})
	p.step("delete by the owner", place{record.Deleted, 5}, func() {
		p.want("delete", other.send(vaultmsg.Delete{Generation: 5}), frame.OK, 0)
	})
}

// theEnd: the tenth attempt, right and wrong, and destruction by touch and sweep.
func (p *powerCuts) theEnd(phone *phone) {
	p.step("register again", place{record.Live, 6}, func() {
		p.want("register", phone.register(vaultmsg.PurposeRegister, 5, password(6)), frame.OK, 10)
	})
	p.step("nine wrong passwords", place{record.Live, 6}, func() {
		for left := 9; left > 0; left-- {
			p.want("a wrong password", phone.recover("0000"), frame.WrongPassword, left)
		}
	})
	p.open = phone.try(password(6))
	p.step("the tenth is right, and KE2 is lost", place{record.Live, 6}, func() {
		p.want("KE1", p.open.ke1(), frame.OK, 0)
	})
	p.step("it goes on", place{record.Live, 6}, func() {
		phone.session()
		p.want("KE3", p.right(p.open, p.open.ke1()), frame.OK, 10)
	})
	p.open = nil
	p.step("ten wrong passwords", place{record.Destroyed, 6}, func() {
		for left := 9; left > 0; left-- {
			p.want("a wrong password", phone.recover("0000"), frame.WrongPassword, left)
		}
		p.want("the tenth", phone.recover("0000"), frame.Destroyed, 0)
	})
	p.step("register over a destroyed record", place{record.Live, 7}, func() {
		p.want("register", phone.register(vaultmsg.PurposeRegister, 6, password(7)), frame.OK, 10)
	})
	p.step("ten attempts without a verdict", place{record.Live, 7}, func() {
		for left := 9; left >= 0; left-- {
			p.want("KE1", phone.try("0000").ke1(), frame.OK, left)
			phone.session()
		}
	})
	p.step("the sweep", place{record.Destroyed, 7}, func() {
		p.w.pass(24 * time.Hour)
		if n, err := p.w.vault.Sweep(p.t.Context()); n != 1 || err != nil {
			p.t.Errorf("the sweep destroyed %d (%v)", n, err)
		}
	})
}
