package redisconn

import (
	"context"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"chatvault/protocol/secret"
)

// Login is a user of Redis with its password. It may change while clients use
// it: each new connection takes the one of its time, and those that live go on
// as they are, which Redis allows.
type Login struct{ now atomic.Pointer[credentials] }

type credentials struct {
	user     string
	Password secret.Bytes // exported: else fmt would print it, see secret
}

// NewLogin returns a Login. An empty user is the default one, an empty password
// none.
func NewLogin(user string, password secret.Bytes) *Login {
	l := new(Login)
	l.now.Store(&credentials{user, password})
	return l
}

// Become takes the user and password of another Login.
func (l *Login) Become(other *Login) { l.now.Store(other.now.Load()) }

// Equal says whether both are the same user with the same password.
func (l *Login) Equal(other *Login) bool {
	a, b := l.now.Load(), other.now.Load()
	return a.user == b.user && a.Password.Equal(b.Password)
}

// get is go-redis' CredentialsProvider: the password is a string only while a
// connection shows it.
func (l *Login) get() (user, password string) {
	now := l.now.Load()
	return now.user, string(now.Password)
}

// CheckLogin connects anew and returns what Redis answers when it refuses the
// Login. Any other failure is none of the Login's: nil.
func CheckLogin(ctx context.Context, o Options) error {
	client, stop := Connect(o)
	defer stop()
	if err := client.Ping(ctx).Err(); redis.IsAuthError(err) {
		return err
	}
	return nil
}
