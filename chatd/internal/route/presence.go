package route

import (
	"context"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

//go:embed claim.lua
var claimLua string

//go:embed leave.lua
var leaveLua string

var (
	claimScript = redis.NewScript(claimLua)
	leaveScript = redis.NewScript(leaveLua)
)

// Claim is a device's connection on its way in. It asks Redis for its epoch in
// a pipeline that goes there anyway.
type Claim struct {
	d     *Directory
	place place
	cmd   *redis.Cmd // nil: not asked
}

// Claim begins one.
func (d *Directory) Claim(a Account, dev Device) *Claim {
	return &Claim{d: d, place: place{a, dev}}
}

// Queue adds one command to the pipeline.
func (c *Claim) Queue(ctx context.Context, p redis.Pipeliner) {
	c.cmd = c.d.queueClaim(ctx, p, c.place, 0, false)
}

// Keep says that the connection was let in: this relay has the device now. The
// epoch is above that of every connection of the device that this relay knew.
// Other relays that have the device are told; what Redis could not say is asked
// again in the background.
func (c *Claim) Keep() Epoch {
	epoch, others, err := c.answer()
	if err != nil {
		epoch = c.d.newEpoch()
	}
	c.d.update(func() {
		if before := c.d.present[c.place]; before >= epoch {
			// It came here later, whatever the clocks said.
			epoch, err = before+1, errStale
		}
		c.d.present[c.place] = epoch
		delete(c.d.dirty, c.place)
		if err != nil || len(others) > 0 {
			c.d.dirty[c.place] = 0
		}
	})
	return epoch
}

// Drop says that the connection was refused.
func (c *Claim) Drop() {
	epoch, _, err := c.answer()
	c.d.update(func() {
		switch _, here := c.d.present[c.place]; {
		case here:
			c.d.dirty[c.place] = 0 // the older one goes on
		case err == nil:
			c.d.forget(c.place, epoch)
		}
	})
}

var (
	errStale    = fmt.Errorf("an older epoch than the one before")
	errNotAsked = fmt.Errorf("redis was not asked")
	errAnswer   = fmt.Errorf("not the answer of the script")
)

func (c *Claim) answer() (Epoch, []holder, error) {
	if c.cmd == nil {
		return 0, nil, errNotAsked
	}
	return parseHolders(c.cmd)
}

// Left says that the connection with this epoch has ended.
func (d *Directory) Left(a Account, dev Device, e Epoch) {
	d.update(func() {
		if p := (place{a, dev}); d.present[p] == e {
			delete(d.present, p)
			d.forget(p, e)
		}
	})
}

// forget makes the end of a connection due. Redis forgets those for which
// there is no room by itself.
func (d *Directory) forget(p place, e Epoch) {
	if _, known := d.dirty[p]; known || len(d.dirty) < len(d.present)+maxGone {
		d.dirty[p] = e
	}
}

// newEpoch is one by this relay's clock.
func (d *Directory) newEpoch() Epoch {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = max(Epoch(d.Clock.Now().UnixMicro()), d.last+1)
	return d.last
}

// holder is another relay that has the device.
type holder struct {
	relay string
	epoch Epoch
}

func (d *Directory) queueClaim(ctx context.Context, p redis.Pipeliner, at place, e Epoch, whole bool) *redis.Cmd {
	epoch, now := "", ""
	if e != 0 {
		epoch = strconv.FormatInt(int64(e), 10)
	}
	if d.now != nil {
		now = strconv.FormatInt(d.now(), 10)
	}
	return run(ctx, p, claimScript, whole, presenceKey(at.account),
		d.self, hex.EncodeToString(at.device[:]), epoch, keep.Milliseconds(), now)
}

func (d *Directory) queueLeave(ctx context.Context, p redis.Pipeliner, at place, e Epoch, whole bool) *redis.Cmd {
	return run(ctx, p, leaveScript, whole, presenceKey(at.account),
		d.self+":"+hex.EncodeToString(at.device[:]), strconv.FormatInt(int64(e), 10))
}

// run queues a script by its hash, or whole for a Redis that does not know it
// yet.
func run(ctx context.Context, p redis.Pipeliner, s *redis.Script, whole bool, key string, args ...any) *redis.Cmd {
	if whole {
		return s.Eval(ctx, p, []string{key}, args...)
	}
	return s.EvalSha(ctx, p, []string{key}, args...)
}

// parseHolders reads the answer of claim.lua.
func parseHolders(cmd *redis.Cmd) (Epoch, []holder, error) {
	all, err := cmd.StringSlice()
	if err != nil {
		return 0, nil, err
	}
	if len(all)%2 == 0 {
		return 0, nil, errAnswer
	}
	e, err := strconv.ParseInt(all[0], 10, 64)
	if err != nil || e <= 0 {
		return 0, nil, errAnswer
	}
	var others []holder
	for i := 1; i < len(all); i += 2 {
		other, err := strconv.ParseInt(all[i+1], 10, 64)
		if err != nil {
			return 0, nil, errAnswer
		}
		others = append(others, holder{all[i], Epoch(other)})
	}
	return Epoch(e), others, nil
}
