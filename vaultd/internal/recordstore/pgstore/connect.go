package pgstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"chatvault/protocol/cmdline"
	"chatvault/vaultd/internal/recordstore"
)

const (
	connectTimeout = 3 * time.Second
	connLifetime   = 30 * time.Minute // after which the server's settings are looked at again
	connIdle       = 5 * time.Minute
	pingTimeout    = time.Second
)

// connState is what a connection remembers.
type connState struct {
	connected atomic.Bool
	warning   atomic.Pointer[string]
}

// stateKey is where a connection's custom data has its connState.
const stateKey = "chatvault"

func stateOf(c *pgxpool.Conn) *connState {
	return c.Conn().PgConn().CustomData()[stateKey].(*connState)
}

// expectNothing forgets warnings that are over.
func (c *connState) expectNothing() { c.warning.Store(nil) }

// warned is the last warning since expectNothing, as an error.
func (c *connState) warned() error {
	if w := c.warning.Load(); w != nil {
		return fmt.Errorf("PostgreSQL warned: %s", *w)
	}
	return nil
}

// notice keeps whatever the server says unasked, unless it is plainly harmless.
func (c *connState) notice(_ *pgconn.PgConn, n *pgconn.Notice) {
	switch n.SeverityUnlocalized {
	case "NOTICE", "INFO", "LOG", "DEBUG":
		return
	}
	text := n.Code + " " + n.Message
	c.warning.Store(&text)
}

var errCancelRequest = errors.New("no cancel requests: they would end the wait for the standbys")

var dialer = net.Dialer{
	Timeout:         connectTimeout,
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
}

// dial connects. Once the connection stands pgx would dial for one thing only, a
// cancel request, which it makes of every context that ends and every read that
// fails. A commit that waits for its standbys would thereby become visible without
// them, to be undone by the next failover.
func (c *connState) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.connected.Load() {
		return nil, errCancelRequest
	}
	return dialer.DialContext(ctx, network, addr)
}

// poolConfig makes the configuration of all connections. Nothing of it comes from
// the PG… variables of the environment.
func (s *Store) poolConfig(o Options) (*pgxpool.Config, error) {
	if err := o.TLS.Check(o.Endpoints); err != nil {
		return nil, err
	}
	// pgx wants its configurations parsed. All of this is overwritten below.
	c, err := pgxpool.ParseConfig("host=localhost port=1 user=x password=x dbname=x sslmode=disable")
	if err != nil {
		return nil, err
	}
	c.MaxConns, c.MinConns = int32(o.Conns), 0
	if o.Conns <= 0 {
		c.MaxConns = defaultConns
	}
	c.MaxConnLifetime, c.MaxConnIdleTime, c.PingTimeout = connLifetime, connIdle, pingTimeout
	c.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) error { return aim(cc, o) }
	c.AfterConnect = s.prove

	cc := c.ConnConfig
	cc.User, cc.Database = o.User, o.Database
	cc.ConnectTimeout = connectTimeout
	cc.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	cc.RuntimeParams = map[string]string{
		"application_name": "vaultd",
		// Roles and databases can have defaults of their own for these.
		"client_min_messages":                 "warning", // less would hide that a commit did not wait
		"default_transaction_isolation":       "read committed",
		"statement_timeout":                   strconv.FormatInt(s.timeout.Milliseconds(), 10),
		"lock_timeout":                        "0",
		"idle_in_transaction_session_timeout": strconv.FormatInt(s.timeout.Milliseconds(), 10),
	}
	return c, nil
}

// aim gives a connection that is about to be made its addresses, TLS, password and
// state.
func aim(cc *pgx.ConnConfig, o Options) error {
	cc.Fallbacks = nil
	for i, e := range o.Endpoints {
		host, port, err := net.SplitHostPort(e)
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return err
		}
		t, err := o.TLS.Config(host)
		if err != nil {
			return fmt.Errorf("%w: %w", errFiles, err)
		}
		if i == 0 {
			cc.Host, cc.Port, cc.TLSConfig = host, uint16(n), t
			continue
		}
		cc.Fallbacks = append(cc.Fallbacks, &pgconn.FallbackConfig{Host: host, Port: uint16(n), TLSConfig: t})
	}
	cc.Password = ""
	if o.PasswordFile != "" {
		password, err := cmdline.ReadSecretFile(o.PasswordFile)
		if err != nil {
			return fmt.Errorf("%w: %w", errFiles, err)
		}
		cc.Password = string(password)
	}
	state := &connState{}
	cc.DialFunc, cc.OnNotice = state.dial, state.notice
	cc.AfterConnect = func(_ context.Context, pc *pgconn.PgConn) error {
		pc.CustomData()[stateKey] = state
		state.connected.Store(true)
		return nil
	}
	return nil
}

// prove checks a new connection before it is used: the server's settings, and, by a
// barrier, that what it shows is durable. See the package comment.
func (s *Store) prove(ctx context.Context, c *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var commit, fsync string
	// What the server, the database or the role say is checked, and from then on
	// it is the session's own: a reload does not change it.
	err := c.QueryRow(ctx, `SELECT set_config('synchronous_commit', current_setting('synchronous_commit'), false),
		current_setting('fsync')`).Scan(&commit, &fsync)
	switch {
	case err != nil:
		return fmt.Errorf("reading settings: %w", err)
	case commit != "on" && commit != "remote_apply":
		return fmt.Errorf("%w: synchronous_commit is %s; on or remote_apply is needed", ErrUnsafe, commit)
	case fsync != "on":
		return fmt.Errorf("%w: fsync is %s", ErrUnsafe, fsync)
	}
	state := c.PgConn().CustomData()[stateKey].(*connState)
	state.expectNothing()
	var id []byte
	err = c.QueryRow(ctx, s.sql.barrier).Scan(&id)
	if warning := state.warned(); warning != nil {
		return fmt.Errorf("barrier: %w", warning)
	}
	known := s.id.Load()
	switch {
	case known == nil && (errors.Is(err, pgx.ErrNoRows) || hasState(err, stateNoTable, stateNoSchema)):
		return nil // Open looks into it; where there is no store, nothing can be shown
	case errors.Is(err, pgx.ErrNoRows), hasState(err, stateNoTable, stateNoSchema):
		return ErrOtherStore
	case err != nil:
		return fmt.Errorf("barrier: %w", err)
	case known != nil && recordstore.StoreID(id) != *known:
		return ErrOtherStore
	}
	return nil
}
