package etcdstore

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Usage is how full one member is, in bytes.
type Usage struct {
	Endpoint string
	Size     int64 // of its database file: what the quota is about
	InUse    int64 // what would be left of it after a defragmentation
	Quota    int64
}

// Ratio of size and quota.
func (u Usage) Ratio() float64 { return float64(u.Size) / float64(u.Quota) }

const (
	usageWarning  = 0.8
	usageInterval = time.Minute
	fullInterval  = 5 * time.Second // while the cluster takes no swaps

	// defaultQuota is etcd's own; members before 3.6 do not say theirs.
	defaultQuota = 2 << 30
)

// usageWatch is what the goroutine that watches the quota needs.
type usageWatch struct {
	tell     func(Usage)
	interval time.Duration
	ask      chan struct{}  // somebody wants to know now
	warned   map[string]int // by endpoint: at how many percent
}

func (w *usageWatch) init(o Options) {
	w.tell, w.interval = o.OnUsage, o.UsageInterval
	if w.interval <= 0 {
		w.interval = usageInterval
	}
	w.ask, w.warned = make(chan struct{}, 1), make(map[string]int)
}

// askNow has the watch look at once, if a swap failed for want of space. That swap
// may have been applied all the same; see refusals. Those to come are refused
// unsent.
func (w *usageWatch) askNow(err error) {
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		return
	}
	select {
	case w.ask <- struct{}{}:
	default: // it will look anyway
	}
}

func (s *Store) watchUsage() {
	for {
		s.checkUsage()
		wait := s.usage.interval
		if s.full.Load() {
			wait = min(wait, fullInterval)
		}
		select {
		case <-time.After(wait):
		case <-s.usage.ask:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Store) checkUsage() {
	for _, m := range s.members {
		s.checkMember(m)
	}
	for _, m := range s.byTrust() {
		if full, err := s.alarmed(m); err == nil {
			if s.full.Swap(full) != full {
				s.log.Error("etcd's quota", "used_up", full)
			}
			return
		}
	}
}

// checkMember reads how full a member is. One that does not answer is not
// mentioned: swaps tell of it.
func (s *Store) checkMember(m *member) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout/3)
	defer cancel()
	l, err := m.get(ctx, time.Now().Add(s.timeout))
	if err != nil {
		return
	}
	status, err := pb.NewMaintenanceClient(l.conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return
	}
	u := Usage{Endpoint: m.endpoint, Size: status.DbSize, InUse: status.DbSizeInUse, Quota: status.DbSizeQuota}
	if u.Quota <= 0 {
		u.Quota = defaultQuota
	}
	if s.usage.tell != nil {
		s.usage.tell(u)
	}
	percent := int(100 * u.Ratio())
	switch {
	case u.Ratio() < usageWarning:
		delete(s.usage.warned, u.Endpoint)
	case percent != s.usage.warned[u.Endpoint]:
		s.usage.warned[u.Endpoint] = percent
		s.log.Warn("etcd fills up: when its quota is used up nobody can register or recover",
			"member", u.Endpoint, "percent", percent, "size", u.Size, "in_use", u.InUse, "quota", u.Quota)
	}
}

// alarmed asks the cluster whether any member's quota is used up.
func (s *Store) alarmed(m *member) (bool, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout/3)
	defer cancel()
	l, err := m.get(ctx, time.Now().Add(s.timeout))
	if err != nil {
		return false, err
	}
	alarms, err := pb.NewMaintenanceClient(l.conn).Alarm(ctx, &pb.AlarmRequest{
		Action: pb.AlarmRequest_GET, Alarm: pb.AlarmType_NOSPACE,
	})
	if err != nil {
		return false, err
	}
	return len(alarms.Alarms) > 0, nil
}
