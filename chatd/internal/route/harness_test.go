package route

import (
	"context"
	"crypto/sha256"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/count"
)

func TestMain(m *testing.M) {
	code := m.Run()
	chatdtest.StopRedises()
	os.Exit(code)
}

var (
	alice  = Account(sha256.Sum256([]byte("alice")))
	phone  = Device{1}
	tablet = Device{2}
)

// relay is one relay's Directory, running.
type relay struct {
	*Directory
	rung     chan Account
	replaced chan message
	changes  chan error
	counts   *count.Set
	stop     func()
}

// wait is longer than a busy machine keeps Redis from answering. By a fake clock a
// Redis that was slow once would rest for ever.
const wait = 5 * time.Second

func newDirectory(client redis.UniversalClient, c clock.Clock) relay {
	r := relay{rung: make(chan Account, 1024), replaced: make(chan message, 16), changes: make(chan error, 16), counts: new(count.Set)}
	r.Directory = New(Options{Client: client, Clock: c, Change: func(err error) { r.changes <- err }, Count: r.counts.Add, Wait: wait})
	if fake, ok := c.(*clock.Fake); ok {
		r.now = func() int64 { return fake.Now().UnixMicro() }
	}
	return r
}

func start(t *testing.T, client redis.UniversalClient, c clock.Clock) relay {
	t.Helper()
	r := newDirectory(client, c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx, Heard{
			Ring:    func(a Account) { r.rung <- a },
			Replace: func(a Account, dev Device, e Epoch) { r.replaced <- message{a, dev, e} },
		})
	}()
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(r.stop)
	return r
}

// connect lets a device in, as a relay does: one pipeline.
func (r relay) connect(t *testing.T, a Account, dev Device) Epoch {
	t.Helper()
	c := r.Claim(a, dev)
	if !r.resting() {
		pipe := r.Client.Pipeline()
		c.Queue(t.Context(), pipe)
		pipe.Exec(t.Context())
	}
	return c.Keep()
}

// settled tells Redis what a relay that does not run has to tell.
func (r relay) settled(t *testing.T) {
	t.Helper()
	if !r.tell(t.Context(), Heard{}) {
		t.Fatal(<-r.changes)
	}
}

// enter connects, and waits until Redis knows.
func (r relay) enter(t *testing.T, a Account, dev Device) Epoch {
	t.Helper()
	e := r.connect(t, a, dev)
	chatdtest.Await(t, "Redis knows", func() bool { return r.known(t, a, dev) })
	return e
}

func (r relay) known(t *testing.T, a Account, dev Device) bool {
	t.Helper()
	for field := range presence(t, r.Client, a) {
		if relay, d, _, ok := parseField(field, "1:1"); ok && relay == r.self && d == dev {
			return true
		}
	}
	return false
}

func presence(t *testing.T, c redis.UniversalClient, a Account) map[string]string {
	t.Helper()
	all, err := c.HGetAll(t.Context(), presenceKey(a)).Result()
	if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
		t.Fatal(err)
	}
	return all
}

func (r relay) quiet(t *testing.T) {
	t.Helper()
	if len(r.rung)+len(r.replaced) != 0 {
		t.Errorf("%d notices, %d replacements that nobody asked for", len(r.rung), len(r.replaced))
	}
}

var epoch0 = time.Unix(1_700_000_000, 0)

// onAll runs a suite over every kind of Redis, each relay on the same fake
// clock.
func onAll(t *testing.T, suite func(t *testing.T, c redis.UniversalClient, fake *clock.Fake)) {
	for name, connect := range chatdtest.Redises {
		t.Run(name, func(t *testing.T) { suite(t, connect(t), clock.NewFake(epoch0)) })
	}
}

// listening waits until every relay hears its channel.
func listening(t *testing.T, relays ...relay) {
	t.Helper()
	for _, r := range relays {
		chatdtest.Await(t, "every relay listens", func() bool {
			pipe := r.Client.Pipeline()
			n := r.publish(t.Context(), pipe, r.self, "")
			pipe.Exec(t.Context())
			return n.Val() == 1
		})
	}
}

// beats lets the time to the next beat pass, once the one relay that runs on the
// clock waits for it: else it falls behind on a busy machine.
func beats(fake *clock.Fake) {
	if fake.Pending() > 0 {
		fake.Advance(beat)
	}
}
