package route

import (
	"context"
	"maps"
	"strconv"

	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

// Run tells Redis what changes, tells it all again every 30 s, and calls ring
// for every notice that another relay sends, until ctx ends. Then it withdraws
// this relay's presence.
func (d *Directory) Run(ctx context.Context, ring func(Account)) {
	if d.client == nil {
		return
	}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		d.listen(ctx, ring)
	}()
	for ctx.Err() == nil {
		again, release := clock.After(d.clock, refresh)
		for told := false; !told; {
			d.tell(context.WithoutCancel(ctx)) // what was begun is finished
			select {
			case <-d.wake:
			case <-again:
				d.repeat()
				told = true
			case <-ctx.Done():
				told = true
			}
		}
		release()
	}
	<-heard
	d.withdraw()
}

// listen subscribes; go-redis connects again by itself.
func (d *Directory) listen(ctx context.Context, ring func(Account)) {
	sub := d.client.Subscribe(ctx, noticeChannel(d.self))
	defer sub.Close()
	messages := sub.Channel()
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return
			}
			if len(m.Payload) == len(Account{}) {
				ring(Account([]byte(m.Payload)))
			}
		case <-ctx.Done():
			return
		}
	}
}

// repeat makes everything due again, so that a flushed Redis knows it within
// 30 s.
func (d *Directory) repeat() {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.Copy(d.dirty, d.present)
	for n := range d.nodes {
		d.untold[n] = struct{}{}
	}
}

// due is a part of what Redis is to be told, bounded by batch.
type due struct {
	present, absent, rings []Account
	nodes                  map[frame.NodeID]string
}

func (u due) empty() bool { return len(u.present)+len(u.absent)+len(u.rings)+len(u.nodes) == 0 }

func (d *Directory) take() due {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := due{nodes: map[frame.NodeID]string{}}
	for n := range d.untold {
		u.nodes[n] = d.nodes[n]
		delete(d.untold, n)
	}
	for a := range d.dirty {
		if len(u.present)+len(u.absent) == batch {
			break
		}
		if _, here := d.present[a]; here {
			u.present = append(u.present, a)
		} else {
			u.absent = append(u.absent, a)
		}
		delete(d.dirty, a)
	}
	for a := range d.rings {
		if len(u.rings) == batch {
			break
		}
		u.rings = append(u.rings, a)
		delete(d.rings, a)
	}
	return u
}

// tell takes what is due and tells it, pipeline by pipeline. What fails is not
// kept: presence and nodes are told again within 30 s, and a late doorbell is
// worth nothing.
func (d *Directory) tell(ctx context.Context) {
	for u := d.take(); !u.empty(); u = d.take() {
		if !d.resting() {
			d.note(d.tellPart(ctx, u))
		}
	}
}

func (d *Directory) tellPart(ctx context.Context, u due) error {
	ctx, cancel := context.WithTimeout(ctx, tellFor)
	defer cancel()
	now := d.clock.Now()
	lapses := float64(now.Add(keep).UnixMilli())
	pipe := d.client.Pipeline()
	for n, addr := range u.nodes {
		pipe.Set(ctx, nodeKey(n), addr, keep)
	}
	for _, a := range u.present {
		pipe.ZAdd(ctx, presenceKey(a), redis.Z{Score: lapses, Member: d.self})
		pipe.PExpire(ctx, presenceKey(a), keep)
	}
	for _, a := range u.absent {
		pipe.ZRem(ctx, presenceKey(a), d.self)
	}
	where := make([]*redis.StringSliceCmd, len(u.rings))
	for i, a := range u.rings {
		where[i] = pipe.ZRangeByScore(ctx, presenceKey(a), &redis.ZRangeBy{
			Min: strconv.FormatInt(now.UnixMilli(), 10), Max: "+inf",
		})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	return d.publish(ctx, u.rings, where)
}

func (d *Directory) publish(ctx context.Context, rings []Account, where []*redis.StringSliceCmd) error {
	pipe := d.client.Pipeline()
	for i, a := range rings {
		for _, relay := range where[i].Val() {
			if relay != d.self {
				pipe.Publish(ctx, noticeChannel(relay), string(a[:]))
			}
		}
	}
	if pipe.Len() == 0 {
		return nil
	}
	_, err := pipe.Exec(ctx)
	return err
}

// withdraw removes this relay's presence.
func (d *Directory) withdraw() {
	d.mu.Lock()
	maps.Copy(d.dirty, d.present)
	clear(d.present)
	clear(d.untold)
	d.mu.Unlock()
	d.tell(context.Background())
}
