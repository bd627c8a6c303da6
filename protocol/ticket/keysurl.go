package ticket

import (
	"context"
	"crypto"
	"sync"
	"time"
)

const (
	// refreshEvery is the shortest time between two fetches of one JWK set:
	// strangers can name unknown kids as fast as they like.
	refreshEvery = time.Minute
	// refreshAge is when a JWK set is fetched again although every kid was
	// found, so that a key that the issuer withdrew stops working.
	refreshAge = 10 * time.Minute
	// fetchTimeout bounds one fetch.
	fetchTimeout = 5 * time.Second
)

// urlKeys is a JWK set behind a URL, fetched when first needed. A failed
// refresh keeps the old keys, for as long as it fails: an issuer's outage
// locks nobody out.
type urlKeys struct {
	url    string
	fetch  FetchFunc
	report func(error) // never nil

	mu       sync.Mutex
	set      *keySet       // nil until a fetch succeeded
	loaded   time.Time     // when set was fetched
	tried    time.Time     // when the last fetch began
	inFlight chan struct{} // closed when the fetch under way has ended
}

func (u *urlKeys) key(ctx context.Context, kid string, now time.Time) (crypto.PublicKey, error) {
	if key, fresh := u.lookup(kid, now); key != nil {
		if !fresh {
			u.refresh(now) // nobody waits for it
		}
		return key, nil
	}
	done := u.refresh(now)
	if done != nil {
		select {
		case <-done:
		case <-ctx.Done():
			return nil, ErrUnavailable
		}
	}
	key, _ := u.lookup(kid, now)
	if key != nil {
		return key, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.set == nil {
		return nil, ErrUnavailable
	}
	return nil, ErrKey
}

func (u *urlKeys) lookup(kid string, now time.Time) (key crypto.PublicKey, fresh bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.set == nil {
		return nil, false
	}
	return u.set.find(kid), now.Sub(u.loaded) < refreshAge
}

// refresh joins the fetch under way, or starts one if the last began long
// enough ago; else it returns nil. The fetch outlives the caller that started
// it: others wait for it too.
func (u *urlKeys) refresh(now time.Time) <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.inFlight != nil {
		return u.inFlight
	}
	if since := now.Sub(u.tried); !u.tried.IsZero() && since >= 0 && since < refreshEvery {
		return nil
	}
	u.tried = now
	done := make(chan struct{})
	u.inFlight = done
	go u.load(now, done)
	return done
}

func (u *urlKeys) load(now time.Time, done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	var set *keySet
	b, err := u.fetch(ctx, u.url)
	if err == nil && len(b) > MaxJWKS {
		err = errTooLarge
	}
	if err == nil {
		set, err = parseJWKS(b)
	}
	if err != nil {
		u.report(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		u.set, u.loaded = set, now
	}
	u.inFlight = nil
	close(done)
}

// reload does nothing: a URL has no file to read again, and refreshing it on
// demand would step around refreshEvery.
func (u *urlKeys) reload() error { return nil }
