package reconcile

import "github.com/personal-internet-cell/pic/datastore"

// Failpoints are the places where a program built with the tag failpoint can
// be killed (PIC_FAILPOINT=name or name:n, the n-th time): each arrow of the
// commit state machine, in the order in which they are passed, and three in
// the datastore.
func Failpoints() []string {
	return []string{
		"validated", "compiled", "secrets", "written", "settled", "startup-moved", "startup",
		"pending", "confirmed", "reverted", "pruned", "secret-removed",
	}
}

func failpoint(name string) { datastore.Failpoint(name) }
