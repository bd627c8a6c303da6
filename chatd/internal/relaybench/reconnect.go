//go:build linux

package main

import (
	"context"
	"fmt"
	"os"

	"chatvault/docker/goals"
)

// reconnects measures a storm: two chatds with TLS, each with half of the phones,
// each phone with a vault session. One chatd is killed; its phones come back at
// the other, all at once, attach their sessions and repeat what they sent last.
func reconnects(w *world, p plan) []*goals.Row {
	half := p.phones / 2
	rows := []*goals.Row{
		{Name: fmt.Sprintf("reconnect storm, %d + %d with TLS, last one back", half, half), Unit: "s", Goal: 30, Each: true},
		{Name: "reconnect storm, phones that did not come back", Goal: 0, Each: true},
		{Name: "reconnect storm, charges: work of the vault", Goal: 0, Each: true, Note: "new sessions or sequence numbers"},
	}
	plan := p.Plan
	plan.Repetitions = p.storms
	goals.Measure(w.ctx, plan, os.Stderr, rows, func(context.Context, int) ([]goals.Repetition, error) {
		s := &stage{world: w}
		defer s.end()
		dies, err := s.enter(s.startChatd(chatdOptions{tls: true}))
		if err != nil {
			return nil, err
		}
		lives, err := s.enter(s.startChatd(chatdOptions{tls: true}))
		if err != nil {
			return nil, err
		}
		if err := all(s.connect(dies, 0, half, "open"), s.connect(lives, half, half, "open")); err != nil {
			return nil, err
		}
		if _, err := dies.clients.ask(w.ctx, order{Do: "survive", Addr: lives.addr, Kind: lives.kind, TLS: true}); err != nil {
			return nil, err
		}
		before, err := w.vault.ask(w.ctx, order{Do: "say"})
		if err != nil {
			return nil, err
		}
		dies.kill()
		a, err := dies.clients.ask(w.ctx, order{Do: "back", Seconds: 90})
		if err != nil {
			return nil, err
		}
		after, err := w.vault.ask(w.ctx, order{Do: "say"})
		if err != nil {
			return nil, err
		}
		return []goals.Repetition{
			{Value: a.Seconds, More: map[string]float64{"retries": float64(a.Retries)}},
			{Value: float64(half - a.Back)},
			{Value: float64(after.Work - before.Work)},
		}, nil
	})
	return rows
}
