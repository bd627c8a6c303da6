package admission

import "fmt"

// reserve is how many descriptors are kept from clients: uplinks, Redis, files
// and connections that are on their way in or out.
const reserve = 256

// Capacity is how many client connections this process can hold: as many as
// asked for, or, for 0, as its descriptors allow.
func Capacity(asked int) (int, error) {
	return capacity(asked, descriptors())
}

func capacity(asked int, have int64) (int, error) {
	if have == 0 {
		have = 1024 + reserve
		if asked > 0 {
			return asked, nil
		}
	}
	most := (have - reserve) * 8 / 9 // see Sockets
	if int64(asked) > most || most < 1 {
		return 0, fmt.Errorf("%d connections: the limit of open files (ulimit -n) is %d, and %d are kept for other use", asked, have, reserve)
	}
	if asked > 0 {
		return asked, nil
	}
	return int(min(most, 1_000_000)), nil
}

// Sockets is how many sockets a listener may hold for so many connections: one
// more for each eight that is still shaking hands.
func Sockets(connections int) int64 { return int64(connections) + int64(connections)/8 + reserve/2 }
