// Package certs gives every host name and local address of the cell a TLS
// certificate: self-signed before the claim, from the cell's own authority
// after it.
//
// It owns the certificate folder of the state directory, the leaf keys in it,
// and the certmagic cache that serves and renews them.
//
// It must never sign a name outside the authority's name constraints or one
// that the plan does not ask for, never serve a certificate of one name to a
// client that asked for another, and never hold the root's key.
package certs
