// Package auth says who is asking and what they may do: passwords, sessions,
// roles, the setup code, backoff, and the guards in front of every request.
//
// It owns the sessions and the counters of failed tries (history, kept through
// an injected [Store]) and the setup code (memory only); users and password
// hashes belong to the state and its secrets.
//
// It must never fail open: what it can't read, parse or find is a refusal.
package auth
