package uplink

import (
	"testing"
	"time"
)

func TestStrangersDoNotFillTheLog(t *testing.T) {
	var s seldom
	now := time.Unix(1_700_000_000, 0)
	said := func(tries int) (lines, unsaid int) {
		for range tries {
			if n, ok := s.say(now); ok {
				lines, unsaid = lines+1, unsaid+n
			}
		}
		return lines, unsaid
	}
	if lines, _ := said(1000); lines != sayAtOnce {
		t.Errorf("%d lines at once", lines)
	}
	now = now.Add(sayEvery)
	if lines, unsaid := said(1000); lines != 1 || unsaid != 1000-sayAtOnce {
		t.Errorf("%d lines, %d unsaid", lines, unsaid)
	}
	now = now.Add(time.Hour)
	if lines, unsaid := said(1000); lines != sayAtOnce || unsaid != 999 {
		t.Errorf("%d lines, %d unsaid after an hour", lines, unsaid)
	}
}
