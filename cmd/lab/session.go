package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
)

// session is the part of testing.TB that the household uses, outside a test:
// a failure ends the session, clean-ups run in reverse.
type session struct {
	testing.TB // nil; what is not below is not used
	ctx        context.Context
	cleanups   []func()
	failure    error
}

// failed is thrown by Fatal and caught by open.
type failed struct{}

// open runs f with a session and cleans up after it, whatever happened.
func open(f func(*session)) error {
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{ctx: ctx}
	defer cancel()
	func() {
		defer func() {
			if p := recover(); p != nil && p != (failed{}) {
				s.failure = fmt.Errorf("panic: %v", p)
			}
		}()
		f(s)
	}()
	for _, c := range slices.Backward(s.cleanups) {
		func() {
			defer func() {
				if p := recover(); p != nil && p != (failed{}) {
					s.failure = errors.Join(s.failure, fmt.Errorf("cleaning up: %v", p))
				}
			}()
			c()
		}()
	}
	return s.failure
}

func (s *session) fail(text string) {
	s.failure = errors.Join(s.failure, errors.New(text))
	panic(failed{})
}

func (s *session) Name() string              { return "lab" }
func (s *session) Helper()                   {}
func (s *session) Context() context.Context  { return s.ctx }
func (s *session) Failed() bool              { return s.failure != nil }
func (s *session) Cleanup(f func())          { s.cleanups = append(s.cleanups, f) }
func (s *session) Log(a ...any)              { fmt.Fprintln(os.Stderr, a...) }
func (s *session) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (s *session) Fatal(a ...any)            { s.fail(fmt.Sprint(a...)) }
func (s *session) Fatalf(f string, a ...any) { s.fail(fmt.Sprintf(f, a...)) }
func (s *session) Skipf(f string, a ...any)  { s.fail(fmt.Sprintf(f, a...)) }
