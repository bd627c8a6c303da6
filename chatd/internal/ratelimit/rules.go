package ratelimit

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"chatvault/protocol/ticket"
)

// Rules are the limits as they stand: one for everybody under each name, and
// others for some. Never changed once they are made: a reload makes new ones.
type Rules struct {
	// Set is what holds for everybody else.
	Set       Set
	lines     map[string]int // of the file, where Set has it from
	overrides map[string]*overrides
}

// overrides are one limit's. The narrowest that fits is taken: an account
// before its issuer, the longest prefix before a shorter one.
type overrides struct {
	accounts map[[32]byte]*override // by ticket.Account.Hash
	issuers  map[string]*override
	networks []*override // the longest prefixes first
}

// override is a limit for an account, an issuer, or a network.
type override struct {
	limit           Limit
	line            int
	issuer, subject string // subject: empty for all of the issuer
	network         netip.Prefix
}

// String is how the file and commands name whom it is for.
func (o *override) String() string {
	switch {
	case o.subject != "":
		return "account " + o.issuer + "/" + o.subject
	case o.issuer != "":
		return "issuer " + o.issuer
	}
	return "network " + o.network.String()
}

// Who is whom a limit is asked for; what is not known is zero.
type Who struct {
	Addr    netip.Addr
	Issuer  string   // the configured name
	Account [32]byte // ticket.Account.Hash
}

// NewRules returns the defaults with changes in their place.
func NewRules(changes map[string]Limit) (*Rules, error) {
	return (&Rules{Set: Defaults()}).With(changes)
}

// With returns rules that have changes for everybody; overrides stay.
func (r *Rules) With(changes map[string]Limit) (*Rules, error) {
	next := *r
	next.Set, next.lines = maps.Clone(r.Set), maps.Clone(r.lines)
	for name, l := range changes {
		if _, ok := definition(name); !ok {
			return nil, errNoSuchLimit(name)
		}
		if err := l.Check(); err != nil {
			return nil, fmt.Errorf("limit %s: %w", name, err)
		}
		next.Set[name] = l
		delete(next.lines, name)
	}
	return &next, nil
}

// For is the limit of that name for somebody.
func (r *Rules) For(name string, w Who) Limit {
	if o := r.overrides[name]; o != nil {
		if found := o.find(w); found != nil {
			return found.limit
		}
	}
	return r.Set[name]
}

// find does not allocate: it is on the path of every frame.
func (o *overrides) find(w Who) *override {
	if found := o.accounts[w.Account]; found != nil {
		return found
	}
	if found := o.issuers[w.Issuer]; found != nil {
		return found
	}
	for _, n := range o.networks {
		if n.network.Contains(w.Addr) {
			return n
		}
	}
	return nil
}

// Source says where a limit comes from.
type Source struct {
	// Line of the file; 0: not from a file.
	Line int
	// Override says for whom it was made, "" for everybody.
	Override string
}

// Explain is For with the reason.
func (r *Rules) Explain(name string, w Who) (Limit, Source) {
	var found *override
	if o := r.overrides[name]; o != nil {
		found = o.find(w)
	}
	if found == nil {
		return r.Set[name], Source{Line: r.lines[name]}
	}
	return found.limit, Source{Line: found.line, Override: found.String()}
}

// all lists the overrides, accounts first, each kind in the order of the file.
func (o *overrides) all() []*override {
	byLine := func(a, b *override) int {
		return cmp.Or(a.line-b.line, cmp.Compare(a.String(), b.String()))
	}
	list := slices.SortedFunc(maps.Values(o.accounts), byLine)
	list = append(list, slices.SortedFunc(maps.Values(o.issuers), byLine)...)
	return append(list, o.networks...)
}

// add adds an override, or returns the one that names the same already.
func (o *overrides) add(f *override) (before *override) {
	switch {
	case f.subject != "":
		account := ticket.Account{Issuer: f.issuer, Subject: f.subject}.Hash()
		if before = o.accounts[account]; before == nil {
			o.accounts[account] = f
		}
	case f.issuer != "":
		if before = o.issuers[f.issuer]; before == nil {
			o.issuers[f.issuer] = f
		}
	default:
		for _, n := range o.networks {
			if n.network == f.network {
				return n
			}
		}
		o.networks = append(o.networks, f)
		slices.SortStableFunc(o.networks, func(a, b *override) int { return b.network.Bits() - a.network.Bits() })
	}
	return before
}

// Overrides counts the overrides of a limit.
func (r *Rules) Overrides(name string) int {
	if o := r.overrides[name]; o != nil {
		return len(o.accounts) + len(o.issuers) + len(o.networks)
	}
	return 0
}
