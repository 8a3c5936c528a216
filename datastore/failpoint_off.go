//go:build !failpoint

package datastore

// Failpoint does nothing in a program built without the tag failpoint.
func Failpoint(string) {}

func failpoint(string) {}
