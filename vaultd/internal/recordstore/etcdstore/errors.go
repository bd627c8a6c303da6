package etcdstore

import (
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Errors of this store, beside those of recordstore.
var (
	// ErrNoStore says that there is no record store under the prefix, and that
	// Open was not told to create one. A mistyped prefix or the wrong cluster
	// must not pass for a store in which nobody is registered.
	ErrNoStore = errors.New("no record store under this prefix")

	// ErrFormat says that under the prefix there is something else than a record
	// store of this version, or what nobody wrote through this package.
	ErrFormat = errors.New("not a record store of this version")

	// ErrOtherStore says that the cluster answers, but no longer holds the store
	// that was opened: it was emptied, or replaced by another.
	ErrOtherStore = errors.New("the cluster no longer holds this record store")

	// ErrUnavailable says that no member answered in time, or that the cluster
	// has no majority.
	ErrUnavailable = errors.New("etcd did not answer in time")

	// ErrNoSpace says that the cluster's quota is used up: it takes no swap until
	// somebody compacts, defragments and disarms its alarm.
	ErrNoSpace = errors.New("etcd's quota is used up")
)

// refusals are errors with which a member says that it has not applied the
// transaction and will not: it checks them before it proposes, or every member
// finds them in the same way when it applies (etcd 3.7.3: v3rpc/interceptor.go,
// v3_server.go processInternalRaftRequestOnce, apply/auth.go).
//
// ErrNoSpace is not among them: apply/quota.go applies a transaction that the quota
// has no room for, and then returns that error.
var refusals = []error{
	// Another member, a moment or a new token later it may go better.
	rpctypes.ErrNoLeader, rpctypes.ErrNotCapable, rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner),
	rpctypes.ErrTooManyRequests, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision, rpctypes.ErrUserEmpty,
	// It will not.
	rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrRequestTooLarge,
}

// lasting are those refusals that no other member and no new attempt changes.
var lasting = refusals[len(refusals)-3:]

func isAny(err error, list []error) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func refused(err error) bool { return isAny(err, refusals) }

// hopeless is what no retry of a read changes either.
func hopeless(err error) bool {
	return isAny(err, lasting) || errors.Is(err, rpctypes.ErrCorrupt) || errors.Is(err, errNotSendable)
}

// errNotSendable: the files of TLS or the password cannot be used.
var errNotSendable = errors.New("cannot make a client")
