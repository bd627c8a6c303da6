package route

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"

	"chatvault/protocol/frame"
)

// telling is one pipeline, and a second one for what follows from its answers.
type telling struct {
	d      *Directory
	beat   bool
	nodes  []nodeAt
	places []told
	rings  map[Account]ring

	mark *redis.StatusCmd // the mark that stood there
	self *redis.IntCmd    // how many hear this relay's channel
	says []said           // what follows
}

type nodeAt struct {
	node frame.NodeID
	addr string
}

// told is a connection that came or went.
type told struct {
	place   place
	epoch   Epoch
	present bool
	cmd     *redis.Cmd
}

// said is a message to other relays, and what to do when none of them got it.
type said struct {
	message message
	to      []string
	unheard func()
	cmds    []*redis.IntCmd
}

func (t *telling) empty() bool {
	return !t.beat && len(t.nodes)+len(t.places)+len(t.rings) == 0
}

// exec tells. What fails of presence is due again; the first error that
// matters is returned.
func (t *telling) exec(ctx context.Context, heard Heard) error {
	pipe := t.d.Client.Pipeline()
	if t.beat {
		t.mark = pipe.SetArgs(ctx, relayKey(t.d.self), "", redis.SetArgs{TTL: nodeKeep, Get: true})
		t.self = t.d.publish(ctx, pipe, t.d.self, "")
	}
	var errs []error
	for _, n := range t.nodes {
		pipe.Set(ctx, nodeKey(n.node), n.addr, nodeKeep)
	}
	t.queuePlaces(ctx, pipe, false)
	where := map[Account]*redis.MapStringStringCmd{}
	for a := range t.rings {
		where[a] = pipe.HGetAll(ctx, presenceKey(a))
	}
	cmds, _ := pipe.Exec(ctx) // each command has its own error
	errs = append(errs, failures(cmds)...)
	errs = append(errs, t.again(ctx)...)
	t.settlePlaces(heard)
	for a, r := range t.rings {
		t.findRelays(a, r, where[a])
	}
	errs = append(errs, t.say(ctx)...)
	t.settleBeat()
	return errors.Join(errs...)
}

// failures are the errors by which Redis did not do as told.
func failures(cmds []redis.Cmder) (errs []error) {
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil && err != redis.Nil && !unknownScript(err) {
			return []error{err} // the others will be the same
		}
	}
	return nil
}

func unknownScript(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }

func (t *telling) queuePlaces(ctx context.Context, pipe redis.Pipeliner, whole bool) {
	for i := range t.places {
		p := &t.places[i]
		if whole && !unknownScript(p.cmd.Err()) {
			continue
		}
		if p.present {
			p.cmd = t.d.queueClaim(ctx, pipe, p.place, p.epoch, whole)
		} else {
			p.cmd = t.d.queueLeave(ctx, pipe, p.place, p.epoch, whole)
		}
	}
}

// again sends scripts whole to a Redis that did not know them.
func (t *telling) again(ctx context.Context) []error {
	pipe := t.d.Client.Pipeline()
	t.queuePlaces(ctx, pipe, true)
	if pipe.Len() == 0 {
		return nil
	}
	cmds, _ := pipe.Exec(ctx)
	return failures(cmds)
}

// settlePlaces makes due again what failed, and has the older of two
// connections of a device replaced, wherever it is.
func (t *telling) settlePlaces(heard Heard) {
	for _, p := range t.places {
		if p.cmd.Err() != nil {
			t.d.mu.Lock()
			if _, newer := t.d.dirty[p.place]; !newer {
				t.d.forget(p.place, p.epoch)
			}
			t.d.mu.Unlock()
			continue
		}
		if !p.present {
			continue
		}
		_, others, err := parseHolders(p.cmd)
		if err != nil {
			continue // forged
		}
		for _, o := range others {
			if o.epoch > p.epoch {
				heard.Replace(p.place.account, p.place.device, o.epoch)
			} else {
				m := message{p.place.account, p.place.device, p.epoch}
				t.says = append(t.says, said{message: m, to: []string{o.relay}})
			}
		}
	}
}

// findRelays says which relays are to ring.
func (t *telling) findRelays(a Account, r ring, where *redis.MapStringStringCmd) {
	now := t.d.Clock.Now().UnixMilli()
	to, seen := []string(nil), map[string]bool{t.d.self: true}
	for field, value := range where.Val() {
		relay, dev, lapses, ok := parseField(field, value)
		if ok && lapses > now && dev != r.from && !seen[relay] && len(to) < maxRelays {
			seen[relay] = true
			to = append(to, relay)
		}
	}
	t.says = append(t.says, said{message: message{account: a}, to: to, unheard: r.unheard})
}

// say publishes. A notice that reached no relay was not heard.
func (t *telling) say(ctx context.Context) []error {
	pipe := t.d.Client.Pipeline()
	for i := range t.says {
		s := &t.says[i]
		for _, relay := range s.to {
			s.cmds = append(s.cmds, t.d.publish(ctx, pipe, relay, s.message.encode()))
		}
	}
	var cmds []redis.Cmder
	if pipe.Len() > 0 {
		cmds, _ = pipe.Exec(ctx)
	}
	for _, s := range t.says {
		got := false
		for _, cmd := range s.cmds {
			got = got || cmd.Val() > 0
		}
		switch {
		case s.message.epoch != 0:
		case got:
			t.d.Count("notice_sent")
		case s.unheard != nil:
			t.d.Count("notice_unheard")
			s.unheard()
		}
	}
	return failures(cmds)
}

// publish says something on a relay's channel. On a cluster its channel is a
// sharded one: a plain one would go to every node of the cluster, and its
// answer would not count those who hear it at other nodes.
func (d *Directory) publish(ctx context.Context, pipe redis.Pipeliner, relay, text string) *redis.IntCmd {
	if d.sharded {
		return pipe.SPublish(ctx, relayChannel(relay), text)
	}
	return pipe.Publish(ctx, relayChannel(relay), text)
}

// settleBeat looks whether Redis still knew this relay, and whether this relay
// still hears.
func (t *telling) settleBeat() {
	if !t.beat {
		return
	}
	d := t.d
	missing := t.mark.Err() == redis.Nil
	d.mu.Lock()
	before := d.marked
	d.marked = before || missing || t.mark.Err() == nil
	d.mu.Unlock()
	if !before {
		return // the first one: the subscription may be on its way
	}
	if missing {
		d.Count("redis_flushed")
		d.repeat()
	}
	if t.self.Err() == nil && t.self.Val() == 0 {
		select {
		case d.deaf <- struct{}{}:
		default:
		}
	}
}
