package route

import (
	"context"
	"maps"
	"time"

	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/clock"
)

// Run tells Redis what changes, tells it all again from time to time, at once
// after it was flushed or was away, and acts on what other relays say, until
// ctx ends. Then it withdraws this relay's presence.
func (d *Directory) Run(ctx context.Context, heard Heard) {
	if d.Client == nil {
		return
	}
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		d.listen(ctx, heard)
	}()
	now := d.Clock.Now()
	beatAt, repeatAt := now, now.Add(refresh)
	for ctx.Err() == nil {
		if now = d.Clock.Now(); !now.Before(beatAt) {
			beatAt = now.Add(beat)
			d.update(func() { d.beats = true })
		}
		if !now.Before(repeatAt) {
			repeatAt = now.Add(refresh)
			d.repeat()
		}
		if !d.tell(context.WithoutCancel(ctx), heard) { // what was begun is finished
			beatAt = now.Add(restFor) // asks whether it is back
		}
		again, release := clock.After(d.Clock, beatAt.Sub(now))
		select {
		case <-d.wake:
		case <-again:
		case <-ctx.Done():
		}
		release()
	}
	<-listening
	d.withdraw(heard)
}

// listen subscribes, and again whenever that has ended.
func (d *Directory) listen(ctx context.Context, heard Heard) {
	for ctx.Err() == nil {
		subscribe := d.Client.Subscribe
		if d.sharded {
			subscribe = d.Client.SSubscribe
		}
		sub := subscribe(ctx, relayChannel(d.self))
		d.hear(ctx, sub, heard)
		sub.Close()
		// By the machine's clock, as all waiting for a network.
		pause := time.NewTimer(restFor / 4)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
}

// hear acts on messages until the subscription fails, or is found to be lost:
// a cluster may move a channel without a word.
func (d *Directory) hear(ctx context.Context, sub *redis.PubSub, heard Heard) {
	over, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-d.deaf:
		case <-ctx.Done():
		case <-over:
		}
		sub.Close() // only that ends Receive
	}()
	for {
		raw, err := sub.Receive(ctx)
		if err != nil {
			break
		}
		if m, ok := raw.(*redis.Message); ok {
			d.act(m.Payload, heard)
		}
	}
	close(over)
	<-stopped
}

func (d *Directory) act(payload string, heard Heard) {
	if payload == "" {
		return // this relay's own beat
	}
	m, err := parseMessage(payload)
	switch {
	case err != nil:
		d.Count("notice_malformed")
	case m.epoch != 0:
		heard.Replace(m.account, m.device, m.epoch)
	default:
		d.Count("notice_heard")
		heard.Ring(m.account)
	}
}

// repeat makes everything due again.
func (d *Directory) repeat() {
	d.update(func() {
		for p := range d.present {
			d.dirty[p] = 0
		}
		for n := range d.nodes {
			d.untold[n] = struct{}{}
		}
	})
}

// take returns a part of what Redis is to be told, bounded by batch.
func (d *Directory) take() *telling {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &telling{d: d, beat: d.beats, rings: map[Account]ring{}}
	if d.beats {
		d.beats = false
		for n := range d.nodes {
			d.untold[n] = struct{}{}
		}
	}
	for n := range d.untold {
		t.nodes = append(t.nodes, nodeAt{n, d.nodes[n]})
		delete(d.untold, n)
	}
	for p, epoch := range d.dirty {
		if len(t.places) == batch {
			break
		}
		here, present := d.present[p]
		if present {
			epoch = here
		}
		t.places = append(t.places, told{place: p, epoch: epoch, present: present})
		delete(d.dirty, p)
	}
	if len(t.places) > 0 && len(d.dirty) == 0 {
		d.dirty = map[place]Epoch{} // an emptied map keeps the room of all that was in it
	}
	for a, r := range d.rings {
		if len(t.rings) == batch {
			break
		}
		t.rings[a] = r
		delete(d.rings, a)
	}
	return t
}

// tell takes what is due and tells it, pipeline by pipeline. It returns false
// when Redis does not answer: then presence waits, and notices, which are worth
// nothing later, are given up.
func (d *Directory) tell(ctx context.Context, heard Heard) bool {
	for {
		if d.resting() {
			d.giveUpRings()
			return false
		}
		t := d.take()
		if t.empty() {
			return true
		}
		within, cancel := context.WithTimeout(ctx, d.tellFor())
		err := t.exec(within, heard)
		cancel()
		d.note(err)
	}
}

func (d *Directory) giveUpRings() {
	d.mu.Lock()
	rings := maps.Clone(d.rings)
	clear(d.rings)
	d.mu.Unlock()
	for _, r := range rings {
		d.undelivered(r.unheard)
	}
}

// withdraw removes this relay's presence.
func (d *Directory) withdraw(heard Heard) {
	d.mu.Lock()
	maps.Copy(d.dirty, d.present)
	clear(d.present)
	clear(d.untold)
	clear(d.nodes)
	d.beats = false
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	d.tell(ctx, heard)
	if !d.resting() {
		within, cancel := context.WithTimeout(ctx, d.tellFor())
		defer cancel()
		d.Client.Del(within, relayKey(d.self))
	}
}
