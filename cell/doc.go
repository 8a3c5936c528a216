// Package cell is the model: one immutable value that says what a person wants
// of their cell, the rules it must satisfy, and the numbers derived from it.
//
// It owns nothing in the world: no file, socket, clock or random source. The
// other packages compile a [State] and [Facts] into plans and settle those.
//
// It must never import anything but the standard library, never do I/O, and
// never hold a secret value: secrets appear as a [SecretRef] only.
package cell
