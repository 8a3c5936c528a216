//go:build !failpoint

package lifecycle

// Fault marks a place where tests of the whole program have it panic. It does
// nothing in a program that was not built with the tag failpoint.
func Fault(string) {}
